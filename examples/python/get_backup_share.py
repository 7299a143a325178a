"""Reads one backup share through backup-share-gateway. README.md shows how to run it."""

import argparse
import ipaddress
import json
import os
import re
import ssl
import sys
import unicodedata
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from grpc_status import rpc_status
from vbs.v2.backup_share_service_pb2 import GetBackupShareRequest
from vbs.v2.backup_share_service_pb2_grpc import BackupShareServiceStub

# Round robin makes one connection to each address of the name, which behind a headless Service is each pod.
#
# UNAVAILABLE covers a pod that stops or is gone, which the gateway itself cannot retry. grpcio marks such a call, and
# the gateway makes one attempt only for it. The other codes are left out: DEADLINE_EXCEEDED has no time left, and
# RESOURCE_EXHAUSTED is also what a request that is too large gets. Where the gateway says how long to wait
# (grpc-retry-pushback-ms), grpcio does so in place of the backoff.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "vbs.v2.BackupShareService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
TOKEN_VARIABLE = "OS_TOKEN"
MAX_TOKEN_BYTES = 32_768
ADDRESS = re.compile(r"(https?)://([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,9}))?/?")


class UsageError(Exception):
    """What was given cannot be used. Nothing has been sent."""


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=f"Reads one backup share. The token is read from the variable {TOKEN_VARIABLE}.", allow_abbrev=False
    )
    for flag, metavar, text in [
        ("--ca", "FILE", "PEM file of the CAs that verify the gateway's certificate; without it, the system's roots"),
        ("--cert", "FILE", "PEM file of the client certificate, for mutual TLS"),
        ("--key", "FILE", "PEM file of its private key"),
        ("--server-name", "NAME", "name in the gateway's certificate, if it is not the host of ADDRESS"),
    ]:
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument(
        "--deadline", metavar="SECONDS", type=float, default=10, help="time limit of the call, its retries included"
    )
    parser.add_argument(
        "--allow-plaintext",
        action="store_true",
        help="permit http to an address that is not loopback: token and share are sent unencrypted",
    )
    parser.add_argument("address", metavar="ADDRESS", help="https://HOST:PORT or http://HOST:PORT")
    parser.add_argument("project", metavar="PROJECT", help="ID of the project that reads the share")
    parser.add_argument("share", metavar="SHARE", help="ID of the share")
    return parser.parse_args()


def read_token():
    """The token, or "": a gateway that holds the credentials itself needs none."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) > MAX_TOKEN_BYTES or not all("!" <= char <= "~" for char in token):
        raise UsageError(f"{TOKEN_VARIABLE}: must be at most {MAX_TOKEN_BYTES} characters of visible ASCII")
    return token


def open_channel(arguments):
    """A channel to the address; it connects when the first call is made. TLS where the address is https."""
    # An empty value, such as that of an unset shell variable, must not mean the system's roots or no certificate.
    for flag in ("ca", "cert", "key", "server_name"):
        if getattr(arguments, flag) == "":
            raise UsageError(f"--{flag.replace('_', '-')}: has no value")
    if not arguments.address.startswith(("https://", "http://")):
        raise UsageError("ADDRESS: must begin with https:// or http://")
    match = ADDRESS.fullmatch(arguments.address)
    if not match:
        raise UsageError("ADDRESS: must be https://HOST:PORT or http://HOST:PORT, and nothing else")
    scheme, host, port = match.groups()
    if not port or not 0 < int(port) < 65536:
        raise UsageError("ADDRESS: must end with a port, such as https://gateway.example:50051")

    target = f"dns:///{host}:{port}"
    # Otherwise http_proxy or https_proxy would send the call to a proxy, even one to localhost.
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG)), ("grpc.enable_http_proxy", 0)]
    if scheme == "https":
        if arguments.server_name:
            options.append(("grpc.ssl_target_name_override", arguments.server_name))
        return grpc.secure_channel(target, tls_credentials(arguments), options)
    if arguments.ca or arguments.cert or arguments.key or arguments.server_name:
        raise UsageError("--ca, --cert, --key and --server-name need an https ADDRESS")
    if not arguments.allow_plaintext and not is_loopback(host):
        raise UsageError(
            "ADDRESS: http sends the token and the share unencrypted: "
            "use https, or --allow-plaintext in a trusted network"
        )
    return grpc.insecure_channel(target, options)


def is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def tls_credentials(arguments):
    """`ssl` checks the files and finds the system's roots: grpcio reports a bad file in the handshake only, and trusts
    roots of its own."""
    if arguments.ca:
        roots = read("--ca", arguments.ca)
        try:
            context = ssl.create_default_context(cafile=arguments.ca)
        except ssl.SSLError:
            raise UsageError(f"--ca: {arguments.ca} holds no certificate") from None
    else:
        context = ssl.create_default_context()
        roots = "".join(map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True))).encode()
        if not roots:
            raise UsageError("TLS: cannot be used (the system has no root certificates; name a file with --ca)")
    if bool(arguments.cert) != bool(arguments.key):
        raise UsageError("--cert and --key must be given together")
    if not arguments.cert:
        return grpc.ssl_channel_credentials(roots)
    cert, key = read("--cert", arguments.cert), read("--key", arguments.key)
    try:
        # Without a password, `ssl` would ask for that of an encrypted key.
        context.load_cert_chain(arguments.cert, arguments.key, password="")
    except ssl.SSLError as error:
        raise UsageError(f"--cert, --key: cannot be used ({error})") from None
    return grpc.ssl_channel_credentials(roots, key, cert)


def read(flag, path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{flag}: cannot read {path} ({error.strerror})") from None


def get(channel, arguments, token):
    request = GetBackupShareRequest(project_id=arguments.project, id=arguments.share)
    metadata = [("x-auth-token", token)] if token else []
    response = BackupShareServiceStub(channel).GetBackupShare(request, timeout=arguments.deadline, metadata=metadata)
    return response.backup_share


def format_share(share):
    """What was read, one field a line. `service_metadata` is left out, because it can hold key material."""
    names = ["id", "from_project_id", "to_project_id", "created_at", "updated_at"]
    lines = [f"{name}: {format_field(share, name)}" for name in names]
    if share.HasField("backup"):
        names = ["id", "name", "description", "status", "size", "object_count", "is_incremental", "data_timestamp"]
        lines += [f"backup.{name}: {format_field(share.backup, name)}" for name in names]
    else:
        lines.append("backup: unset")
    return "\n".join(lines)


def format_field(message, name):
    """HasField comes first: an unset field reads as "", 0, False or the first second of 1970."""
    if not message.HasField(name):
        return "unset"
    match getattr(message, name):
        case str(text):
            return f'"{printable(text)}"'
        case bool(flag):
            return str(flag).lower()
        case int(number):
            return str(number)
        case timestamp:
            return format_time(timestamp)


def format_time(timestamp):
    try:
        return timestamp.ToJsonString()
    except ValueError:
        return "invalid"


def format_status(error):
    """The status and its details, one a line. Programs act on the code and the reason; the message is for people."""
    lines = [error.code().name, f"message: {error.details()}"]
    details = read_details(error)
    if info := details.get(ErrorInfo):
        lines.append(f"reason: {info.reason} ({info.domain})")
        lines += [f"{key}: {value}" for key, value in sorted(info.metadata.items())]
        if info.reason == "TOKEN_MISSING":
            lines.append(f"this gateway requires a token: set {TOKEN_VARIABLE}")
    else:
        lines.append("reason: none (the status is the client library's or a proxy's)")
    if request := details.get(BadRequest):
        lines += [f"{violation.field}: {violation.description}" for violation in request.field_violations]
    if (retry := details.get(RetryInfo)) and retry.HasField("retry_delay"):
        lines.append(f"retry after: {retry.retry_delay.ToNanoseconds() / 1e9:g} s")
    if request := details.get(RequestInfo):
        lines.append(f"request ID: {request.request_id}")
    return "\n  ".join(map(printable, lines))


def read_details(error):
    """The details of a status, by type; none if they do not parse or belong to another status, as after a proxy."""
    details = {}
    try:
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            for kind in (ErrorInfo, BadRequest, RetryInfo, RequestInfo):
                message = kind()
                if detail.Unpack(message):
                    details[kind] = message
    except (ValueError, DecodeError):
        return {}
    return details


def printable(text):
    """Without control characters, which could rewrite what a terminal shows."""
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" else char for char in text)


def main():
    arguments = parse_arguments()
    try:
        if not 0 < arguments.deadline <= 86_400:
            raise UsageError("--deadline: must be more than 0 and at most 86400 seconds")
        channel, token = open_channel(arguments), read_token()
    except UsageError as problem:
        print(problem, file=sys.stderr)
        return 2
    with channel:
        try:
            share = get(channel, arguments, token)
        except grpc.RpcError as error:
            print(format_status(error), file=sys.stderr)
            return 1
    print(format_share(share))
    return 0


if __name__ == "__main__":
    sys.exit(main())
