"""The container image, and a container of it as a pod of the restricted profile has it, but with the host's network."""

import json
import os
import subprocess
import urllib.request
import uuid
from pathlib import Path

import pytest
from support.image import REVISION
from support.process import running
from support.tools import PACKAGE, REPOSITORY, ROOT, VERSION, tool
from support.vbs import PROJECT, SHARE
from support.wait import wait_for

PROGRAM = "/usr/local/bin/backup-share-gateway"
MAX_BYTES = 40_000_000


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    folder.chmod(0o755)
    image.unpack(folder)
    return folder


class Container:
    def __init__(self, folder):
        self.name, self.log_file, self.process = f"gateway-{uuid.uuid4()}", folder / "log", None

    @property
    def log(self):
        """The log's complete lines, without what standard error has."""
        lines = self.log_file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def listening(self):
        ended = self.process.poll()
        assert ended is None, f"runc ended with {ended}: {self.log_file.read_text()}"
        return next((line for line in self.log if line["message"] == "listening"), None)

    @property
    def address(self):
        return self.listening()["grpc.address"]

    def execute(self, *arguments):
        return run(tool("runc"), "exec", "--env=OS_TOKEN=any", self.name, PROGRAM, *arguments)

    def call(self, *arguments):
        return self.execute(*arguments, f"--address={self.address}")

    def proc(self, file):
        """A file of the first process in /proc, as lines of words."""
        pid = json.loads(run(tool("runc"), "state", self.name))["pid"]
        return [line.split() for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]

    def status(self, name):
        return next(words[1:] for words in self.proc("status") if words[0] == f"{name}:")


@pytest.fixture
def container(image, root, tmp_path):
    run(tool("runc"), "spec", f"--bundle={tmp_path}")
    config = json.loads((tmp_path / "config.json").read_text())
    user, group = map(int, image.config["User"].split(":"))
    flags = ["--sandbox", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]
    config["root"] = {"path": str(root), "readonly": True}
    config["process"] |= {
        "terminal": False,
        "user": {"uid": user, "gid": group},
        "capabilities": {},
        "noNewPrivileges": True,
        "args": [*image.config["Entrypoint"], *image.config["Cmd"], *flags],
        "env": [*image.config["Env"], "GATEWAY_DRAIN_DELAY=0s"],
    }
    namespaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [space for space in namespaces if space["type"] != "network"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    started = Container(tmp_path)
    command = [tool("runc"), "run", f"--bundle={tmp_path}", started.name]
    with running(started.log_file, *command, env=os.environ) as started.process:
        wait_for(started.listening, "the container listens")
        yield started


def test_archive_is_small(image):
    assert image.archive.stat().st_size < MAX_BYTES


def test_configuration(image):
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] == [PROGRAM]
    assert image.config["Cmd"] == ["serve"]
    # With --sandbox too, whose default is loopback.
    assert {"GATEWAY_LISTEN=0.0.0.0:50051", "GATEWAY_ADMIN_LISTEN=0.0.0.0:9090"} <= set(image.config["Env"])


def test_version_and_revision_are_the_same_everywhere(image, container):
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in image.config["Labels"].items()}
    version, revision = labels["version"], labels["revision"]
    assert (labels["title"], version, labels["source"]) == (PACKAGE["name"], VERSION, REPOSITORY)
    assert (labels["description"], labels["licenses"]) == (PACKAGE["description"], PACKAGE["license"])
    assert revision == REVISION or "IMAGE_ARCHIVE" in os.environ
    assert container.execute("--version") == f"{PACKAGE['name']} {version} ({revision})\n"
    line = container.listening()
    assert (line["version"], line["revision"]) == (version, revision)
    with urllib.request.urlopen(f"http://{line['admin.address']}/metrics", timeout=10) as metrics:
        assert f'build_info{{revision="{revision}",version="{version}"}} 1' in metrics.read().decode().splitlines()


def test_no_health_check():
    assert "HEALTHCHECK " not in (ROOT / "Dockerfile").read_text()


def test_no_shell(root):
    assert not [file for file in root.rglob("*") if file.name in ("sh", "bash", "dash", "busybox")]


def test_program_is_stripped(root):
    assert ".symtab" not in run(tool("readelf"), "--sections", "--wide", f"{root}{PROGRAM}")


def test_process_has_no_privileges(container):
    assert container.status("NSpid")[-1] == "1"
    assert container.status("Uid") == ["65532"] * 4
    assert container.status("CapEff") == ["0" * 16]
    (options,) = [words[5] for words in container.proc("mountinfo") if words[4] == "/"]
    assert "ro" in options.split(",")


def test_call_inside(container):
    assert f'"id": "{SHARE}",' in container.call("get", f"--project-id={PROJECT}", SHARE)


def test_health_inside(container):
    assert container.call("health") == "SERVING\n"


def test_sigterm_ends_the_container(container):
    run(tool("runc"), "kill", container.name, "TERM")
    assert container.process.wait(60) == 0
    assert [line["message"] for line in container.log].count("stopped") == 1
