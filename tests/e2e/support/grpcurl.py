"""grpcurl, the caller of most checks."""

import json
import subprocess

from support.tools import tool
from support.vbs import METHOD, PROJECT, SHARE


def grpcurl(*arguments, timeout=60):
    """Runs it; a finished process with text."""
    command = [tool("bin/grpcurl"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def call(address, share=SHARE, *flags, project=PROJECT, token="any", headers=()):
    """GetBackupShare: the response, or the status with its `code`, as JSON. `flags` without `-plaintext` mean TLS:
    `-cacert`, `-insecure`, …; none mean plaintext."""
    headers = [*([f"x-auth-token: {token}"] if token else []), *headers]
    options = [part for header in headers for part in ("-H", header)]
    body = json.dumps({"project_id": project, "id": share})
    options += ["-max-time", "20", "-format-error", *(flags or ["-plaintext"]), "-d", body]
    done = grpcurl(*options, address, METHOD)
    try:
        return json.loads(done.stdout or done.stderr)
    except ValueError:
        raise AssertionError(f"not JSON: {done.stdout}{done.stderr}") from None


def details(status):
    """A status with each of its details by the name of its type: `details(status)["ErrorInfo"]["reason"]`."""
    found = {"code": status["code"], "message": status["message"]}
    for detail in status.get("details", []):
        name = detail["@type"].rpartition(".")[2]
        assert name not in found, f"two details of one type: {status}"
        found[name] = {key: value for key, value in detail.items() if key != "@type"}
    return found


grpcurl.call = call
