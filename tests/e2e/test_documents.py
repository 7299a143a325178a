"""The commands of README.md and docs/*.md print what is printed there.

A fenced block `console` has commands, which begin with `$ ` and may go on after a backslash, each followed by what it
prints. All blocks of a document run in one bash, in the root of the repository, with the gateway and grpcurl in the
PATH and a sandbox on its default ports, in a network namespace of its own. A block below `<!-- not run: REASON -->` is
left out.
"""

import difflib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.tools import ROOT, gateway_binary, tool

DOCUMENTS = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
SANDBOX_ADDRESSES = ["--listen=127.0.0.1:50051", "--admin-listen=127.0.0.1:9090"]
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
os.execv(sys.argv[1], sys.argv[1:])
"""
# What differs from run to run.
VARIABLE = [
    (r"\breq-[0-9a-f]{32}\b", "req-ID"),
    (r'("?request(?:Id|_id| ID)"?: ?"?)[0-9a-f]{32}\b', r"\1ID"),
    (r'("timestamp": ?")[^"]*', r"\1TIME"),
    (r'("\w+_ms": ?)[0-9.]+', r"\1MS"),
    (r"\b127\.0\.0\.1:\d{5}\b", "127.0.0.1:PORT"),
    (r'("version": ?"|backup-share-gateway )\d+\.\d+\.\d+[^"\n]*', r"\1VERSION"),
]


@dataclass
class Command:
    line: int
    text: str
    printed: str = ""


def commands(document):
    """The commands of a document that run, in order."""
    lines = (ROOT / document).read_text().splitlines()
    found, block, runs = [], None, True
    for number, line in enumerate(lines, 1):
        where = f"{document}:{number}"
        if line.startswith("```"):
            block = None if block is not None else line[3:]
            above = lines[number - 2] if number > 1 else ""
            runs = not re.fullmatch(r"<!-- not run: \S.* -->", above) if block == "console" else runs
        elif block == "console" and runs:
            if found and found[-1].text.endswith("\\"):
                found[-1].text += "\n" + line
            elif line.startswith("$ "):
                found.append(Command(number, line[2:]))
            else:
                assert not lines[number - 2].startswith("```"), f"{where}: a block begins with a command"
                found[-1].printed += line + "\n"
        elif line.startswith("<!-- not run:"):
            assert lines[number] == "```console", f"{where}: belongs right above a `console` block"
    return found


def normalized(text):
    for pattern, replacement in VARIABLE:
        text = re.sub(pattern, replacement, text)
    return text.splitlines()


def test_documents_have_commands():
    assert sum(len(commands(document)) for document in DOCUMENTS) > 10


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if commands(document)])
def test_commands(gateway, document, tmp_path):
    served = gateway(*SANDBOX_ADDRESSES, prefix=[tool("unshare"), "--net", sys.executable, "-c", LOOPBACK_UP])
    mark = "\x1e\n"
    script = "".join(f"printf '{mark}'\n{command.text}\n" for command in commands(document))
    (tmp_path / "script").write_text(script)
    programs = {Path(gateway_binary()).parent, Path(tool("bin/grpcurl")).parent}
    env = {"PATH": ":".join([*map(str, programs), os.environ["PATH"]]), "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)}
    inside = [tool("nsenter"), f"--target={served.process.pid}", "--net"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
    done = subprocess.run([*inside, "bash", tmp_path / "script"], cwd=ROOT, env=env, timeout=120, check=False, **output)
    printed = done.stdout.split(mark)[1:]
    for command, found in zip(commands(document), printed, strict=True):
        expected, found = normalized(command.printed), normalized(found)
        difference = "\n".join(difflib.unified_diff(expected, found, "document", "printed", lineterm=""))
        assert not difference, f"{document}:{command.line}\n{difference}"
