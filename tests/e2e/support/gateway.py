"""A gateway process, its log and its admin port, and the gateway's other commands."""

import json
import re
import subprocess
import urllib.error
import urllib.request

from support.tools import gateway_binary
from support.vbs import PROJECT, SHARE
from support.wait import wait_for

DEFAULTS = ("--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--drain-delay=0s", "--log-format=json")


def command(*arguments, env=None, prefix=(), **options):
    """Runs the gateway with these arguments, and in no environment but `env`, to its end."""
    options = {"capture_output": True, "text": True, "timeout": 120, "check": False} | options
    return subprocess.run([*prefix, gateway_binary(), *map(str, arguments)], env=env or {}, **options)


class Gateway:
    """A running `serve`.

    Its upstream is the sandbox, or `upstream`: a support.upstream.Upstream or a URL. Neither where `sandbox` is false,
    for flags that name it themselves. `env` is all of its environment. A flag replaces the default of its name.
    `prefix` is a command that becomes the gateway by exec.
    """

    def __init__(self, folder, *flags, env=None, sandbox=True, upstream=None, prefix=()):
        given = [str(flag) for flag in flags]
        names = {flag.partition("=")[0] for flag in given}
        given += [flag for flag in DEFAULTS if flag.partition("=")[0] not in names]
        if upstream is not None:
            given += [f"--upstream-url={getattr(upstream, 'url', upstream)}", "--allow-plaintext-upstream"]
        elif sandbox:
            given.append("--sandbox")
        self.log_file, self.stderr_file = folder / "stdout", folder / "stderr"
        with self.log_file.open("wb") as out, self.stderr_file.open("wb") as err:
            self.process = subprocess.Popen(
                [*prefix, gateway_binary(), "serve", *given], stdout=out, stderr=err, env=env or {}
            )
        try:
            listening = wait_for(self._listening, "the log line `listening`")
        except BaseException:
            self.kill()
            raise
        self.address, self.admin = listening["grpc.address"], listening["admin.address"]

    def _listening(self):
        ended = self.process.poll()
        assert ended is None, f"the gateway ended with {ended}: {self.stderr}"
        return next(iter(self.lines("listening")), None)

    @property
    def log(self):
        """The complete lines of its log, parsed."""
        text = self.log_file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def stderr(self):
        return self.stderr_file.read_text()

    def lines(self, message):
        """The log lines with this message; `call` is the access log."""
        return [line for line in self.log if line.get("message") == message]

    def admin_page(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=10) as page:
            return page.read().decode()

    def admin_status(self, path):
        try:
            self.admin_page(path)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def metrics(self):
        return self.admin_page("/metrics")

    def metric(self, sample):
        """The value of a sample, named with its labels."""
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.metrics(), re.M)
        assert found, f"no {sample} in /metrics"
        return float(found.group(1))

    def get(self, *flags, project=PROJECT, share=SHARE, token="any"):
        """`get` of a share, as a finished process."""
        env = {"OS_TOKEN": token} if token else {}
        return command("get", "--address", self.address, *flags, f"--project-id={project}", share, env=env)

    def terminate(self):
        """SIGTERM; `wait` returns the exit status."""
        self.process.terminate()

    def wait(self, timeout=60):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"killed, as it did not end within {timeout} s"

    def stop(self, timeout=60):
        self.terminate()
        return self.wait(timeout)

    def kill(self):
        self.process.kill()
        self.process.wait()
