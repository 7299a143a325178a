"""Callers and operators of one gateway in front of the sandbox: grpcurl, HTTP, the gateway's own commands, SIGTERM.

test_documents.py checks what docs/ prints: the sample shares, a 404, a 429 and a 503 in full, the service.
"""

import json
import re

import pytest
from support.gateway import command
from support.grpcurl import details
from support.vbs import METHOD, PROJECT, SERVICE, SHARE, share_of_status
from support.wait import wait_for

OTHER_PROJECT = "722513ed0a324dadaabe5b2d0fe848c9"
# Long enough to be found wherever it should not be.
TOKEN = "end-to-end-token-that-no-log-may-hold"
# The log at its most talkative.
TRACE = "trace,h2=trace,hyper=trace,opentelemetry=trace,reqwest=trace,rustls=trace,tonic=trace,tower=trace"

DESCRIBED = {
    "GetBackupShareResponse": ".vbs.v2.BackupShare backup_share = 1;",
    "BackupShare": "optional string id = 1; optional string backup_id = 2; optional string from_project_id = 3;"
    " optional string to_project_id = 4; .google.protobuf.Timestamp created_at = 5;"
    " .google.protobuf.Timestamp updated_at = 6; .vbs.v2.Backup backup = 7;",
    "Backup": "optional string id = 1; optional string name = 2; optional string description = 3;"
    " optional string status = 4; optional string fail_reason = 5; optional int64 size = 6;"
    " optional int64 object_count = 7; optional string container = 8; optional string availability_zone = 9;"
    " optional string volume_id = 10; optional string snapshot_id = 11; optional bool is_incremental = 12;"
    " optional bool has_dependent_backups = 13; optional string service_metadata = 14;"
    " .google.protobuf.Timestamp data_timestamp = 15; .google.protobuf.Timestamp created_at = 16;"
    " .google.protobuf.Timestamp updated_at = 17;",
}
STATUSES = {
    "13 UPSTREAM_UNEXPECTED_STATUS": [101, 201, 302, 600],
    "3 UPSTREAM_BAD_REQUEST": [400, 413, 414, 422, 431, 494],
    "16 UPSTREAM_UNAUTHENTICATED": [401],
    "7 UPSTREAM_FORBIDDEN": [403],
    "5 BACKUP_SHARE_NOT_FOUND": [404],
    "12 UPSTREAM_METHOD_NOT_ALLOWED": [405],
    "13 UPSTREAM_NOT_ACCEPTABLE": [406],
    "13 UPSTREAM_PROXY_AUTHENTICATION_REQUIRED": [407],
    "4 UPSTREAM_TIMEOUT": [408, 504],
    "10 UPSTREAM_CONFLICT": [409],
    "9 UPSTREAM_PRECONDITION_FAILED": [412],
    "9 UPSTREAM_CLIENT_ERROR": [418],
    "13 UPSTREAM_INTERNAL": [500],
    "12 UPSTREAM_NOT_IMPLEMENTED": [501],
    "14 UPSTREAM_BAD_GATEWAY": [502],
    "14 UPSTREAM_UNAVAILABLE": [503],
    "13 UPSTREAM_SERVER_ERROR": [507],
}


@pytest.fixture(scope="module")
def served(module_gateway):
    return module_gateway("--drain-delay=3s", "--drain-timeout=5s", f"--log={TRACE}")


@pytest.fixture
def call(served, grpcurl):
    return lambda *arguments, **more: grpcurl.call(served.address, *arguments, **({"token": TOKEN} | more))


def test_start_says_what_to_type(served):
    assert f"{served.address} {METHOD}" in served.stderr


def test_reflection_lists_the_methods(served, grpcurl):
    listed = grpcurl("-plaintext", served.address, "list", SERVICE).stdout
    assert listed == "vbs.v2.BackupShareService.GetBackupShare\n"


@pytest.mark.parametrize("message", DESCRIBED)
def test_reflection_describes(served, grpcurl, message):
    described = grpcurl("-plaintext", served.address, "describe", f"vbs.v2.{message}").stdout
    assert " ".join(re.findall(r"^ *([^/\s].* = \d+;)$", described, re.M)) == DESCRIBED[message]


def test_who_gets_the_share(call, served, tmp_path):
    share = call()
    assert share["backupShare"]["id"] == SHARE
    assert call(project=OTHER_PROJECT) == share
    assert call(SHARE.upper()) == share
    (tmp_path / "token").write_text(TOKEN + "\n")
    for done in (served.get(token=TOKEN), served.get("--token-file", tmp_path / "token", token=None)):
        assert (done.returncode, json.loads(done.stdout)) == (0, share), done.stderr


def test_request_id_comes_back(served, grpcurl):
    headers = ["-H", f"x-auth-token: {TOKEN}", "-H", "x-request-id: end-to-end-1"]
    body = f'{{"project_id": "{PROJECT}", "id": "{SHARE}"}}'
    verbose = grpcurl("-plaintext", "-v", *headers, "-d", body, served.address, METHOD).stdout
    assert "x-request-id: end-to-end-1" in verbose.partition("Response headers")[2]


def test_invalid_request(call):
    project = "must be 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'"
    share = f"must be a UUID in its 36-character form, such as {SHARE}"
    violations = [{"field": "project_id", "description": project}, {"field": "id", "description": share}]
    assert details(call("detail", project="a/b", headers=["x-request-id: end-to-end-2"])) == {
        "code": 3,
        "message": f"The request is invalid: project_id {project}; id {share}",
        "ErrorInfo": {"domain": "backup-share-gateway", "reason": "INVALID_REQUEST"},
        "BadRequest": {"fieldViolations": violations},
        "RequestInfo": {"requestId": "end-to-end-2"},
    }


def test_no_token(call):
    status = details(call(token=None))
    assert re.fullmatch("[0-9a-f]{32}", status.pop("RequestInfo")["requestId"])
    assert status == {
        "code": 16,
        "message": "The call has no x-auth-token header; send a token of the cloud's identity service",
        "ErrorInfo": {"domain": "backup-share-gateway", "reason": "TOKEN_MISSING"},
    }


@pytest.mark.parametrize("status, meaning", [(status, meaning) for meaning in STATUSES for status in STATUSES[meaning]])
def test_status(call, status, meaning):
    found = details(call(share_of_status(status)))
    assert f"{found['code']} {found['ErrorInfo']['reason']}" == meaning


@pytest.mark.parametrize(
    "service, answer", [("", '"status": "SERVING"'), (SERVICE, '"status": "SERVING"'), ("no.such", "Code: NotFound")]
)
def test_health_check(served, grpcurl, service, answer):
    body = f'{{"service": "{service}"}}'
    done = grpcurl("-plaintext", "-d", body, served.address, "grpc.health.v1.Health/Check")
    assert answer in done.stdout + done.stderr


def test_get_of_an_error(served):
    done = served.get(share=share_of_status(404), token=TOKEN)
    assert done.returncode == 1
    for words in ("NOT_FOUND", "reason: BACKUP_SHARE_NOT_FOUND (backup-share-gateway)", "httpStatus: 404"):
        assert words in done.stderr
    done = served.get(token=None)
    assert (done.returncode, "reason: TOKEN_MISSING (backup-share-gateway)" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "port, flags, status",
    [("address", [], 0), ("admin", [], 0), ("address", ["--service", SERVICE], 0), ("address", ["--service", "no"], 1)],
)
def test_health(served, port, flags, status):
    done = command("health", "--address", getattr(served, port), *flags)
    assert (done.returncode, done.stdout) == (status, "" if status else "SERVING\n"), done.stderr


def test_serve_without_an_upstream():
    done = command("serve")
    assert (done.returncode, "--upstream-url (GATEWAY_UPSTREAM_URL)" in done.stderr) == (64, True)


def test_admin_port(served):
    assert [served.admin_page(path).strip() for path in ("/livez", "/readyz")] == ["ok", "ok"]
    labels = f'{{rpc_method="{METHOD}",rpc_response_status_code="NOT_FOUND"}}'
    assert served.metric(f"rpc_server_call_duration_seconds_count{labels}") == 2
    assert served.metric('upstream_retries_total{reason="status"}') > 0


def test_sigterm(served, call):
    """The last one: it ends the gateway, and reads the log of all calls before."""
    served.terminate()
    wait_for(lambda: served.admin_status("/readyz") == 503, "/readyz is 503")
    assert call()["backupShare"]["id"] == SHARE, "calls are still accepted in the drain delay"
    assert served.wait(15) == 0
    assert served.lines("stopped")
    invalid = [line["request_id"] for line in served.lines("call") if line.get("reason") == "INVALID_REQUEST"]
    assert invalid == ["end-to-end-2"]
    assert TOKEN not in served.log_file.read_text() + served.stderr
