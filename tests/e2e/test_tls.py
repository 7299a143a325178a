"""TLS and mutual TLS, with grpcurl and with the gateway's own `get`."""

from support.vbs import PROJECT, SHARE
from support.wait import wait_for


def test_tls(gateway, certificates, grpcurl):
    served = gateway(*certificates.tls_flags)
    assert grpcurl.call(served.address, SHARE, "-cacert", certificates.ca)["backupShare"]["id"] == SHARE
    assert served.get(*certificates.tls_client_flags).returncode == 0


def test_mutual_tls(gateway, certificates, grpcurl, upstream):
    served = gateway(*certificates.mutual_flags, upstream=upstream)
    flags = ["-cacert", certificates.ca, "-cert", certificates.caller, "-key", certificates.caller_key]
    assert grpcurl.call(served.address, SHARE, *flags, token="caller's")["backupShare"]["id"] == SHARE
    assert [(request.path, request.headers["x-auth-token"]) for request in upstream.requests] == [
        (f"/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE}", "caller's")
    ]
    assert served.get(*certificates.mutual_client_flags).returncode == 0
    refused = served.get(*certificates.tls_client_flags)
    assert refused.returncode == 1
    calls = wait_for(lambda: len(served.lines("call")) == 2 and served.lines("call"), "two lines of the access log")
    assert [call["rpc.code"] for call in calls] == ["OK", "OK"]
