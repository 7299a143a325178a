"""Names that change, fail and are slow: the gateway against the system's own resolver.

The gateway runs in a mount namespace of its own, in which /etc/hosts and /etc/resolv.conf are files of these checks.
Needs root. Times are asserted where waiting longer is the fault that is looked for.
"""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.gateway import command
from support.tools import tool
from support.upstream import Upstream
from support.wait import wait_for

OWN_FILES = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'
ACTIVE = "rpc_server_active_requests"


@pytest.fixture
def names(tmp_path):
    """Writes /etc/hosts in place: an address, or several, of vbs.test."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:2\n")

    def write(*addresses):
        (tmp_path / "hosts").write_text("".join(f"{address} vbs.test\n" for address in addresses) or "\n")

    write()
    return write


@pytest.fixture
def prefix(names, tmp_path):
    return [tool("unshare"), "--mount", "--propagation=private", "sh", "-c", OWN_FILES, tmp_path]


@pytest.fixture
def resolving(gateway, prefix):
    """Starts a gateway whose upstream is vbs.test."""
    return lambda port, *flags: gateway(*flags, upstream=f"http://vbs.test:{port}", prefix=prefix)


@pytest.fixture
def listen():
    """Starts upstreams at addresses of loopback, all on one port."""
    servers = []

    def start(*addresses):
        for address in addresses:
            servers.append(Upstream(address, servers[0].port if servers else 0))
        return servers

    yield start
    for server in servers:
        server.close()


def test_a_name_that_changes(resolving, names, listen):
    first, second = listen("127.0.0.1", "127.0.0.2")
    names(first.address)
    served = resolving(first.port, "--upstream-connection-lifetime=300ms")
    assert [served.get().stderr for _ in range(5)] == [""] * 5
    assert len(first.requests) == 5

    names(second.address)
    answers = []
    wait_for(lambda: answers.append(served.get().stderr) or len(second.requests) >= 20, "the changed name is seen", 10)
    assert not any(answers), "no call is lost while it changes"
    before = len(first.requests)
    served.get()
    assert len(first.requests) == before, "the old address gets no more calls"

    names()
    wait_for(lambda: "UPSTREAM_UNREACHABLE" in served.get().stderr, "a name that is gone is unreachable")
    names(first.address)
    assert served.get().stderr == "", "the next call works once the name is back"


def test_several_addresses(resolving, names, listen):
    servers = listen("127.0.0.2", "127.0.0.3", "127.0.0.4")
    names(*(server.address for server in servers))
    served = resolving(servers[0].port, "--upstream-connection-lifetime=1ms", "--connect-timeout=3s")
    assert [served.get().stderr for _ in range(12)] == [""] * 12
    assert min(len(server.requests) for server in servers) >= 2, "connections are spread over the addresses"


def test_an_address_that_does_not_answer(resolving, names, listen):
    (server,) = listen("127.0.0.2")
    silent = ("127.0.0.5", server.port)
    with (
        socket.create_server(silent, backlog=0),
        socket.socket() as one,
        socket.socket() as two,
        socket.socket() as three,
    ):
        for connection in (one, two, three):  # they fill its queue
            connection.setblocking(False)
            connection.connect_ex(silent)
        names("127.0.0.5", server.address)
        served = resolving(server.port, "--upstream-connection-lifetime=1ms", "--connect-timeout=3s")
        began = time.monotonic()
        assert [served.get().stderr for _ in range(12)] == [""] * 12
        # It is tried first once, for half of the connect timeout; without a memory of it, at every other connection.
        assert time.monotonic() - began < 6


@pytest.fixture
def silent_name_server():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        yield


@pytest.mark.usefixtures("silent_name_server")
def test_a_name_server_that_is_silent(resolving, prefix, names, listen):
    (server,) = listen("127.0.0.1")
    served = resolving(server.port, "--connect-timeout=300ms", "--upstream-connection-lifetime=1ms")
    began = time.monotonic()
    assert "UPSTREAM_UNREACHABLE" in served.get().stderr
    assert time.monotonic() - began < 10, "within three connect timeouts and their pauses"
    assert "DEADLINE_EXCEEDED" in served.get("--deadline=200ms").stderr
    began = time.monotonic()
    done = command("health", "--address=vbs.test:1", "--deadline=500ms", prefix=prefix)
    assert "DEADLINE_EXCEEDED" in done.stderr
    assert time.monotonic() - began < 3
    names(server.address)
    assert served.get().stderr == "", "the next call works once the name resolves"
    names()
    assert served.get("--deadline=1s").returncode == 1
    began = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - began < 5, "a name that is being resolved does not hold the end"


@pytest.mark.usefixtures("silent_name_server")
def test_calls_that_wait_for_a_name_block_a_few_threads(resolving):
    served = resolving(1, "--connect-timeout=20s", "--default-deadline=20s")
    with ThreadPoolExecutor(30) as callers:
        calls = [callers.submit(served.get, "--deadline=10s") for _ in range(30)]
        wait_for(lambda: served.metric(ACTIVE) == 30, "30 calls in flight")
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        assert int(status.partition("Threads:")[2].split()[0]) < 20
    assert all("DEADLINE_EXCEEDED" in call.result().stderr for call in calls)
