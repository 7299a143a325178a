"""Gateways with an account at a genuine Keystone: fixtures, and what they do."""

import re

import pytest
from support.gateway import command
from support.load import Load
from support.wait import wait_for

FLAGS = ("--auth=keystone", "--allow-plaintext-upstream")
REJECTED = "INTERNAL UPSTREAM_UNAUTHENTICATED identity"
UNREACHABLE = "UNAVAILABLE UPSTREAM_UNREACHABLE identity"


@pytest.fixture
def start(gateway, certificates):
    """Starts a gateway with `--auth keystone`, mutual TLS and these variables."""
    return lambda env, *flags: gateway(*FLAGS, *certificates.mutual_flags, *flags, env=env, sandbox=False)


@pytest.fixture
def serving(start):
    """The same, and waits until it serves."""

    def start_and_wait(env, *flags):
        served = start(env, *flags)
        wait_until_serving(served)
        return served

    return start_and_wait


@pytest.fixture
def get(certificates):
    """`get` with a client certificate: `ok`, or the code, the reason and the service of the failure."""
    return lambda gateway, project: outcome(gateway.get(*certificates.mutual_client_flags, project=project))


@pytest.fixture
def load(certificates):
    """Starts calls for a project; they are ended in any case."""
    started = []

    def start(gateway, project, **options):
        started.append(Load(gateway, certificates, project, **options))
        return started[-1]

    yield start
    for running in started:
        running.kill()


@pytest.fixture
def changed_keystone(keystone, token_checking_vbs):
    """For tests that stop Keystone or change its settings: both services are as before afterwards."""
    yield keystone
    token_checking_vbs.memory = 0
    token_checking_vbs.accepted.clear()
    keystone.restart()


def outcome(done):
    if done.returncode == 0:
        return "ok"
    parts = [re.search(form, done.stderr, re.M) for form in (r"^([A-Z_]+)$", r"reason: (\S+)", r"service: (\S+)")]
    return " ".join(part.group(1) for part in parts if part)


def serves(gateway):
    return command("health", "--address", gateway.admin).returncode == 0


def wait_until_serving(gateway):
    wait_for(lambda: serves(gateway), "the gateway serves", 60)


def wait_for_log(gateway, words):
    def found():
        return any(words in line.get("message", "") or words in line.get("detail", "") for line in gateway.log)

    wait_for(found, f"{words!r} in the log", 60)


def wait_for_calls(gateway, count):
    since = len(gateway.lines("call"))
    wait_for(lambda: len(gateway.lines("call")) >= since + count, f"{count} more calls", 60)


def renewals(gateway, result="success"):
    return gateway.metric(f'auth_token_renewals_total{{outcome="{result}"}}')


def wait_for_renewals(gateway, count, result="success"):
    wait_for(lambda: renewals(gateway, result) >= count, f"{count} token renewals ({result})", 60)


def write_variables(folder, name, variables):
    """Makes `folder/secrets` these files in one step, by a symbolic link, as the kubelet does."""
    (folder / name).mkdir()
    for variable, value in variables.items():
        (folder / name / variable).write_text(value + "\n")
    (folder / "secrets.new").symlink_to(name)
    (folder / "secrets.new").rename(folder / "secrets")
