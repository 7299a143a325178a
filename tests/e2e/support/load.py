"""Calls at a steady rate, by ghz."""

import json
import signal
import subprocess
import time

from support.tools import tool
from support.vbs import METHOD, SHARE


class Load:
    """Calls `gateway` with mutual TLS for `project` until `stop`."""

    def __init__(self, gateway, certificates, project, rate=100):
        self.gateway, self.rate, self.since = gateway, rate, time.monotonic()
        tls = [f"--cacert={certificates.ca}", f"--cert={certificates.caller}", f"--key={certificates.caller_key}"]
        shape = [f"--rps={rate}", "--concurrency=10", "--connections=4", "--duration=180s", "--duration-stop=wait"]
        data = json.dumps({"project_id": project, "id": SHARE})
        call = [f"--call={METHOD}", f"--data={data}", "--format=json", "--cname=localhost", gateway.address]
        self.process = subprocess.Popen([tool("bin/ghz"), *tls, *shape, *call], stdout=subprocess.PIPE, text=True)

    def stop(self):
        """Ends it. Every call must have succeeded, at no less than a fifth of the rate."""
        seconds = time.monotonic() - self.since
        self.process.send_signal(signal.SIGINT)
        report, _ = self.process.communicate(timeout=60)
        codes = json.loads(report)["statusCodeDistribution"]
        causes = {(line["reason"], line.get("detail")) for line in self.gateway.log if line.get("reason")}
        assert set(codes) == {"OK"}, f"{codes} {causes}"
        assert codes["OK"] > seconds * self.rate / 5, f"{codes} in {seconds:.0f} s"

    def kill(self):
        self.process.kill()
        self.process.wait()
