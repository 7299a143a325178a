"""The single-node Kubernetes of tests/e2e/kubernetes, and a deployment of the gateway in it."""

import contextlib
import copy
import fcntl
import http.client
import json
import re
import ssl
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path

import pytest
from support.tools import ROOT
from support.wait import wait_for

NODE = "10.244.0.1"  # where pods find what runs beside the cluster
SCRIPTS = ROOT / "tests/e2e/kubernetes"
LOCK = Path("/run/lock/kubernetes-fixture")


@contextlib.contextmanager
def exclusive_use():
    """A machine has one cluster at a time: fails if another run of these checks uses it."""
    with LOCK.open("w") as file:
        is_free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        if not is_free:
            pytest.fail("another run of these checks uses the cluster: wait for its end", pytrace=False)
        yield


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


class Cluster:
    """kubectl and the API server, as an administrator. What has a namespace is in `namespace`."""

    def __init__(self):
        up = subprocess.run([SCRIPTS / "up.sh"], stdout=subprocess.PIPE, text=True, check=False)
        if up.returncode != 0:
            pytest.fail("the cluster does not start; the captured stderr says why", pytrace=False)
        self.kubeconfig, self.namespace = Path(up.stdout.strip()), "default"
        view = self.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
        self._server = view.removeprefix("https://")
        pki = self.kubeconfig.parent / "pki"
        self._tls = ssl.create_default_context(cafile=pki / "ca.crt")
        self._tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    @staticmethod
    def down():
        subprocess.run([SCRIPTS / "down.sh"], check=True)

    def create_namespace(self, name):
        """A namespace with the restricted profile of Pod Security; returns the cluster with it as `namespace`."""
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        created = copy.copy(self)
        created.namespace = name
        return created

    def command(self, *arguments):
        """kubectl, for a process that goes on."""
        kubectl = [
            self.kubeconfig.parent / "bin/kubectl",
            "--kubeconfig",
            self.kubeconfig,
            "--namespace",
            self.namespace,
        ]
        return [str(part) for part in (*kubectl, *arguments)]

    def run(self, *arguments, input=None):  # noqa: A002
        """kubectl to its end, which may be a failure."""
        command = self.command(*arguments)
        return subprocess.run(command, input=input, capture_output=True, text=True, timeout=300, check=False)

    def kubectl(self, *arguments, **options):
        """What kubectl prints."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *objects):
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def write_secret(self, name, files):
        """A Secret of these files, by name, which it replaces: as docs/kubernetes.md has it."""
        with tempfile.TemporaryDirectory() as folder:
            for key, text in files.items():
                Path(folder, key).write_text(text)
            made = self.kubectl(
                *["create", "secret", "generic", name, "--dry-run=client", "--output=yaml"],
                *[f"--from-file={Path(folder, key)}" for key in files],
            )
        self.kubectl("apply", "-f", "-", input=made)

    def wait_for(self, condition, what, timeout=60):
        """Like support.wait.wait_for; a failure shows what the cluster does."""
        try:
            return wait_for(condition, what, timeout)
        except pytest.fail.Exception:
            print(self.run("describe", "nodes").stdout, self.run("get", "pods,events", "--output=wide").stdout)
            raise

    def load(self, archive, *names):
        """Imports a Docker archive, by its own name or by these."""
        for name in names or ("",):
            subprocess.run([SCRIPTS / "load-image.sh", archive, name], stdout=subprocess.DEVNULL, check=True)

    def request(self, method, path, body=None):
        """A request to the API server, much faster than kubectl: the status and the document."""
        connection = http.client.HTTPSConnection(self._server, context=self._tls, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def get(self, kind, name="", group="api/v1", **selectors):
        """An object of the namespace, or the list of those that the selectors choose."""
        query = "&".join(f"{key}={value}" for key, value in selectors.items())
        path = f"/{group}/namespaces/{self.namespace}/{kind}/{name}".removesuffix("/") + (query and f"?{query}")
        status, document = self.request("GET", path)
        assert status == 200, f"GET {path}: {status} {document}"
        return document if name else document["items"]


class Deployment:
    """The pods of an installation of the gateway, and their load."""

    def __init__(self, cluster, name="backup-share-gateway", instance="backup-share-gateway"):
        self.cluster, self.name, self.instance = cluster, name, instance
        self.host = f"{name}-headless.{cluster.namespace}.svc.cluster.local"

    def pods(self):
        """All of them, and not the pod of `helm test`."""
        label = "app.kubernetes.io"
        selector = f"{label}/name=backup-share-gateway,{label}/instance={self.instance}"
        return self.cluster.get("pods", labelSelector=selector)

    def serving(self):
        """The addresses of the pods that are ready and not being deleted, by name."""
        pods = [pod for pod in self.pods() if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
        return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods}

    def endpoints(self):
        """The addresses to which the headless Service resolves."""
        selector = f"kubernetes.io/service-name={self.name}-headless"
        slices = self.cluster.get("endpointslices", group="apis/discovery.k8s.io/v1", labelSelector=selector)
        endpoints = [endpoint for part in slices for endpoint in part["endpoints"] or []]
        return {address for each in endpoints if each["conditions"]["ready"] for address in each["addresses"]}

    def has_settled(self, count):
        """Whether there are `count` available pods of the latest template, and no other."""
        deployment = self.cluster.get("deployments", self.name, group="apis/apps/v1")
        status = deployment["status"]
        is_observed = status.get("observedGeneration") == deployment["metadata"]["generation"]
        counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
        return is_observed and counts == [count] * 3 and len(self.serving()) == len(self.pods()) == count

    def wait_until_settled(self, count, timeout=180):
        self.cluster.wait_for(lambda: self.has_settled(count), f"{count} available pods", timeout)

    def wait_until_replaced(self, pod, count):
        """Until a deleted pod is gone, and the deployment has settled without it."""
        self.cluster.wait_for(lambda: pod not in self.serving() and self.has_settled(count), f"replacement of {pod}")

    def wait_for_log(self, message, since):
        """Until each pod has logged it, at `since` (a datetime) or later."""
        for pod in self.serving():
            follow = self.cluster.command("logs", "--follow", f"--since-time={since.isoformat()}", pod)
            with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as process:
                end = threading.Timer(90, process.kill)
                end.start()
                found = any(message in line for line in process.stdout)
                end.cancel()
                process.kill()
            assert found, f"{pod} has not logged {message!r}"

    def wait_until_even(self, timeout):
        """Until, of 1000 calls, no pod gets less than half of its share; returns the smallest share."""

        def counts():
            addresses = self.serving().items()
            return {name: metric(address, "rpc_server_call_duration_seconds_count") for name, address in addresses}

        before, smallest = counts(), 0

        def is_even():
            nonlocal before, smallest
            after = counts()
            if after.keys() != before.keys():
                before = after
                return False
            calls = [after[name] - before[name] for name in after]
            if sum(calls) < 1000:
                return False
            before, smallest = after, min(calls) * len(calls) / sum(calls)
            return smallest >= 0.5

        self.cluster.wait_for(is_even, "an even load", timeout)
        return smallest


def metric(address, name):
    """The sum of the samples of a metric of a pod."""
    with urllib.request.urlopen(f"http://{address}:9090/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line))
