"""Where the programs are that the checks run. A missing one fails the check with one line."""

import os
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ROOT / "target/ci"
PACKAGE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
VERSION, REPOSITORY = PACKAGE["version"], PACKAGE["repository"]


def tool(name):
    """A program below target/ci, such as `bin/grpcurl`; a name without a folder is a program of the system."""
    path = TOOLS / name if "/" in name else shutil.which(name)
    if path is None or not os.access(path, os.X_OK):
        how = "`just` and the name of the check install it" if "/" in name else "install it"
        pytest.fail(f"{path or name} is missing: {how}", pytrace=False)
    return str(path)


def gateway_binary():
    """The gateway that is checked: $GATEWAY_BINARY, or the release build."""
    path = Path(os.environ.get("GATEWAY_BINARY", ROOT / "target/release/backup-share-gateway"))
    if not os.access(path, os.X_OK):
        pytest.fail(f"{path} is missing: `just binary` builds it, or set GATEWAY_BINARY", pytrace=False)
    return str(path.resolve())
