"""Access keys, and a VBS that signs each request again: with the vendor's code or, in the legacy scheme, with the few
lines below."""

import hashlib
import hmac
import random
import re
import string
from dataclasses import dataclass

from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer
from support.upstream import Upstream


def random_text(alphabet, length):
    return "".join(random.choices(alphabet, k=length))


@dataclass
class Keys:
    access: str
    secret: str
    token: str = ""  # of temporary keys

    @classmethod
    def random(cls, temporary=False):
        token = random_text(string.ascii_letters + string.digits + "+/=", 400) if temporary else ""
        access = random_text(string.ascii_uppercase + string.digits, 20)
        return cls(access, random_text(string.ascii_letters + string.digits + "/+", 40), token)

    def variables(self):
        """The environment of a gateway that uses them."""
        named = {"OS_ACCESS_KEY": self.access, "OS_SECRET_KEY": self.secret, "OS_SECURITY_TOKEN": self.token}
        return {name: value for name, value in named.items() if value}


def vendor_signature(keys, path, headers):
    request = SdkRequest("GET", "http", headers["host"], path, path, [], headers, "", None, None)
    return Signer(BasicCredentials(keys.access, keys.secret, "project")).sign(request).header_params["Authorization"]


def legacy_signature(keys, path, headers):
    def mac(key, text):
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    date, names = headers["x-sdk-date"], ";".join(headers)
    lines = "".join(f"{name}:{value.strip()}\n" for name, value in headers.items())
    canonical = "\n".join(["GET", path + "/", "", lines, names, hashlib.sha256(b"").hexdigest()])
    scope = f"{date[:8]}///sdk_request"
    key = f"SDK{keys.secret}".encode()
    for part in (date[:8], "", "", "sdk_request"):
        key = mac(key, part)
    text = "\n".join(["SDK-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    credential = f"Credential={keys.access}/{scope}, SignedHeaders={names}"
    return f"SDK-HMAC-SHA256 {credential}, Signature={mac(key, text).hex()}"


class SignatureCheckingVbs(Upstream):
    """Answers with the share if `sign` makes the same signature with one of `keys`. `wrong` has all others."""

    def __init__(self, *place, keys, sign=vendor_signature):
        super().__init__(*place, respond=self._respond)
        self.keys, self.sign, self.wrong = [keys], sign, []

    def _respond(self, request):
        found = request.headers["authorization"]
        access, signed = re.search("(?:Access|Credential)=([^,/]*).*SignedHeaders=([^,]*)", found).groups()
        headers = {name: request.headers[name] for name in signed.split(";")}
        known = [keys for keys in self.keys if keys.access == access]
        expected = {(self.sign(keys, request.path, headers), keys.token) for keys in known}
        if (found, request.headers.get("x-security-token", "")) not in expected:
            self.wrong.append(f"{request.path}: {found} is none of {expected}")
            return 401, {"error_code": "APIGW.0301", "error_msg": "no"}
        project, share = re.search("/v2/([^/]*)/os-vendor-backup-sharing/(.*)$", request.path).groups()
        return 200, {"shared": {"id": share, "backup_id": "b", "from_project_id": project, "to_project_id": "t"}}
