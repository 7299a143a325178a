"""Three gateways behind Envoy, stopped and started in turn under load: no call is lost.

The caller, examples/go/load, has one connection to Envoy and does not retry.
"""

import contextlib
import functools
import json
import string
import urllib.request

import pytest
from support.process import free_ports, running
from support.tools import ROOT, tool
from support.vbs import PROJECT, SHARE
from support.wait import wait_for

CONFIGURATION = ROOT / "tests/e2e/envoy.yaml"
RATE = 500
# Longer than Envoy's health checks take to eject a gateway: 2 times 1 s, and 1 s for a reply.
DRAIN_DELAY = "--drain-delay=4s"


class Envoy:
    """Its admin port."""

    def __init__(self, folder):
        self.file = folder / "admin"

    def page(self, path):
        with urllib.request.urlopen(f"http://{self.file.read_text()}{path}", timeout=5) as page:
            return json.load(page)

    def healthy(self):
        hosts = self.page("/clusters?format=json")["cluster_statuses"][0]["host_statuses"]
        return sum(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in hosts)

    def address(self):
        listener = self.page("/listeners?format=json")["listener_statuses"][0]
        return f"127.0.0.1:{listener['local_address']['socket_address']['port_value']}"


@pytest.fixture
def envoy(tmp_path):
    """Starts Envoy in front of three ports."""
    with contextlib.ExitStack() as stack:

        def start(ports):
            variables = {f"PORT_{number}": port for number, port in enumerate(ports, 1)}
            text = string.Template(CONFIGURATION.read_text()).substitute(variables)
            (tmp_path / "envoy.yaml").write_text(text)
            started = Envoy(tmp_path)
            flags = ["-c", tmp_path / "envoy.yaml", "--admin-address-path", started.file, "-l", "warning"]
            command = [tool("e2e/envoy/_bin/envoy"), *flags, "--concurrency", "1", "--use-dynamic-base-id"]
            stack.enter_context(running(tmp_path / "envoy.log", *command))
            wait_for(lambda: started.healthy() == len(ports), "Envoy finds all gateways healthy")
            return started

        yield start


def test_no_call_is_lost(gateway, envoy, load_binary, tmp_path):
    flags = {port: [f"--listen=127.0.0.1:{port}", DRAIN_DELAY] for port in free_ports(3)}
    gateways = {port: gateway(*flags[port]) for port in flags}
    front = envoy(flags)
    command = [load_binary, "-without-retries", "-rate", RATE, "-address", front.address(), PROJECT, SHARE]
    log = tmp_path / "load.log"
    with running(log, *command, env={"OS_TOKEN": "any"}) as load:

        def tally():
            lines = log.read_text().splitlines()
            return json.loads(lines[-1]) if lines else {"calls": 0}

        wait_for(lambda: tally()["calls"] > 0, "the first calls")
        for port in flags:
            before = tally()["calls"]
            assert gateways[port].stop() == 0
            started = gateway(*flags[port])
            wait_for(lambda: front.healthy() == len(flags), "Envoy finds it healthy again")
            wait_for(functools.partial(started.lines, "call"), "it gets calls again")
            assert tally()["calls"] > before
        load.terminate()
        status = load.wait(30)
    assert (status, tally()["failed"], tally()["failures"]) == (0, 0, {})
