"""A genuine OpenStack Keystone with an account, three projects and VBS in its catalog, and a VBS that asks it about
each token."""

import getpass
import grp
import http.client
import json
import math
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request

from support.process import free_ports
from support.tools import ROOT, TOOLS, tool
from support.upstream import Upstream
from support.wait import wait_for

SOURCES = ROOT / "tests/e2e/keystone"
REGION = "eu-de"


class Keystone:
    """The account `reader` has a role in `project` and in `second_project`, none in `forbidden_project` (all are IDs).
    `variables()` and `credential_variables()` are environments of a gateway that uses the account."""

    def __init__(self, folder, vbs_url, address="127.0.0.1"):
        self.folder = folder
        (port,) = free_ports(1)
        self._bind = f"{address}:{port}"
        self.url = f"http://{self._bind}/v3"
        self.process = None
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(TOOLS / "keystone"),
            "PYTHONWARNINGS": "ignore",
            "OS_KEYSTONE_CONFIG_FILES": str(folder / "keystone.conf"),
        }
        self.username, self.password = "reader", secrets.token_hex()
        self._admin_password = secrets.token_hex()
        self._configure(3600)
        self._manage("db_sync")
        for keys in ("fernet_setup", "credential_setup"):
            group = grp.getgrgid(os.getgid()).gr_name
            self._manage(keys, f"--keystone-user={getpass.getuser()}", f"--keystone-group={group}")
        endpoints = [f"--bootstrap-{interface}-url={self.url}" for interface in ("admin", "public", "internal")]
        names = [f"--bootstrap-region-id={REGION}", "--bootstrap-service-name=keystone"]
        self._manage("bootstrap", f"--bootstrap-password={self._admin_password}", *names, *endpoints)
        self.start()
        try:
            self._create_objects(vbs_url)
        except BaseException:
            self.stop()
            raise

    def _configure(self, token_lifetime):
        text = (SOURCES / "keystone.conf").read_text()
        values = {"state": self.folder, "url": self.url.removesuffix("v3"), "token_lifetime": token_lifetime}
        (self.folder / "keystone.conf").write_text(text.format(**values))

    def _manage(self, *arguments):
        config = ["--config-file", self.environment["OS_KEYSTONE_CONFIG_FILES"]]
        command = [sys.executable, tool("keystone/bin/keystone-manage"), *config, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"keystone-manage {arguments[0]}: {done.stdout}{done.stderr}"

    def start(self, token_lifetime=3600):
        """Starts it, with another lifetime of its tokens, in seconds. Tokens that were valid before are valid again."""
        self._configure(token_lifetime)
        flags = ["--worker-class=gthread", "--threads=4", "--keep-alive=30", "--graceful-timeout=1"]
        flags += ["--no-control-socket", f"--bind={self._bind}", f"--chdir={SOURCES}"]
        command = [sys.executable, "-m", "gunicorn", *flags, "wsgi:application"]
        with (self.folder / "gunicorn.log").open("wb") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            wait_for(self._answers, "Keystone answers", 90)
        except BaseException:
            self.stop()
            raise

    def _answers(self):
        # gunicorn itself survives a worker that fails at start.
        log = (self.folder / "gunicorn.log").read_text()
        assert self.process.poll() is None and "exited with code" not in log, f"Keystone does not start: {log}"
        return self.call("GET", "/", timeout=5)[0] == 200

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)

    def restart(self, token_lifetime=3600):
        self.stop()
        self.start(token_lifetime)

    def call(self, method, path, body=None, token=None, subject=None, timeout=60):
        """One request: its status, headers and document."""
        headers = {"Content-Type": "application/json", "X-Auth-Token": token, "X-Subject-Token": subject}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {k: v for k, v in headers.items() if v}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                status, headers, text = reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, headers, text = error.code, error.headers, error.read()
        is_json = headers.get_content_type() == "application/json"
        return status, headers, json.loads(text) if is_json and text else text.decode()

    def _expect(self, expected, *request, **tokens):
        status, headers, document = self.call(*request, **tokens)
        assert status == expected, f"{request}: {status} {document}"
        return headers, document

    def _login(self, name, password, scope):
        user = {"name": name, "domain": {"id": "default"}, "password": password}
        identity = {"methods": ["password"], "password": {"user": user}}
        wanted = {"auth": {"identity": identity, "scope": {"project": scope}}}
        headers, _ = self._expect(201, "POST", "/auth/tokens", wanted)
        return headers["X-Subject-Token"]

    def _admin(self):
        return self._login("admin", self._admin_password, {"name": "admin", "domain": {"id": "default"}})

    def _create_objects(self, vbs_url):
        admin = self._admin()

        def create(kind, **values):
            return self._expect(201, "POST", f"/{kind}s", {kind: values}, token=admin)[1][kind]["id"]

        self.project = create("project", name=REGION, domain_id="default")
        self.second_project = create("project", name=f"{REGION}_second", domain_id="default")
        self.forbidden_project = create("project", name=f"{REGION}_forbidden", domain_id="default")
        self._create_user(admin)
        for type_, name in (("vbs", "vbs"), ("vbsv2", "vbsv2"), ("volumev2", "evs")):
            service = create("service", type=type_, name=name)
            place = {"service_id": service, "region_id": REGION, "interface": "public"}
            create("endpoint", url=f"{vbs_url}/v2/$(project_id)s", **place)

    def _create_user(self, admin):
        """The user `username` with `password`, and a role in two projects."""
        user = {"name": self.username, "domain_id": "default", "password": self.password}
        self.user = self._expect(201, "POST", "/users", {"user": user}, token=admin)[1]["user"]["id"]
        role = self._expect(200, "GET", "/roles?name=member", token=admin)[1]["roles"][0]["id"]
        for project in (self.project, self.second_project):
            self._expect(204, "PUT", f"/projects/{project}/users/{self.user}/roles/{role}", token=admin)

    def variables(self, **changed):
        """The account by its password; a variable that is changed to None is left out."""
        account = {"OS_AUTH_URL": self.url, "OS_USERNAME": self.username, "OS_PASSWORD": self.password}
        place = {"OS_USER_DOMAIN_ID": "default", "OS_PROJECT_ID": self.project, "OS_REGION_NAME": REGION}
        return {name: value for name, value in (account | place | changed).items() if value is not None}

    def credential_variables(self, credential):
        known = {f"OS_APPLICATION_CREDENTIAL_{name.upper()}": credential[name] for name in ("id", "secret")}
        return {"OS_AUTH_URL": self.url, "OS_REGION_NAME": REGION} | known

    def token(self, project=None):
        """A new token of the account."""
        return self._login(self.username, self.password, {"id": project or self.project})

    def is_valid(self, token):
        return self.call("GET", "/auth/tokens?nocatalog=true", token=token, subject=token)[0] == 200

    def revoke(self, token):
        self._expect(204, "DELETE", "/auth/tokens", token=token, subject=token)

    def change_password(self):
        """Another password for the account, which revokes all its tokens. Those that are issued in the same second are
        revoked too: returns once new ones are valid."""
        new = secrets.token_hex()
        change = {"user": {"original_password": self.password, "password": new}}
        self._expect(204, "POST", f"/users/{self.user}/password", change, token=self.token())
        self.password = new
        wait_for(lambda: self.is_valid(self.token()), "a new token is valid")

    def replace_user(self, username):
        """The account is another user from now on. Returns what deletes the old one, which ends all its tokens."""
        old, self.username, self.password = self.user, username, secrets.token_hex()
        self._create_user(self._admin())
        return lambda: self._expect(204, "DELETE", f"/users/{old}", token=self._admin())

    def create_credential(self, name):
        """A new application credential of `project`: `id`, `name`, `secret`."""
        wanted = {"application_credential": {"name": name}}
        path = f"/users/{self.user}/application_credentials"
        return self._expect(201, "POST", path, wanted, token=self.token())[1]["application_credential"]

    def delete_credential(self, credential):
        path = f"/users/{self.user}/application_credentials/{credential['id']}"
        self._expect(204, "DELETE", path, token=self.token())


class TokenCheckingVbs(Upstream):
    """A VBS that accepts a token which `keystone` accepts for the project of the path. For `memory` seconds it accepts
    the token again without asking, as services do that are to outlive their Keystone. `accepted` has each accepted
    (project, token)."""

    def __init__(self, *place):
        super().__init__(*place, respond=self._respond)
        self.keystone, self.memory, self.accepted = None, 0, []
        self._asked = {}  # when Keystone has accepted a (project, token)

    def tokens_of(self, project):
        """The accepted tokens of a project, the latest one last."""
        return [token for of, token in list(self.accepted) if of == project]

    def _respond(self, request):
        project, share = re.fullmatch(r"/v2/([^/]*)/os-vendor-backup-sharing/([^/]*)", request.path).groups()
        token = request.headers.get("x-auth-token")
        try:
            accepted = self._accepts(project, token)
        except (OSError, http.client.HTTPException):
            return 503, _error(503, "The Keystone service is temporarily unavailable.", "Service Unavailable")
        if not accepted:
            return 401, _error(401, "The request you have made requires authentication.", "Unauthorized")
        self.accepted.append((project, token))
        return 200, {"shared": {"id": share, "backup_id": "b", "from_project_id": project, "to_project_id": "t"}}

    def _accepts(self, project, token):
        now = time.monotonic()
        if now - self._asked.get((project, token), -math.inf) < self.memory:
            return True
        status, _, document = self.keystone.call("GET", "/auth/tokens?nocatalog=true", token=token, subject=token)
        if status not in (200, 401, 404):
            raise http.client.HTTPException(f"status {status} of Keystone")
        if status != 200 or document["token"]["project"]["id"] != project:
            return False
        self._asked[project, token] = now
        return True


def _error(code, message, title):
    return {"error": {"code": code, "message": message, "title": title}}
