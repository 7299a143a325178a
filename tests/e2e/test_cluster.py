"""The gateway in a genuine Kubernetes: no operation on the deployment loses a call.

A caller in a pod (examples/go/load: all pods in turn, no retries) goes on through restarts, scaling, deletion, eviction
and a new certificate. `-s` prints a line for each operation. Upgrade and rollback are in test_installation.py. The
cluster does not enforce NetworkPolicies and has no metrics for the autoscaler, so these two are not tested here.
"""

import functools
import re
import subprocess

import pytest
from support import operations
from support.caller import Caller, load_image_of_caller
from support.examples import Example
from support.kubernetes import Deployment, is_ready, metric
from support.tls_secrets import TlsSecrets
from support.tools import ROOT, VERSION
from support.vbs import PROJECT, SHARE
from support.wait import wait_for

NAME = "backup-share-gateway"
OVERLAY = ROOT / "tests/e2e/kubernetes/overlay"
CALLS = 100_000
RATE, MIN_RATE = 650, 500  # calls a second
WORKERS = 32  # of a caller without a rate


@pytest.fixture(scope="module")
def namespace(cluster, image, load_binary, tmp_path_factory):
    """The namespace, with the images that its pods name."""
    load_image_of_caller(cluster, load_binary, tmp_path_factory.mktemp("caller"))
    cluster.load(image.archive, f"{NAME}:{VERSION}")
    return cluster.create_namespace("backup")


@pytest.fixture(scope="module")
def sandbox_overlay(namespace):
    """The sandbox overlay as it is, before the module's other checks change it."""
    namespace.kubectl("apply", "-k", ROOT / "deploy/kubernetes/overlays/sandbox")
    deployment = Deployment(namespace)
    namespace.wait_for(lambda: len(deployment.serving()) == 3, "the three replicas of the autoscaler", 120)
    return deployment


@pytest.fixture(scope="module")
def secrets(sandbox_overlay, tmp_path_factory):
    return TlsSecrets(sandbox_overlay, tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def deployment(sandbox_overlay, secrets, namespace):
    """Three pods of the overlay with mutual TLS, started at once: a rollout would take longer."""
    namespace.kubectl("delete", "deployment", NAME, "--wait=false")
    namespace.wait_for(lambda: not sandbox_overlay.pods(), "the end of the pods without TLS")
    namespace.kubectl("apply", "-k", OVERLAY)
    sandbox_overlay.wait_until_settled(3)
    return sandbox_overlay


@pytest.fixture(scope="module")
def caller(deployment):
    """The caller that goes on through all operations."""
    return Caller(deployment, "caller", "-without-retries", f"-rate={RATE}")


@pytest.fixture
def no_call_fails(caller, deployment):
    """`with no_call_fails(name, count)` is support.operations.no_call_fails."""
    return functools.partial(operations.no_call_fails, caller, deployment, min_rate=MIN_RATE)


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
    with no_call_fails("nothing", 3):
        caller.wait_for_calls(3000)


def test_rollout_restart(namespace, no_call_fails):
    with no_call_fails("`rollout restart`", 3):
        namespace.kubectl("rollout", "restart", f"deployment/{NAME}")


def test_scaling(namespace, no_call_fails):
    for before, after in ((3, 5), (5, 2), (2, 3)):
        with no_call_fails(f"scale {before} → {after}", after):
            namespace.kubectl("scale", f"deployment/{NAME}", f"--replicas={after}")


def test_deletion_of_each_pod(deployment, no_call_fails):
    with no_call_fails("`delete pod`, each", 3) as remark:
        operations.delete_each_pod(deployment, remark)


def test_eviction_of_each_pod(deployment, no_call_fails):
    with no_call_fails("eviction, each", 3) as remark:
        operations.evict_each_pod(deployment, remark)


def test_new_certificate(secrets, caller, no_call_fails):
    with no_call_fails("new certificate", 3) as remark:
        operations.renew_certificate(caller, secrets, RATE, remark)


def test_no_call_of_a_hundred_thousand_failed(caller):
    caller.stop_after(CALLS)


def test_pod_killed_by_force(namespace, deployment):
    """With retries no call fails; without, only those in flight on the pod."""
    flags = ["-rate=0", f"-workers={WORKERS}"]
    callers = [Caller(deployment, "no-retries", "-without-retries", *flags), Caller(deployment, "retries", *flags)]
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
