"""A caller in a pod: examples/go/load, which uses all pods of an installation in turn."""

import json
import subprocess

from support.image import pack_image
from support.tls_secrets import CALLER_SECRET
from support.vbs import PROJECT, SHARE

IMAGE = "localhost/caller:test"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def load_image_of_caller(cluster, binary, folder):
    cluster.load(pack_image(binary, IMAGE, folder))


class Caller:
    """Goes on until `stop`. It has the certificate of `TlsSecrets`."""

    def __init__(self, deployment, name, *flags, project=PROJECT, token="any"):
        self.cluster, self.name = deployment.cluster, name
        tls = ["-ca=/tls/ca.crt", "-cert=/tls/tls.crt", "-key=/tls/tls.key"]
        target = [f"-address=dns:///{deployment.host}:50051", "-resolve-interval=5s"]
        container = {
            "name": "load",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "args": [*target, *tls, *flags, project, SHARE],
            "env": [{"name": "OS_TOKEN", "value": token}],
            "securityContext": RESTRICTED,
            "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [{"name": "tls", "secret": {"secretName": CALLER_SECRET}}],
        }
        metadata = {"name": name, "labels": {"backup-share-gateway/caller": "true"}}
        self.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self.wait_for_calls(1)

    def tally(self):
        """Its last line; no calls if there is none."""
        try:
            return json.loads(self.cluster.run("logs", self.name, "--tail=1").stdout)
        except ValueError:
            return {"calls": 0, "failed": 0}

    def wait_for_calls(self, count, timeout=60):
        """Until it has made `count` more calls."""
        since = self.tally()["calls"]
        self.cluster.wait_for(lambda: self.tally()["calls"] >= since + count, f"{count} more calls", timeout)

    def stop(self):
        """Its last line. SIGTERM ends it, and its log is gone a moment later: it is read meanwhile."""
        follow = self.cluster.command("logs", "--follow", "--tail=1", self.name)
        with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            self.cluster.kubectl("delete", "pod", self.name, "--wait=false")
            rest, _ = process.communicate(timeout=60)
        return json.loads(rest.splitlines()[-1])

    def stop_after(self, calls):
        """The same once it has made this many in all, of which none failed."""
        rest = calls - self.tally()["calls"]
        if rest > 0:
            self.wait_for_calls(rest, 400)
        total = self.stop()
        times = ", ".join(f"{name} {total[f'{name}_ms']} ms" for name in ("p50", "p99", "worst"))
        print(f"{total['calls']} calls, {total['failed']} failed, {times}")
        assert (total["calls"] >= calls, total["failed"]) == (True, 0), total
        return total
