"""The clients in examples/, built below target/examples, and how to run them."""

import os
import subprocess
import sys

import pytest
from support.tools import ROOT, tool
from support.vbs import PROJECT, SHARE

BUILDS = ROOT / "target/examples"


def run_step(what, *command, cwd=ROOT):
    """One step of a build; its output is the error."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{what}: exit status {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)


def build_rust():
    folder = BUILDS / "rust"
    build = [tool("cargo"), "build", "--locked", "--target-dir", folder]
    run_step("build of examples/rust", *build, cwd=ROOT / "examples/rust")
    return [folder / "debug/get-backup-share"], {}


def build_go():
    program = BUILDS / "go/get-backup-share"
    run_step("build of examples/go", tool("go"), "build", "-o", program, ".", cwd=ROOT / "examples/go")
    return [program], {}


def build_python():
    """The packages and the generated code, and with them the environment that finds both."""
    folder, example = BUILDS / "python", ROOT / "examples/python"
    environment = {"PYTHONPATH": str(folder)}
    requirements = example / "requirements.txt"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        run_step(
            "packages of examples/python",
            *[sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"],
            *["--root-user-action", "ignore", "--target", folder, "-r", requirements],
        )
        installed.write_text(requirements.read_text())
    run_step(
        "generated code of examples/python",
        *["env", f"PYTHONPATH={folder}", sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "proto"],
        *[f"--python_out={folder}", f"--grpc_python_out={folder}", "vbs/v2/backup_share_service.proto"],
    )
    return [sys.executable, example / "get_backup_share.py"], environment


LANGUAGES = {"rust": build_rust, "go": build_go, "python": build_python}


class Example:
    """`example(*flags, address, …)` runs it to its end. `env` is its environment, the token and its own needs apart."""

    def __init__(self, language):
        self.command, self.environment = LANGUAGES[language]()

    def __call__(self, *flags, address, project=PROJECT, share=SHARE, token="any", env=None):
        variables = {**self.environment, **(env or {})}
        if token is not None:
            variables["OS_TOKEN"] = token
        command = [os.fspath(part) for part in (*self.command, *flags, address, project, share)]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
