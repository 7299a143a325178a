"""The clients in examples/ have one command line and one output: each check runs all three."""

import contextlib
import json
import re
import socket
import threading

import pytest
from support.certificates import Certificates
from support.examples import LANGUAGES, Example
from support.upstream import DOCUMENTED_SHARE
from support.vbs import share_of_status
from support.wait import wait_for

TOKEN = "a-token-that-must-not-be-seen"

DOCUMENTED = """\
id: "8332443e-9866-41d8-8a58-a898cf5db030"
from_project_id: "c13f5220dc1949b0b741ea81a7cd5554"
to_project_id: "722513ed0a324dadaabe5b2d0fe848c9"
created_at: 2017-08-22T08:43:16.699374Z
updated_at: unset
backup.id: "066b1e37-9305-4057-97e5-2e99b21fc71d"
backup.name: "lbf"
backup.description: unset
backup.status: "available"
backup.size: 1
backup.object_count: 0
backup.is_incremental: unset
backup.data_timestamp: 2017-08-08T04:03:27Z
"""

SPARSE = """\
id: "ac0fb374-a288-4399-ac63-cc080a13a2ee"
from_project_id: "17fbda95add24720a4038ba4b1c705ed"
to_project_id: "91d687759aed45d28b5f6084bc2fa8ad"
created_at: unset
updated_at: unset
backup.id: "87566ed6-72cb-4053-aa6e-6f6216b3d507"
backup.name: "c2c-test-buckup"
backup.description: unset
backup.status: "available"
backup.size: 10
backup.object_count: 0
backup.is_incremental: unset
backup.data_timestamp: unset
"""

NOT_THE_GATEWAYS = "  reason: none (the status is the client library's or a proxy's)"


@pytest.fixture(scope="session", params=LANGUAGES)
def example(request):
    return Example(request.param)


@pytest.fixture(scope="module")
def modes(module_gateway, certificates):
    """The address of a gateway in front of the sandbox, and the flags of a client, by mode."""
    ca = f"--ca={certificates.ca}"
    pair = [f"--cert={certificates.caller}", f"--key={certificates.caller_key}"]
    return {
        "plaintext": (module_gateway(), "http", []),
        "tls": (module_gateway(*certificates.tls_flags), "https", [ca]),
        "mutual": (module_gateway(*certificates.mutual_flags), "https", [ca, *pair]),
    }


def plaintext(gateway):
    return f"http://{gateway.address}"


def assert_printed(done, text):
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def assert_failed(done, code, *lines):
    """The status is the last thing on stderr; grpcio logs the cause of a failed handshake before it."""
    assert (done.returncode, done.stdout) == (1, "")
    found = re.search(rf"^{code}\n  message: .*", done.stderr, re.M | re.S)
    assert found, done.stderr
    status = found.group().splitlines()
    assert [line for line in lines if line not in status] == [], done.stderr
    return status


def codes(gateway, count):
    """The codes of all calls that the gateway has got; `count` are expected."""
    wait_for(lambda: len(gateway.lines("call")) >= count, f"{count} lines in the access log")
    return [line["rpc.code"] for line in gateway.lines("call")]


@pytest.mark.parametrize("mode", ["plaintext", "tls", "mutual"])
def test_share_is_printed(example, modes, mode):
    gateway, scheme, flags = modes[mode]
    assert_printed(example(*flags, address=f"{scheme}://{gateway.address}"), DOCUMENTED)


@pytest.mark.parametrize("mode", ["plaintext", "tls", "mutual"])
def test_error_is_printed_with_its_details(example, modes, mode):
    gateway, scheme, flags = modes[mode]
    done = example(*flags, address=f"{scheme}://{gateway.address}", share=share_of_status(404))
    status = assert_failed(done, "NOT_FOUND")
    assert re.sub(r"(req-)?[0-9a-f]{32}", "…", "\n".join(status)) == "\n".join(
        [
            "NOT_FOUND",
            "  message: VBS has no such backup share: The backup share could not be found.",
            "  reason: BACKUP_SHARE_NOT_FOUND (backup-share-gateway)",
            "  attempts: 1",
            "  httpStatus: 404",
            "  service: vbs",
            "  upstreamCode: 404",
            "  upstreamRequestId: …",
            "  request ID: …",
        ]
    )


def test_system_roots_are_trusted(example, modes, certificates):
    gateway, _, _ = modes["tls"]
    done = example(address=f"https://{gateway.address}", env={"SSL_CERT_FILE": str(certificates.ca)})
    assert_printed(done, DOCUMENTED)


def test_unset_fields_are_shown_as_unset(example, modes):
    project, share = "17fbda95add24720a4038ba4b1c705ed", "ac0fb374-a288-4399-ac63-cc080a13a2ee"
    assert_printed(example(address=plaintext(modes["plaintext"][0]), project=project, share=share), SPARSE)


def test_set_fields_are_shown_as_set(example, gateway, upstream):
    document = json.loads(DOCUMENTED_SHARE.read_bytes())
    document["shared"]["backup"] |= {"description": "", "is_incremental": False, "size": 2**62, "name": "a\u001b[31mb"}
    upstream.respond = lambda _: (200, document)
    text = DOCUMENTED
    for line, shown in [
        ('name: "lbf"', 'name: "a\ufffd[31mb"'),
        ("description: unset", 'description: ""'),
        ("size: 1", f"size: {2**62}"),
        ("is_incremental: unset", "is_incremental: false"),
    ]:
        text = text.replace(line, shown)
    assert_printed(example(address=plaintext(gateway(upstream=upstream))), text)


def test_unset_message_is_shown_as_unset(example, gateway, upstream):
    document = json.loads(DOCUMENTED_SHARE.read_bytes())
    document["shared"]["backup"] = None
    upstream.respond = lambda _: (200, document)
    text = DOCUMENTED[: DOCUMENTED.index("backup.id")] + "backup: unset\n"
    assert_printed(example(address=plaintext(gateway(upstream=upstream))), text)


def test_invalid_field_is_named(example, modes):
    done = example(address=plaintext(modes["plaintext"][0]), share="detail")
    form = "must be a UUID in its 36-character form, such as 8332443e-9866-41d8-8a58-a898cf5db030"
    assert_failed(done, "INVALID_ARGUMENT", "  reason: INVALID_REQUEST (backup-share-gateway)", f"  id: {form}")


@pytest.mark.parametrize("token", [None, ""])
def test_missing_token_names_the_variable(example, modes, token):
    done = example(address=plaintext(modes["plaintext"][0]), token=token)
    reason = "  reason: TOKEN_MISSING (backup-share-gateway)"
    assert_failed(done, "UNAUTHENTICATED", reason, "  this gateway requires a token: set OS_TOKEN")


def test_unavailable_is_retried(example, gateway, upstream):
    statuses = iter([503, 503])
    upstream.respond = lambda _: (next(statuses, 200), DOCUMENTED_SHARE.read_bytes())
    served = gateway("--max-attempts=1", upstream=upstream)
    assert_printed(example(address=plaintext(served)), DOCUMENTED)
    assert codes(served, 3) == ["UNAVAILABLE", "UNAVAILABLE", "OK"]


def test_retries_of_client_and_gateway_do_not_multiply(example, gateway, upstream):
    upstream.respond = lambda _: (503, {})
    served = gateway(upstream=upstream)
    reason = "  reason: UPSTREAM_UNAVAILABLE (backup-share-gateway)"
    assert_failed(example(address=plaintext(served)), "UNAVAILABLE", reason, "  retry after: 1 s")
    assert codes(served, 3) == ["UNAVAILABLE"] * 3
    assert [line["attempts"] for line in served.lines("call")] == [3, 1, 1]


def test_other_codes_are_not_retried(example, gateway):
    served = gateway("--max-attempts=1")
    for status, code in [(429, "RESOURCE_EXHAUSTED"), (500, "INTERNAL"), (504, "DEADLINE_EXCEEDED")]:
        assert_failed(example(address=plaintext(served), share=share_of_status(status)), code)
    served.stop()
    assert codes(served, 3) == ["RESOURCE_EXHAUSTED", "INTERNAL", "DEADLINE_EXCEEDED"]


def test_deadline_limits_the_call(example, gateway, upstream):
    done = threading.Event()
    upstream.respond = lambda _: (200 if done.wait(60) else 500, {})
    try:
        assert_failed(example("--deadline=0.5", address=plaintext(gateway(upstream=upstream))), "DEADLINE_EXCEEDED")
    finally:
        done.set()


def test_lost_connection_is_unavailable(example, gateway, upstream):
    served = gateway(upstream=upstream)
    upstream.respond = lambda _: served.kill() or (200, {})
    assert_failed(example(address=plaintext(served)), "UNAVAILABLE", NOT_THE_GATEWAYS)


class SilentPeer:
    """Accepts connections, records what they send and never responds."""

    def __init__(self):
        self.received = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._record, args=(self.listener.accept()[0],), daemon=True).start()

    def _record(self, connection):
        with connection, contextlib.suppress(OSError):
            content = bytearray()
            self.received.append(content)
            while part := connection.recv(65536):
                content += part


@pytest.fixture
def silent_peer():
    peer = SilentPeer()
    yield peer
    peer.listener.close()


@pytest.fixture
def closing_peer():
    """The address of a peer that closes each connection at once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def close_each():
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    threading.Thread(target=close_each, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_connection_that_is_closed_at_once_is_unavailable(example, closing_peer):
    for scheme in ("http", "https"):
        assert_failed(example(address=f"{scheme}://{closing_peer}"), "UNAVAILABLE", NOT_THE_GATEWAYS)


def test_deadline_includes_the_connection(example, silent_peer):
    for scheme in ("http", "https"):
        done = example("--deadline=0.5", address=f"{scheme}://{silent_peer.address}")
        assert_failed(done, "DEADLINE_EXCEEDED", NOT_THE_GATEWAYS)


def test_https_address_never_goes_out_in_the_clear(example, silent_peer):
    example("--deadline=0.5", address=f"https://{silent_peer.address}", token=TOKEN)
    wait_for(lambda: silent_peer.received and all(silent_peer.received), "what the example has sent")
    for content in silent_peer.received:
        assert content[:2] == b"\x16\x03", "the first bytes are a TLS handshake"
        assert TOKEN.encode() not in content


def test_https_address_of_a_plaintext_port_fails(example, gateway):
    served = gateway()
    assert_failed(example(address=f"https://{served.address}"), "UNAVAILABLE", NOT_THE_GATEWAYS)
    served.stop()
    assert codes(served, 0) == []


def test_http_address_of_a_tls_port_fails(example, modes):
    assert_failed(example(address=plaintext(modes["tls"][0])), "UNAVAILABLE", NOT_THE_GATEWAYS)


@pytest.fixture(scope="session")
def other_certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("other-certificates"))


def test_certificate_of_another_ca_is_refused(example, modes, other_certificates):
    done = example(f"--ca={other_certificates.ca}", address=f"https://{modes['tls'][0].address}", token=TOKEN)
    assert_failed(done, "UNAVAILABLE", NOT_THE_GATEWAYS)
    assert TOKEN not in done.stderr


def test_certificate_that_no_system_root_has_signed_is_refused(example, modes):
    assert_failed(example(address=f"https://{modes['tls'][0].address}"), "UNAVAILABLE", NOT_THE_GATEWAYS)


def test_mutual_tls_needs_a_client_certificate(example, modes, certificates):
    gateway, _, _ = modes["mutual"]
    done = example(f"--ca={certificates.ca}", address=f"https://{gateway.address}")
    assert_failed(done, "UNAVAILABLE", NOT_THE_GATEWAYS)


def test_certificate_of_another_name_needs_server_name(example, gateway, certificates):
    cert, key = certificates.issue("named", "DNS:gateway.example")
    served = gateway(f"--tls-cert={cert}", f"--tls-key={key}")
    flags, address = [f"--ca={certificates.ca}"], f"https://{served.address}"
    assert_failed(example(*flags, address=address), "UNAVAILABLE", NOT_THE_GATEWAYS)
    assert_printed(example(*flags, "--server-name=gateway.example", address=address), DOCUMENTED)


def test_proxy_variables_are_not_used(example, modes, silent_peer):
    proxy = f"http://{silent_peer.address}"
    env = dict.fromkeys(("grpc_proxy", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
    for mode in ("plaintext", "tls"):
        gateway, scheme, flags = modes[mode]
        assert_printed(example(*flags, address=f"{scheme}://{gateway.address}", env=env), DOCUMENTED)
    assert silent_peer.received == []


def test_plaintext_beyond_loopback_needs_a_flag(example, modes):
    """Linux connects 0.0.0.0 to this machine, and it is no loopback address."""
    address = f"http://0.0.0.0:{modes['plaintext'][0].address.rpartition(':')[2]}"
    done = example(address=address, token=TOKEN)
    problem = (
        "ADDRESS: http sends the token and the share unencrypted: use https, or --allow-plaintext in a trusted network"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{problem}\n")
    assert_printed(example("--allow-plaintext", address=address), DOCUMENTED)


FORM = "ADDRESS: must be https://HOST:PORT or http://HOST:PORT, and nothing else"
SCHEME = "ADDRESS: must begin with https:// or http://"
PORT = "ADDRESS: must end with a port, such as https://gateway.example:50051"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("gateway.example:50051", SCHEME),
        ("ftp://gateway.example:50051", SCHEME),
        ("dns:///gateway.example:50051", SCHEME),
        ("https://gateway.example", PORT),
        ("https://[::1]", PORT),
        ("http://127.0.0.1", PORT),
        ("https://gateway.example:0", PORT),
        ("https://gateway.example:65536", PORT),
        ("https://", FORM),
        ("https://:50051", FORM),
        ("https://token@gateway.example:50051", FORM),
        ("https://gateway.example:50051/v2", FORM),
        ("https://gateway.example:50051?x", FORM),
        ("https://gateway.example:50051#x", FORM),
        ("http://127.0.0.1:50051//", FORM),
        ("http://127.0.0.1:50051\n", FORM),
        ("http://local\thost:50051", FORM),
        ("http://[::1]example:50051", FORM),
        ("http://127.0.0.1@gateway.example:50051", FORM),
    ],
)
def test_address_that_cannot_be_used_is_explained(example, address, problem):
    done = example(address=address)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{problem}\n")


@pytest.mark.parametrize(
    ("scheme", "flags", "problem"),
    [
        ("https", ["--ca=missing.pem"], "--ca: cannot read missing.pem (no such file or directory"),
        ("https", ["--ca={key}"], "--ca: {key} holds no certificate"),
        ("https", ["--cert=missing.pem", "--key={key}"], "--cert: cannot read missing.pem (no such file or directory"),
        ("https", ["--cert={cert}", "--key=missing.pem"], "--key: cannot read missing.pem (no such file or directory"),
        ("https", ["--cert={cert}", "--key={other_key}"], "--cert, --key: cannot be used ("),
        ("https", ["--cert={key}", "--key={key}"], "--cert, --key: cannot be used ("),
        ("https", ["--cert={cert}"], "--cert and --key must be given together"),
        ("https", ["--key={key}"], "--cert and --key must be given together"),
        ("http", ["--ca={ca}"], "--ca, --cert, --key and --server-name need an https ADDRESS"),
        ("http", ["--server-name=x"], "--ca, --cert, --key and --server-name need an https ADDRESS"),
        ("http", ["--deadline=0"], "--deadline: must be more than 0 and at most 86400 seconds"),
        ("http", ["--deadline=nan"], "--deadline: must be more than 0 and at most 86400 seconds"),
        ("http", ["--deadline=1e9"], "--deadline: must be more than 0 and at most 86400 seconds"),
    ],
)
def test_flag_that_cannot_be_used_is_explained(example, certificates, scheme, flags, problem):
    names = {
        "ca": certificates.ca,
        "cert": certificates.caller,
        "key": certificates.caller_key,
        "other_key": certificates.server_key,
    }
    done = example(*[flag.format(**names) for flag in flags], address=f"{scheme}://127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.lower().startswith(problem.format(**names).lower())


@pytest.mark.parametrize("flag", ["--ca", "--cert", "--key", "--server-name"])
def test_empty_value_is_refused(example, flag):
    """A flag with the value of an unset shell variable does not mean the system's roots or no certificate."""
    done = example(f"{flag}=", address="https://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert flag in done.stderr


def test_token_that_cannot_be_sent_is_refused(example):
    for token in ("a b", "a\nb", "ä", "a" * 32769):
        done = example(address="http://127.0.0.1:1", token=token)
        problem = "OS_TOKEN: must be at most 32768 characters of visible ASCII"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{problem}\n")
