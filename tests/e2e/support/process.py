"""Other programs that run for the length of a check."""

import contextlib
import socket
import subprocess


@contextlib.contextmanager
def running(log, *command, env=None):
    """A process whose output goes to the file `log`. At the end it gets SIGTERM, and must end."""
    with log.open("wb") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=env or {})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def free_ports(count):
    """Ports of loopback that nothing listened on a moment ago, for programs that cannot take port 0."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
