"""What callers that prove who they are need: certificates, and how the gateway and its `get` are told of them."""

import subprocess

CALLER = "reader.example"
SERVER_FLAGS = ["--tls-cert=server.pem", "--tls-key=server.key", "--tls-client-ca=ca.pem", f"--allow={CALLER}=*"]
CLIENT_FLAGS = ["--tls-ca=ca.pem", "--tls-cert=caller.pem", "--tls-key=caller.key", "--tls-server-name=localhost"]


def certificates(folder):
    """An authority, and a certificate for the gateway and its caller."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name, host in [("server", "localhost"), ("caller", CALLER)]:
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        with open(f"{folder}/{name}.ext", "w") as file:
            file.write(f"subjectAltName=DNS:{host}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")
