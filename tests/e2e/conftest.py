"""The fixtures of all end-to-end checks, and the rule that none of them is skipped."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import grpcurl as caller
from support.certificates import Certificates
from support.gateway import Gateway
from support.image import Image
from support.keystone import Keystone, TokenCheckingVbs
from support.kubernetes import Cluster, exclusive_use
from support.manifests import CRDS
from support.tools import ROOT, tool
from support.upstream import Upstream

pytest_plugins = ["support.keystone_gateway"]


def factory(folders):
    """Starts gateways; at the end each must stop in order."""
    started = []

    def start(*flags, **options):
        started.append(Gateway(folders.mktemp("gateway"), *flags, **options))
        return started[-1]

    yield start
    running = [gateway for gateway in started if gateway.process.poll() is None]
    for gateway in running:
        gateway.terminate()
    statuses = [gateway.wait() for gateway in running]
    assert not any(statuses), f"exit statuses after SIGTERM: {statuses}"


@pytest.fixture
def gateway(tmp_path_factory):
    """`gateway(*flags, env={}, sandbox=True, upstream=…)` starts a gateway for one test: support.gateway.Gateway."""
    yield from factory(tmp_path_factory)


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory):
    """The same, for fixtures that serve all tests of a module."""
    yield from factory(tmp_path_factory)


@pytest.fixture(scope="module")
def sandbox(module_gateway):
    """One gateway in front of the sandbox, for all tests of a module that do not change it."""
    return module_gateway()


@pytest.fixture
def upstream():
    """An upstream that records requests and answers as it is programmed: support.upstream.Upstream."""
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, a server's and a caller's certificate, and the flags that name them."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def grpcurl():
    """`grpcurl(*arguments)` runs it; `grpcurl.call(address, share, …)` is GetBackupShare."""
    return caller.grpcurl


@pytest.fixture(scope="session")
def token_checking_vbs():
    """The upstream of the tests with Keystone: support.keystone.TokenCheckingVbs."""
    vbs = TokenCheckingVbs()
    yield vbs
    vbs.close()


@pytest.fixture(scope="session")
def keystone(tmp_path_factory, token_checking_vbs):
    """A genuine Keystone with an account and three projects: support.keystone.Keystone."""
    keystone = Keystone(tmp_path_factory.mktemp("keystone"), token_checking_vbs.url)
    token_checking_vbs.keystone = keystone
    yield keystone
    keystone.stop()


@pytest.fixture(scope="session")
def image():
    """The container image: support.image.Image. Minutes, unless $IMAGE_ARCHIVE names an archive."""
    return Image()


@pytest.fixture(scope="session")
def cluster():
    """A single-node Kubernetes: support.kubernetes.Cluster."""
    with exclusive_use():
        try:
            yield Cluster()
        finally:
            Cluster.down()


@pytest.fixture(scope="session")
def manifest_server(cluster):
    """The cluster with the CRDs that the manifests use."""
    for module, files in CRDS.items():
        download = [tool("go"), "mod", "download", "-json", module]
        done = subprocess.run(download, cwd=ROOT, capture_output=True, text=True, check=True)
        for file in files:
            cluster.kubectl("apply", "--server-side", "-f", Path(json.loads(done.stdout)["Dir"]) / file)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return cluster


@pytest.fixture(scope="session")
def load_binary(tmp_path_factory):
    """examples/go/load, linked statically, so that it can be an image of its own."""
    binary = tmp_path_factory.mktemp("load") / "load"
    command = [tool("go"), "build", "-trimpath", "-o", binary, "./load"]
    subprocess.run(command, cwd=ROOT / "examples/go", env=os.environ | {"CGO_ENABLED": "0"}, check=True)
    return binary


def pytest_sessionfinish(session, exitstatus):
    """A check that is skipped has not been made."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and any(reporter.stats.get(kind) for kind in ("skipped", "xfailed", "xpassed")):
        reporter.write_line("\nFAILED: a check was skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
