"""A certificate authority, and certificates of a server and a caller."""

import subprocess

from support.tools import tool

CALLER = "reader.example"


class Certificates:
    """`ca`, `server` (localhost and 127.0.0.1) and `caller` (reader.example): files ca.pem, server.pem, server.key, …
    in `folder`, and the flags of `serve` and `get` that name them."""

    def __init__(self, folder):
        self.folder = folder
        self._openssl("req", "-x509", *self._key("ca"), "-subj", "/CN=ca", "-days", "2", "-out", "ca.pem")
        self.ca = folder / "ca.pem"
        self.server, self.server_key = self.issue("server", "DNS:localhost,IP:127.0.0.1")
        self.caller, self.caller_key = self.issue("caller", f"DNS:{CALLER}")
        self.tls_flags = [f"--tls-cert={self.server}", f"--tls-key={self.server_key}"]
        self.mutual_flags = [*self.tls_flags, f"--tls-client-ca={self.ca}", f"--allow={CALLER}=*"]
        self.tls_client_flags = [f"--tls-ca={self.ca}", "--tls-server-name=localhost"]
        self.mutual_client_flags = [*self.tls_client_flags, f"--tls-cert={self.caller}", f"--tls-key={self.caller_key}"]

    def issue(self, name, names):
        """A certificate for these subject alternative names; returns its file and its key's."""
        extensions = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"]
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2"]
        self._openssl(
            "req", "-x509", *self._key(name), *authority, "-subj", f"/CN={name}", *extensions, "-out", f"{name}.pem"
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    @staticmethod
    def _key(name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]

    def _openssl(self, *arguments):
        done = subprocess.run(
            [tool("openssl"), *arguments], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
