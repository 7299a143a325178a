"""Many projects with a genuine Keystone: each has a token, and nothing that happens to one costs a call of another."""

import math

import pytest
from support.gateway import command
from support.keystone_gateway import (
    FLAGS,
    REJECTED,
    outcome,
    renewals,
    wait_for_calls,
    wait_for_log,
    wait_for_renewals,
    write_variables,
)
from support.wait import wait_for


@pytest.fixture
def variables(keystone):
    """The account without a project, with the password of this moment."""
    return lambda **changed: keystone.variables(OS_PROJECT_ID=None, **changed)


@pytest.fixture
def projects(keystone):
    """The two projects that the account may use."""
    return keystone.project, keystone.second_project


@pytest.fixture
def loads(load, projects):
    """Starts calls for both projects."""
    return lambda gateway: [load(gateway, project, rate=50) for project in projects]


def tokens(gateway):
    return gateway.metric("auth_tokens")


def refusals_of_calls(gateway, project):
    """The log lines of calls for a project that failed."""
    return [line for line in gateway.lines("call") if line.get("project_id") == project and line["rpc.code"] != "OK"]


def test_each_project_has_its_token_and_a_forbidden_one_is_refused(keystone, projects, variables, serving, get):
    served = serving(variables())
    assert (tokens(served), renewals(served)) == (0, 0)
    for _ in range(3):
        assert [get(served, project) for project in projects] == ["ok", "ok"]
        assert get(served, keystone.forbidden_project) == REJECTED
    assert (tokens(served), renewals(served), renewals(served, "refused")) == (2, 2, 1)
    issued = served.lines("the identity service issued a token")
    assert {line["project"] for line in issued} == set(projects)
    (failed,) = served.lines("no token: the request for a new one failed")
    assert failed["project"] == keystone.forbidden_project
    assert "the password is right: there is no such project" in failed["detail"]


def test_project_that_is_refused_first_does_not_delay_the_others(keystone, projects, variables, serving, get):
    served = serving(variables())
    assert get(served, keystone.forbidden_project) == REJECTED
    assert [get(served, project) for project in projects] == ["ok", "ok"]


def test_wrong_password_is_tried_once(keystone, variables, serving, get):
    served = serving(variables(OS_PASSWORD="wrong"))
    for number in range(20):
        assert get(served, f"project-{number}") == REJECTED
    assert renewals(served, "refused") == 1
    wait_for_log(served, "password is wrong")
    # It is not locked.
    assert keystone.token()


def test_no_call_fails_when_tokens_of_one_project_are_revoked(
    keystone, projects, token_checking_vbs, variables, serving, get, loads
):
    token_checking_vbs.accepted.clear()
    served = serving(variables())
    running = loads(served)
    first, second = projects
    wait_for(lambda: all(map(token_checking_vbs.tokens_of, projects)), "calls for both projects")
    for _ in range(3):
        renewed, token = renewals(served), token_checking_vbs.tokens_of(first)[-1]
        keystone.revoke(token)
        wait_for_renewals(served, renewed + 1)
        assert get(served, keystone.forbidden_project) == REJECTED
        # A rejected call is repeated once with the new token: let those in flight end before the next revocation.
        wait_for_calls(served, 100)
        assert token_checking_vbs.tokens_of(first)[-1] != token
    for calls in running:
        calls.stop()
    assert len(set(token_checking_vbs.tokens_of(second))) == 1
    assert not any(refusals_of_calls(served, project) for project in projects)


def test_no_call_fails_after_a_restart_of_the_gateway(keystone, variables, serving, get, loads):
    for _ in range(2):
        served = serving(variables())
        # The first calls meet a gateway without a token.
        running = loads(served)
        wait_for_calls(served, 100)
        assert get(served, keystone.forbidden_project) == REJECTED
        for calls in running:
            calls.stop()
        assert served.stop() == 0


def test_no_call_fails_when_keystone_restarts(
    changed_keystone, projects, token_checking_vbs, variables, serving, get, loads
):
    keystone = changed_keystone
    keystone.restart(token_lifetime=60)
    token_checking_vbs.memory = math.inf
    served = serving(variables())
    assert [get(served, project) for project in projects] == ["ok", "ok"]  # VBS remembers these tokens
    running = loads(served)
    wait_for_calls(served, 20)
    keystone.stop()
    wait_for_renewals(served, 2, "unreachable")
    keystone.start(token_lifetime=60)
    wait_for_renewals(served, 4)
    for calls in running:
        calls.stop()


def test_no_call_fails_when_the_password_is_replaced(
    changed_keystone, projects, token_checking_vbs, variables, serving, get, loads, tmp_path
):
    keystone = changed_keystone
    write_variables(tmp_path, "old", variables())
    served = serving({}, f"--secrets-dir={tmp_path / 'secrets'}")
    # Keystone revokes all tokens when it gets the new password: VBS must remember those of the calls meanwhile.
    token_checking_vbs.memory = math.inf
    assert [get(served, project) for project in projects] == ["ok", "ok"]
    running = loads(served)
    wait_for_calls(served, 50)
    keystone.change_password()
    write_variables(tmp_path, "new", variables())
    wait_for_log(served, "the new credential is in use")
    wait_for_renewals(served, 4)
    wait_for_calls(served, 100)
    for calls in running:
        calls.stop()
    assert renewals(served, "refused") == 0


def test_token_that_is_not_used_is_dropped(changed_keystone, projects, variables, serving, get, load):
    changed_keystone.restart(token_lifetime=3)
    served = serving(variables())
    used, unused = projects
    calls = load(served, used, rate=50)
    assert get(served, unused) == "ok"
    wait_for(lambda: tokens(served) == 2, "two tokens")
    wait_for(lambda: tokens(served) == 1, "the end of the unused token")
    wait_for_renewals(served, renewals(served) + 3)
    calls.stop()
    issued = [line["project"] for line in served.lines("the identity service issued a token")]
    assert issued.count(unused) == 1


def test_check_connect_with_and_without_a_project(keystone, projects, certificates, variables):
    flags = ("check", "--connect", *FLAGS, *certificates.mutual_flags)
    _, second = projects
    done = command(*flags, f"--project-id={second}", env=variables())
    assert done.returncode == 0, done
    assert f"ok    identity service, token: issued for {second}" in done.stdout
    assert "ok    identity service, catalog: the upstream is http://127.0.0.1" in done.stdout
    done = command(*flags, f"--project-id={keystone.forbidden_project}", env=variables())
    assert done.returncode == 69, done
    assert "the password is right: there is no such project" in done.stdout
    done = command(*flags, env=variables())
    assert done.returncode == 0, done
    assert "skip  identity service, token and catalog: each project has a token of its own" in done.stdout


def test_call_for_another_project_than_that_of_the_account_is_denied(keystone, serving, get, certificates):
    served = serving(keystone.variables())
    assert get(served, keystone.second_project) == "PERMISSION_DENIED CALLER_NOT_ALLOWED"
    rule = f"--allow=other.example={keystone.second_project}"
    done = command("serve", *FLAGS, *certificates.mutual_flags, rule, env=keystone.variables())
    assert done.returncode == 64, done
    assert f"the rules name {keystone.second_project}" in done.stderr
    assert outcome(served.get(*certificates.mutual_client_flags, project=keystone.project)) == "ok"
