"""The container image, as a Docker archive."""

import json
import os
import shutil
import subprocess
import tarfile
from functools import cached_property
from pathlib import Path

from support.tools import ROOT, TOOLS

REVISION = "of-the-checks"


class Image:
    """`archive` is $IMAGE_ARCHIVE, or built here from REVISION; `config` is the image's configuration."""

    def __init__(self):
        given = os.environ.get("IMAGE_ARCHIVE")
        self.archive = Path(given or TOOLS / "image.tar").resolve()
        if not given:
            build = [ROOT / "tests/e2e/image/build.sh", self.archive, "localhost/backup-share-gateway:ci"]
            subprocess.run(build, check=True, env=os.environ | {"SOURCE_REVISION": REVISION})

    def _json(self, name):
        with tarfile.open(self.archive) as archive:
            return json.load(archive.extractfile(name))

    @cached_property
    def manifest(self):
        (manifest,) = self._json("manifest.json")
        return manifest

    @cached_property
    def config(self):
        return self._json(self.manifest["Config"])["config"]

    def unpack(self, folder):
        """The image's files, without what a container engine adds."""
        with tarfile.open(self.archive) as archive:
            for layer in self.manifest["Layers"]:
                with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                    files.extractall(folder, filter="fully_trusted")


def pack_image(binary, name, folder):
    """An image archive of one static binary, made in `folder`."""
    root, archive = folder / "root", folder / "image.tar"
    root.mkdir()
    shutil.copy(binary, root / binary.name)
    pack = [ROOT / "tests/e2e/kubernetes/pack-image.sh", name, root, archive, "65532:65532", f"/{binary.name}"]
    subprocess.run(pack, check=True)
    return archive
