"""The auth modes of an installation in the cluster: what each needs, and the upstream that checks its credential.

`values` are those of the chart. `variables` are the content of the Secret with the credential, if there is one.
`rotations` are the ways to replace it, by name: context managers, within which both credentials are valid and the new
one goes into the Secret until each pod has logged `in_use`. `upstream` runs beside the cluster; it answers for
`projects`, with the caller's `token`.
"""

import contextlib
import math
import secrets

from support.aksk import Keys, SignatureCheckingVbs
from support.certificates import CALLER
from support.keystone import Keystone, TokenCheckingVbs
from support.kubernetes import NODE
from support.upstream import DOCUMENTED_SHARE, Upstream
from support.vbs import PROJECT


class Passthrough:
    """With TLS; callers need no certificate."""

    def __init__(self, _):
        self.projects, self.token = [PROJECT], secrets.token_hex()
        self.upstream = Upstream(NODE, respond=self._respond)
        self.values = {"upstream.url": self.upstream.url, "tls.enabled": True}
        self.variables, self.rotations = {}, {}

    def _respond(self, request):
        if request.headers["x-auth-token"] != self.token:
            return 401, {"error": {"code": 401, "title": "Unauthorized", "message": "another token"}}
        return 200, DOCUMENTED_SHARE.read_bytes()

    def close(self):
        self.upstream.close()


def with_rules(mode, projects):
    """The values of a mode in which the gateway holds the credential."""
    rules = f"{CALLER}={','.join(projects)}\n"
    return {"auth.mode": mode, "tls.enabled": True, "tls.mutual": True, "rules": rules}


class KeystoneOneProject:
    """A genuine Keystone, and a VBS that asks it about each token again and again. The endpoint is from the catalog."""

    token = "none"
    in_use = ("the new credential is in use", "the identity service issued a token")
    is_for_one = True
    memory = 2  # seconds, of VBS

    def __init__(self, folder):
        self.upstream = TokenCheckingVbs(NODE)
        self.keystone = Keystone(folder, self.upstream.url, NODE)
        self.upstream.keystone, self.upstream.memory = self.keystone, self.memory
        self.projects = [self.keystone.project]
        if not self.is_for_one:
            self.projects.append(self.keystone.second_project)
        self.values = with_rules("keystone", self.projects)
        self.rotations = {"new password": self._new_password, "another user": self._another_user}

    @property
    def variables(self):
        return self.keystone.variables() if self.is_for_one else self.keystone.variables(OS_PROJECT_ID=None)

    @contextlib.contextmanager
    def _new_password(self):
        """Keystone revokes all tokens. VBS must accept those of the gateways until the Secret has reached them."""
        self.upstream.memory = math.inf
        self.keystone.change_password()
        yield
        self.upstream.memory = self.memory

    @contextlib.contextmanager
    def _another_user(self):
        delete_old = self.keystone.replace_user("reader-2")
        yield
        delete_old()

    def close(self):
        self.keystone.stop()
        self.upstream.close()


class KeystoneManyProjects(KeystoneOneProject):
    """The same with a token for each project that a call names."""

    is_for_one = False


class Aksk:
    """A VBS that makes each signature again with the vendor's code."""

    token = "none"
    in_use = ("the new credential is in use",)

    def __init__(self, _):
        self.projects, self.keys = [PROJECT], Keys.random()
        self.upstream = SignatureCheckingVbs(NODE, keys=self.keys)
        self.values = with_rules("aksk", self.projects) | {"upstream.url": self.upstream.url}
        self.rotations = {"new keys": self._new_keys}

    @property
    def variables(self):
        return self.keys.variables()

    @contextlib.contextmanager
    def _new_keys(self):
        self.keys = Keys.random()
        self.upstream.keys.append(self.keys)
        yield
        del self.upstream.keys[0]

    def close(self):
        self.upstream.close()


MODES = {
    "passthrough": Passthrough,
    "keystone-one-project": KeystoneOneProject,
    "keystone-many-projects": KeystoneManyProjects,
    "aksk": Aksk,
}
