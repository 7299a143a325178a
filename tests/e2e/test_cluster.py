"""The gateway in a genuine Kubernetes: no operation on the deployment loses a call.

A caller in a pod (examples/go/load: all pods in turn, no retries) goes on through restarts, updates, scaling, deletion,
eviction and a new certificate. `-s` prints a line for each operation. The cluster does not enforce NetworkPolicies and
has no metrics for the autoscaler, so these two are not tested here.
"""

import contextlib
import json
import re
import socket
import ssl
import subprocess
import time

import pytest
from support.certificates import Certificates
from support.examples import Example
from support.image import pack_image
from support.kubernetes import Deployment, is_ready, metric
from support.tools import ROOT, VERSION
from support.vbs import PROJECT, SHARE
from support.wait import wait_for

NAME = "backup-share-gateway"
HEADLESS = f"{NAME}-headless.backup.svc.cluster.local"
OVERLAY = ROOT / "tests/e2e/kubernetes/overlay"
CALLS = 100_000
RATE, MIN_RATE = 650, 500  # calls a second
CONNECTION_AGE = 10  # seconds, in the overlay
WORKERS = 32  # of a caller without a rate
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def namespace(cluster, image, load_binary, tmp_path_factory):
    """The namespace, with the images that its pods name."""
    archive = pack_image(load_binary, "localhost/caller:test", tmp_path_factory.mktemp("caller"))
    cluster.load(archive)
    cluster.load(image.archive, f"{NAME}:{VERSION}", f"{NAME}:next")
    return cluster.create_namespace("backup")


@pytest.fixture(scope="module")
def sandbox_overlay(namespace):
    """The sandbox overlay as it is, before the module's other checks change it."""
    namespace.kubectl("apply", "-k", ROOT / "deploy/kubernetes/overlays/sandbox")
    deployment = Deployment(namespace)
    namespace.wait_for(lambda: len(deployment.serving()) == 3, "the three replicas of the autoscaler", 120)
    return deployment


class Secrets:
    """Certificates in Secrets."""

    def __init__(self, cluster, folder):
        self.cluster, self.certificates = cluster, Certificates(folder)
        self.caller = self.issue("caller-tls", "caller.example")
        self.renew_server()

    def issue(self, name, *hosts):
        files = self.certificates.issue(name, ",".join(f"DNS:{host}" for host in hosts))
        paths = dict(zip(("tls.crt", "tls.key", "ca.crt"), (*files, self.certificates.ca), strict=True))
        data = {key: path.read_text() for key, path in paths.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name}}
        self.cluster.apply(secret | {"stringData": data})
        return files

    def renew_server(self):
        self.server, _ = self.issue(f"{NAME}-tls", NAME, f"{NAME}-headless", HEADLESS)

    def is_presented_by(self, address):
        """Whether a pod presents the latest certificate in a handshake."""
        context = ssl.create_default_context(cafile=self.certificates.ca)
        context.load_cert_chain(*self.caller)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((address, 50051), timeout=5) as tcp,
            context.wrap_socket(tcp, server_hostname=HEADLESS) as tls,
        ):
            presented = tls.getpeercert(binary_form=True)
        return presented == ssl.PEM_cert_to_DER_cert(self.server.read_text())


class Caller:
    """examples/go/load in a pod."""

    def __init__(self, cluster, name, *flags):
        self.cluster, self.name = cluster, name
        tls = ["-ca=/tls/ca.crt", "-cert=/tls/tls.crt", "-key=/tls/tls.key"]
        target = [f"-address=dns:///{HEADLESS}:50051", "-resolve-interval=5s"]
        container = {
            "name": "load",
            "image": "localhost/caller:test",
            "imagePullPolicy": "Never",
            "args": [*target, *tls, *flags, PROJECT, SHARE],
            "env": [{"name": "OS_TOKEN", "value": "any"}],
            "securityContext": RESTRICTED,
            "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [{"name": "tls", "secret": {"secretName": "caller-tls"}}],
        }
        metadata = {"name": name, "labels": {"backup-share-gateway/caller": "true"}}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self.wait_for_calls(1)

    def tally(self):
        """Its last line; no calls if there is none."""
        try:
            return json.loads(self.cluster.run("logs", self.name, "--tail=1").stdout)
        except ValueError:
            return {"calls": 0, "failed": 0}

    def wait_for_calls(self, count, timeout=60):
        since = self.tally()["calls"]
        self.cluster.wait_for(lambda: self.tally()["calls"] >= since + count, f"{count} more calls", timeout)

    def stop(self):
        """Its last line. SIGTERM ends it, and its log is gone a moment later."""
        self.cluster.kubectl("delete", "pod", self.name, "--wait=false")
        lines = [self.tally()]
        self.cluster.wait_for(lambda: lines.append(self.tally()) or not lines[-1]["calls"], f"{self.name} ends")
        return lines[-2]


@pytest.fixture(scope="module")
def secrets(namespace, tmp_path_factory):
    return Secrets(namespace, tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def deployment(sandbox_overlay, secrets, namespace):
    """Three pods of the overlay with mutual TLS."""
    namespace.kubectl("apply", "-k", OVERLAY)
    sandbox_overlay.wait_until_settled(3)
    return sandbox_overlay


@pytest.fixture(scope="module")
def caller(deployment, namespace):
    """The caller that goes on through all operations."""
    return Caller(namespace, "caller", "-without-retries", f"-rate={RATE}")


@pytest.fixture
def no_call_fails(caller, deployment):
    """A context in which no call may fail: from the operation until `count` pods have an even load again."""

    @contextlib.contextmanager
    def check(name, count=3):
        before, began = caller.tally(), time.monotonic()
        remarks = []
        yield remarks.append
        deployment.wait_until_settled(count)
        done = time.monotonic()
        smallest = deployment.wait_until_even(2 * CONNECTION_AGE + 2)
        after, even = caller.tally(), time.monotonic()
        calls, failed = after["calls"] - before["calls"], after["failed"] - before["failed"]
        rate = calls / (even - began)
        times = f"done in {done - began:.0f} s, even after {even - done:.0f} s, least loaded pod {smallest:.0%}"
        print(f"{name}: {times}, {calls} calls, {rate:.0f}/s, {failed} failed", *remarks, sep="; ")
        assert failed == 0, after["failures"]
        assert rate >= MIN_RATE, f"the caller made {rate:.0f} calls a second"

    return check


def test_first_steps_of_the_guide(namespace, sandbox_overlay, grpcurl):
    forward = namespace.command("port-forward", f"service/{NAME}", ":50051")
    with subprocess.Popen(forward, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline()).group()
            assert grpcurl.call(address)["backupShare"]["id"] == SHARE
            assert f'id: "{SHARE}"' in Example("go")(address=f"http://{address}").stdout
        finally:
            process.terminate()


def test_no_operation(caller, no_call_fails):
    with no_call_fails("nothing"):
        caller.wait_for_calls(3000)


def test_rollout_restart(namespace, no_call_fails):
    with no_call_fails("`rollout restart`"):
        namespace.kubectl("rollout", "restart", f"deployment/{NAME}")


def test_rollout_of_another_image_and_undo(namespace, no_call_fails):
    with no_call_fails("another image tag"):
        namespace.kubectl("set", "image", f"deployment/{NAME}", f"gateway={NAME}:next")
    with no_call_fails("`rollout undo`"):
        namespace.kubectl("rollout", "undo", f"deployment/{NAME}")


def test_scaling(namespace, no_call_fails):
    for before, after in ((3, 5), (5, 2), (2, 3)):
        with no_call_fails(f"scale {before} → {after}", after):
            namespace.kubectl("scale", f"deployment/{NAME}", f"--replicas={after}")


def test_deletion_of_each_pod(namespace, deployment, no_call_fails):
    def accepts(address):
        try:
            socket.create_connection((address, 50051), timeout=2).close()
        except OSError:
            return False
        return True

    with no_call_fails("`delete pod`, each") as remark:
        for name, address in deployment.serving().items():
            namespace.kubectl("delete", "pod", name, "--wait=false")
            wait_for(lambda address=address: address not in deployment.endpoints(), "it leaves the endpoints", 60)
            left = time.monotonic()
            assert accepts(address), "it stops accepting before it has left the endpoints"
            wait_for(lambda address=address: not accepts(address), "it stops accepting", 60)
            remark(f"out of the endpoints {time.monotonic() - left:.1f} s before it stops accepting")
            deployment.wait_until_replaced(name, 3)


def test_eviction_of_each_pod(namespace, deployment, no_call_fails):
    statuses = []

    def evict(name):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "backup"}}
        status, document = namespace.request("POST", f"/api/v1/namespaces/backup/pods/{name}/eviction", body)
        assert status in (201, 429), document
        statuses.append(status)
        return status == 201

    with no_call_fails("eviction, each"):
        for name in deployment.serving():
            wait_for(lambda name=name: evict(name), "the PodDisruptionBudget allows the eviction", 60)
    assert 429 in statuses, "the PodDisruptionBudget allowed the eviction of all pods at once"


def test_new_certificate(secrets, caller, deployment, no_call_fails):
    with no_call_fails("new certificate"):
        secrets.renew_server()
        for address in deployment.serving().values():
            wait_for(lambda address=address: secrets.is_presented_by(address), "the new certificate", 90)
        # Until the caller has replaced each of its connections, whose age varies by a tenth.
        caller.wait_for_calls(1.2 * CONNECTION_AGE * RATE)


def test_no_call_of_a_hundred_thousand_failed(caller):
    wait_for(lambda: caller.tally()["calls"] >= CALLS, f"{CALLS} calls", 200)
    total = caller.stop()
    print(f"p50 {total['p50_ms']} ms, p99 {total['p99_ms']} ms, worst {total['worst_ms']} ms")
    assert (total["calls"] >= CALLS, total["failed"]) == (True, 0), total


def test_pod_killed_by_force(namespace, deployment, secrets):
    """With retries no call fails; without, only those in flight on the pod."""
    flags = ["-rate=0", f"-workers={WORKERS}"]
    callers = [Caller(namespace, "no-retries", "-without-retries", *flags), Caller(namespace, "retries", *flags)]
    deployment.wait_until_even(30)
    name = next(iter(deployment.serving()))
    namespace.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    deployment.wait_until_replaced(name, 3)
    plain, retrying = [caller.stop() for caller in callers]
    print(f"killed by force, without retries: {plain}; with retries: {retrying}")
    assert plain["failed"] <= WORKERS
    assert all("Unavailable" in failure for failure in plain["failures"])
    assert retrying["failed"] == 0


@pytest.fixture
def lone_pod(namespace, deployment):
    """Starts a pod as the deployment has it, with other settings, that no Service selects."""
    names = []

    def start(name, settings, **limits):
        document = namespace.get("deployments", NAME, group="apis/apps/v1")
        spec = document["spec"]["template"]["spec"]
        container = spec["containers"][0]
        container.pop("envFrom")
        container["env"] = [{"name": key, "value": value} for key, value in settings.items()]
        container["resources"]["limits"] |= limits
        container["resources"]["requests"]["cpu"] = "10m"  # so that all fit on a small node
        spec.pop("topologySpreadConstraints")
        namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
        names.append(name)

    yield start
    for name in names:
        namespace.kubectl("delete", "pod", name, "--wait=false")


def wait_until_ready(cluster, name):
    cluster.wait_for(lambda: is_ready(cluster.get("pods", name)), f"{name} is ready")


def test_pod_without_upstream_stays_ready(namespace, lone_pod):
    lone_pod("no-upstream", {"GATEWAY_UPSTREAM_URL": "https://127.0.0.1:9"})
    wait_until_ready(namespace, "no-upstream")
    get = ["get", "--project-id", PROJECT, SHARE, "--token-file", "/dev/stdin"]
    call = namespace.run("exec", "-i", "no-upstream", "--", f"/usr/local/bin/{NAME}", *get, input="any\n")
    assert "UNAVAILABLE" in call.stderr
    assert "UPSTREAM_UNREACHABLE" in call.stderr
    pod = namespace.get("pods", "no-upstream")
    assert is_ready(pod)
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_pod_with_a_broken_configuration_never_becomes_ready(namespace, lone_pod):
    lone_pod("broken", {})

    def termination():
        statuses = namespace.get("pods", "broken")["status"].get("containerStatuses", [{}])
        states = [statuses[0].get(key, {}).get("terminated") for key in ("state", "lastState")]
        return next(filter(None, states), None)

    assert namespace.wait_for(termination, "it ends")["exitCode"] == 64
    assert not is_ready(namespace.get("pods", "broken"))
    assert "--upstream-url (GATEWAY_UPSTREAM_URL)" in namespace.kubectl("logs", "broken")


def test_cpu_limit_of_one_means_one_worker(namespace, lone_pod):
    lone_pod("limit-of-one", {"GATEWAY_SANDBOX": "true"}, cpu="1")
    for workers in ("1", "2"):
        lone_pod(f"workers-{workers}", {"GATEWAY_SANDBOX": "true", "GATEWAY_WORKERS": workers})

    for name in ("limit-of-one", "workers-1", "workers-2"):
        wait_until_ready(namespace, name)

    def threads(name):
        return metric(namespace.get("pods", name)["status"]["podIP"], "process_threads")

    # A thread of the start may still run.
    wait_for(
        lambda: threads("limit-of-one") == threads("workers-1") < threads("workers-2"), "the threads of one worker", 30
    )
