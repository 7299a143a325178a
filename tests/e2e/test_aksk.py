"""Signatures of the gateway against the vendor's own signer, on random requests.

The upstream signs each request again, with the vendor's code or, in the legacy scheme, with the few lines below, and
answers with the share only if both signatures are equal.
"""

import hashlib
import hmac
import random
import re
import string
import uuid

import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer

CALLS = 40


def random_text(alphabet, length):
    return "".join(random.choices(alphabet, k=length))


def vendor_signature(access_key, secret_key, path, headers):
    request = SdkRequest("GET", "http", headers["host"], path, path, [], headers, "", None, None)
    return Signer(BasicCredentials(access_key, secret_key, "project")).sign(request).header_params["Authorization"]


def legacy_signature(access_key, secret_key, path, headers):
    def mac(key, text):
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    date, names = headers["x-sdk-date"], ";".join(headers)
    lines = "".join(f"{name}:{value.strip()}\n" for name, value in headers.items())
    canonical = "\n".join(["GET", path + "/", "", lines, names, hashlib.sha256(b"").hexdigest()])
    scope = f"{date[:8]}///sdk_request"
    key = f"SDK{secret_key}".encode()
    for part in (date[:8], "", "", "sdk_request"):
        key = mac(key, part)
    text = "\n".join(["SDK-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    credential = f"Credential={access_key}/{scope}, SignedHeaders={names}"
    return f"SDK-HMAC-SHA256 {credential}, Signature={mac(key, text).hex()}"


@pytest.mark.parametrize("security_token", [False, True], ids=["permanent keys", "temporary keys"])
@pytest.mark.parametrize(("scheme", "sign"), [("sdk", vendor_signature), ("legacy", legacy_signature)])
def test_signatures(gateway, certificates, upstream, scheme, sign, security_token):
    access_key = random_text(string.ascii_uppercase + string.digits, 20)
    secret_key = random_text(string.ascii_letters + string.digits + "/+", 40)
    token = random_text(string.ascii_letters + string.digits + "+/=", 400) if security_token else None
    wrong = []

    def respond(request):
        found = request.headers["authorization"]
        signed = re.search("SignedHeaders=([^,]*)", found).group(1).split(";")
        expected = sign(access_key, secret_key, request.path, {name: request.headers[name] for name in signed})
        if found != expected or request.headers.get("x-security-token") != token:
            wrong.append(f"{request.path}: {found} is not {expected}")
            return 401, {"error_code": "APIGW.0301", "error_msg": "no"}
        project, share = re.search("/v2/([^/]*)/os-vendor-backup-sharing/(.*)$", request.path).groups()
        return 200, {"shared": {"id": share, "backup_id": "b", "from_project_id": project, "to_project_id": "t"}}

    upstream.respond = respond
    env = {"OS_ACCESS_KEY": access_key, "OS_SECRET_KEY": secret_key, "OS_SECURITY_TOKEN": token or ""}
    flags = ["--auth=aksk", f"--aksk-scheme={scheme}", *certificates.mutual_flags]
    served = gateway(*flags, env=env, upstream=upstream.url + random.choice(["", "/vbs", "/a/b-c_d~e"]))
    for _ in range(CALLS):
        project = random_text(string.ascii_letters + string.digits + "_-", random.randint(1, 64))
        share = str(uuid.UUID(int=random.getrandbits(128)))
        done = served.get(*certificates.mutual_client_flags, project=project, share=share, token=None)
        assert (done.stderr, done.returncode, wrong) == ("", 0, [])
    assert len(upstream.requests) == CALLS
