"""The gateway with a genuine Keystone: every way to log in, errors, revocation, rotation and outage."""

import math
import secrets
import time

import pytest
from support.gateway import command
from support.keystone_gateway import (
    FLAGS,
    REJECTED,
    UNREACHABLE,
    outcome,
    renewals,
    serves,
    wait_for_calls,
    wait_for_log,
    wait_for_renewals,
    wait_until_serving,
    write_variables,
)
from support.wait import wait_for

UNKNOWN = "0" * 32


@pytest.fixture
def credential(keystone):
    """An application credential, which the test may delete."""
    return keystone.create_credential(secrets.token_hex(4))


def test_passthrough_forwards_the_token_of_the_caller(keystone, token_checking_vbs, gateway):
    served = gateway(upstream=token_checking_vbs)
    token, unauthenticated = keystone.token(), "UNAUTHENTICATED UPSTREAM_UNAUTHENTICATED vbs"
    assert outcome(served.get(project=keystone.project, token=token)) == "ok"
    assert outcome(served.get(project=keystone.second_project, token=token)) == unauthenticated
    keystone.revoke(token)
    assert outcome(served.get(project=keystone.project, token=token)) == unauthenticated
    assert outcome(served.get(project=keystone.project, token=None)) == "UNAUTHENTICATED TOKEN_MISSING"


LOGINS = {
    "password, endpoint from the catalog": lambda keystone, _: keystone.variables(),
    "URL without /v3": lambda keystone, _: keystone.variables(OS_AUTH_URL=keystone.url.removesuffix("/v3")),
    "project by name, domain by name": lambda keystone, _: keystone.variables(
        OS_PROJECT_ID=None, OS_PROJECT_NAME="eu-de", OS_USER_DOMAIN_ID="", OS_USER_DOMAIN_NAME="Default"
    ),
    "application credential by ID": lambda keystone, credential: keystone.credential_variables(credential),
    "application credential by name, no region": lambda keystone, credential: keystone.variables(
        OS_APPLICATION_CREDENTIAL_NAME=credential["name"],
        OS_APPLICATION_CREDENTIAL_SECRET=credential["secret"],
        **dict.fromkeys(["OS_PASSWORD", "OS_PROJECT_ID", "OS_REGION_NAME"]),
    ),
}


@pytest.mark.parametrize("login", LOGINS)
def test_login(keystone, credential, serving, get, login):
    served = serving(LOGINS[login](keystone, credential))
    assert get(served, keystone.project) == "ok"
    assert get(served, keystone.second_project) == "PERMISSION_DENIED CALLER_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("account", "changed", "words", "status"),
    [
        ("password", {"OS_PASSWORD": "wrong"}, "password is wrong", REJECTED),
        ("password", {"OS_PROJECT_ID": UNKNOWN}, "the password is right: there is no such project", REJECTED),
        ("credential", {"OS_APPLICATION_CREDENTIAL_SECRET": "wrong"}, "HTTP status 401", REJECTED),
        ("credential", {"OS_APPLICATION_CREDENTIAL_ID": UNKNOWN}, "HTTP status 404", REJECTED),
        ("password", {"OS_REGION_NAME": "nowhere"}, "it has identity (admin eu-de)", UNREACHABLE),
        ("password", {"OS_AUTH_URL": "http://127.0.0.1:1/v3"}, "cannot be reached", UNREACHABLE),
    ],
)
def test_wrong_account_is_logged_and_the_process_stays(
    keystone, credential, start, get, account, changed, words, status
):
    env = keystone.variables() if account == "password" else keystone.credential_variables(credential)
    served = start(env | changed)
    wait_for_log(served, words)
    assert get(served, changed.get("OS_PROJECT_ID", keystone.project)) == status
    assert not serves(served)
    assert served.process.poll() is None


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        pytest.param({}, 0, "ok    identity service, catalog: the upstream is http://127.0.0.1", id="good account"),
        pytest.param({"OS_PASSWORD": "wrong"}, 69, "password is wrong", id="wrong password"),
        pytest.param({"OS_REGION_NAME": "nowhere"}, 69, "it has identity (admin eu-de)", id="region without VBS"),
    ],
)
def test_check_connect(keystone, certificates, changed, status, words):
    done = command("check", "--connect", *FLAGS, *certificates.mutual_flags, env=keystone.variables(**changed))
    assert done.returncode == status, done
    assert words in done.stdout
    assert keystone.password not in done.stdout + done.stderr


def test_no_call_fails_when_tokens_are_revoked(keystone, token_checking_vbs, serving, load):
    served = serving(keystone.variables())
    token_checking_vbs.accepted.clear()
    calls = load(served, keystone.project)
    for _ in range(3):
        renewed = renewals(served)
        token = wait_for(lambda: token_checking_vbs.tokens_of(keystone.project), "a call")[-1]
        keystone.revoke(token)
        wait_for_renewals(served, renewed + 1)
        # A rejected call is repeated once with the new token: let those in flight end before the next revocation.
        wait_for_calls(served, 50)
        assert token_checking_vbs.tokens_of(keystone.project)[-1] != token
    calls.stop()


def test_deleted_credential_is_not_a_missing_share(keystone, credential, serving, get):
    served = serving(keystone.credential_variables(credential))
    assert get(served, keystone.project) == "ok"
    keystone.delete_credential(credential)
    assert get(served, keystone.project) == REJECTED
    assert serves(served)


def test_no_call_fails_when_the_credential_is_replaced(keystone, credential, serving, load, tmp_path):
    def mount(credential):
        write_variables(tmp_path, credential["name"], keystone.credential_variables(credential))

    old, new = credential, keystone.create_credential("new")
    mount(old)
    served = serving({}, f"--secrets-dir={tmp_path / 'secrets'}")
    calls = load(served, keystone.project)
    wait_for_calls(served, 1)
    renewed = renewals(served)
    mount(new)
    wait_for_log(served, "the new credential is in use")
    wait_for_renewals(served, renewed + 1)
    keystone.delete_credential(old)
    wait_for_calls(served, 100)
    calls.stop()


def test_no_call_fails_during_an_outage(changed_keystone, token_checking_vbs, serving, get, load):
    keystone = changed_keystone
    keystone.restart(token_lifetime=60)
    token_checking_vbs.memory = math.inf
    served = serving(keystone.variables())
    assert get(served, keystone.project) == "ok"  # from here on VBS remembers the token
    calls = load(served, keystone.project)
    wait_for_calls(served, 20)
    keystone.stop()
    wait_for_renewals(served, 1, "unreachable")
    keystone.start(token_lifetime=60)
    wait_for_renewals(served, 2)
    calls.stop()


def test_start_without_keystone(changed_keystone, start, get):
    keystone = changed_keystone
    keystone.stop()
    served = start(keystone.variables())
    wait_for_log(served, "cannot be reached")
    assert not serves(served)
    assert served.process.poll() is None
    keystone.start()
    wait_until_serving(served)
    assert get(served, keystone.project) == "ok"


def test_no_call_fails_with_short_token_lifetimes(changed_keystone, serving, load):
    keystone = changed_keystone
    keystone.restart(token_lifetime=3)
    served = serving(keystone.variables())
    calls, since = load(served, keystone.project, rate=50), time.monotonic()
    wait_for_renewals(served, 20)
    # No more than 80 in a minute: a token is not renewed much earlier than necessary.
    assert renewals(served) <= 1 + 80 * (time.monotonic() - since) / 60
    calls.stop()
