"""The certificates of an installation and of its callers, as Secrets."""

import socket
import ssl

from support.certificates import CALLER, Certificates
from support.wait import wait_for

CALLER_SECRET = "caller-tls"


class TlsSecrets:
    """The Secret of the gateway's certificate, and that of the caller `support.certificates.CALLER`."""

    def __init__(self, deployment, folder):
        self.deployment, self.certificates = deployment, Certificates(folder)
        self.caller = self._issue(CALLER_SECRET, CALLER)
        self.renew_server()

    def _issue(self, name, *hosts):
        files = self.certificates.issue(name, ",".join(f"DNS:{host}" for host in hosts))
        paths = dict(zip(("tls.crt", "tls.key", "ca.crt"), (*files, self.certificates.ca), strict=True))
        self.deployment.cluster.write_secret(name, {key: path.read_text() for key, path in paths.items()})
        return files

    def renew_server(self):
        name = self.deployment.name
        self.server, _ = self._issue(f"{name}-tls", name, f"{name}-headless", self.deployment.host)

    def wait_until_presented(self):
        """Until each pod presents the latest certificate in a handshake."""
        for address in self.deployment.serving().values():
            wait_for(lambda address=address: self._is_presented_by(address), "the new certificate", 90)

    def _is_presented_by(self, address):
        context = ssl.create_default_context(cafile=self.certificates.ca)
        context.load_cert_chain(*self.caller)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((address, 50051), timeout=5) as tcp,
            context.wrap_socket(tcp, server_hostname=self.deployment.host) as tls,
        ):
            presented = tls.getpeercert(binary_form=True)
        return presented == ssl.PEM_cert_to_DER_cert(self.server.read_text())
