"""An installation by Helm in a genuine Kubernetes, in each auth mode: no operation of its operator loses a call.

The upstream checks the credential of each call. CI installs, upgrades and rolls back in pass-through mode; the rest is
marked `by_hand`, since it takes seven minutes for each mode: `just installation keystone`. `-s` prints a line for each
operation.
"""

import datetime
import functools

import pytest
from support import operations
from support.auth_modes import MODES
from support.caller import Caller, load_image_of_caller
from support.manifests import CHART, NAME, helm
from support.release import Release
from support.tls_secrets import CALLER_SECRET, TlsSecrets
from support.tools import VERSION

NEXT = f"{VERSION}-next"
REPLICAS = 2
CALLS = 100_000
RATE, MIN_RATE = 400, 300  # calls a second; the upstreams are in Python
VALUES = {
    "autoscaling.minReplicas": REPLICAS,
    "resources": {"requests": {"cpu": "50m"}},  # so that all fit on a small node
    "settings.GATEWAY_ALLOW_PLAINTEXT_UPSTREAM": "true",
    "test.clientSecret": CALLER_SECRET,
}
# Operations take less time than with the defaults.
QUICK = {
    "minReadySeconds": operations.MIN_READY,
    "settings.GATEWAY_MAX_CONNECTION_AGE": f"{operations.CONNECTION_AGE}s",
}
ANOTHER_SETTING = {"settings.GATEWAY_MAX_IN_FLIGHT": "2000"}
by_hand = pytest.mark.by_hand


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name == "passthrough" else by_hand, id=name) for name in MODES],
)
def installed(request, cluster, image, load_binary, tmp_path_factory):
    """A mode, and the installation in it."""
    load_image_of_caller(cluster, load_binary, tmp_path_factory.mktemp("caller"))
    cluster.load(image.archive, f"{NAME}:{VERSION}", f"{NAME}:{NEXT}")
    mode = MODES[request.param](tmp_path_factory.mktemp("mode"))
    release = Release(cluster.create_namespace(request.param), "eu-de")
    try:
        yield Installation(release, mode, tmp_path_factory.mktemp("secrets"))
        release.helm("uninstall", "--wait")
    finally:
        mode.close()


class Installation:
    """As docs/kubernetes.md has it: the Secrets, then the release."""

    def __init__(self, release, mode, folder):
        self.release, self.deployment, self.mode = release, release.deployment, mode
        self.secrets = TlsSecrets(self.deployment, folder)
        if mode.variables:
            self.write_credential()
        self.values = VALUES | QUICK | mode.values
        self.release.install(self.values)
        self.deployment.wait_until_settled(REPLICAS)

    def write_credential(self):
        self.release.cluster.write_secret(f"{self.deployment.name}-credentials", self.mode.variables)

    def images(self):
        return {pod["spec"]["containers"][0]["image"] for pod in self.deployment.pods()}


@pytest.fixture(scope="module")
def deployment(installed):
    return installed.deployment


@pytest.fixture(scope="module")
def caller(installed):
    """The caller that goes on through all operations, and with it a slower one for each further project."""
    first, *further = installed.mode.projects
    others = [start_caller(installed, f"caller-{number}", 50, project) for number, project in enumerate(further)]
    yield start_caller(installed, "caller", RATE, first)
    installed.release.cluster.kubectl("delete", "pod", "caller", "--ignore-not-found", "--wait=false")
    for other in others:
        other.stop_after(1)


def start_caller(installed, name, rate, project, *flags):
    flags = ["-without-retries", f"-rate={rate}", *flags]
    return Caller(installed.deployment, name, *flags, project=project, token=installed.mode.token)


@pytest.fixture
def no_call_fails(caller, deployment):
    """`with no_call_fails(name, count)` is support.operations.no_call_fails."""
    return functools.partial(operations.no_call_fails, caller, deployment, min_rate=MIN_RATE)


def test_installation(installed):
    assert installed.images() == {f"{NAME}:{VERSION}"}
    installed.release.helm("test", "--timeout=60s")


def test_upgrade_to_another_version_and_rollback(installed, no_call_fails, tmp_path):
    packaged = helm("package", "--destination", tmp_path, f"--version={NEXT}", f"--app-version={NEXT}", CHART)
    assert packaged.returncode == 0, packaged.stderr
    with no_call_fails("`helm upgrade` to another version and setting", REPLICAS):
        installed.release.upgrade(installed.values | ANOTHER_SETTING, tmp_path / f"{NAME}-{NEXT}.tgz")
    assert installed.images() == {f"{NAME}:{NEXT}"}
    with no_call_fails("`helm rollback`", REPLICAS):
        installed.release.helm("rollback")
    assert installed.images() == {f"{NAME}:{VERSION}"}


@by_hand
def test_new_certificate(installed, caller, no_call_fails):
    with no_call_fails("new certificate", REPLICAS) as remark:
        operations.renew_certificate(caller, installed.secrets, RATE, remark)


@by_hand
def test_new_credential(installed, deployment, caller, no_call_fails):
    """In pass-through mode there is none."""
    volumes = [volume["name"] for pod in deployment.pods() for volume in pod["spec"]["volumes"]]
    assert ("credentials" in volumes) == bool(installed.mode.rotations)
    for name, both_are_valid in installed.mode.rotations.items():
        with no_call_fails(name, REPLICAS) as remark:
            with both_are_valid():
                began = datetime.datetime.now(datetime.UTC)
                installed.write_credential()
                for message in installed.mode.in_use:
                    deployment.wait_for_log(message, began)
                took = datetime.datetime.now(datetime.UTC) - began
                remark(f"in use by every pod after {took.total_seconds():.0f} s")
            caller.wait_for_calls(10 * RATE)


@by_hand
def test_deletion_of_each_pod(deployment, no_call_fails):
    with no_call_fails("`delete pod`, each", REPLICAS) as remark:
        operations.delete_each_pod(deployment, remark)


@by_hand
def test_eviction_of_each_pod(deployment, no_call_fails):
    with no_call_fails("eviction, each", REPLICAS) as remark:
        operations.evict_each_pod(deployment, remark)


@by_hand
def test_scaling(installed, no_call_fails):
    before = REPLICAS
    for after in (1, 4, 1):
        with no_call_fails(f"scale {before} → {after}, without the autoscaler", after):
            installed.release.upgrade(installed.values | {"autoscaling.enabled": False, "replicas": after})
        before = after
    with no_call_fails("the autoscaler again", REPLICAS):
        installed.release.upgrade(installed.values)


@by_hand
def test_no_call_of_a_hundred_thousand_failed(installed, caller):
    total = caller.stop_after(CALLS)
    checked = len(installed.mode.upstream.requests)
    print(f"the upstream checked {checked} requests")
    assert checked >= total["calls"]


@by_hand
def test_upgrade_with_the_defaults(installed, deployment):
    """35 s between two pods, connections that live for 30 minutes, and a caller with 30 s between two DNS lookups."""
    values = VALUES | installed.mode.values
    installed.release.upgrade(values)
    deployment.wait_until_settled(REPLICAS)
    caller = start_caller(installed, "slow-caller", RATE, installed.mode.projects[0], "-resolve-interval=30s")
    with operations.no_call_fails(caller, deployment, "`helm upgrade`, defaults", REPLICAS, MIN_RATE, even_within=40):
        installed.release.upgrade(values | ANOTHER_SETTING)
    caller.stop_after(1)
