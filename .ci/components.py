"""What the release binary is made of.

    components.py sbom       prints a software bill of materials (CycloneDX 1.6, JSON)
    components.py notices    prints the licences of all crates, with their texts

Both list what `cargo tree` has for the TARGETS: no development or build dependencies, no procedural macros, and no
feature that only those need. Tools that read `cargo metadata` alone, such as cargo-cyclonedx, list more than the binary
has: there, the features of all dependencies are united. The variables SOURCE_DATE_EPOCH and
SOURCE_REVISION are the time and the commit.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]
LICENCE_FILE = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)
NOTICE_FILE = re.compile(r"notice|copyright|authors", re.IGNORECASE)
SOURCE_CODE = {".c", ".go", ".h", ".pl", ".py", ".rs", ".toml"}
TREE_LINE = re.compile(r"(\d+)(\S+) v(\S+)(?: \([^)]*\))?\|(\S*)(?: \(\*\))?")


def cargo(*arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def resolve(target):
    """The features of each crate, and which crate depends on which. A crate is its name and version."""
    features, dependencies, path = {}, set(), []
    edges = "normal,no-proc-macro"
    for line in cargo("tree", "--target", target, "--edges", edges, "--prefix=depth", "--format={p}|{f}").splitlines():
        depth, name, version, enabled = TREE_LINE.fullmatch(line).groups()
        crate = (name, version)
        path[int(depth) :] = [crate]
        features[crate] = sorted(filter(None, enabled.split(",")))
        dependencies.update(itertools.pairwise(path[-2:]))
    return features, dependencies


def purl(crate):
    return "pkg:cargo/{}@{}".format(*crate)


def spdx(package):
    """The licence as an SPDX expression; older crates have a slash for OR."""
    return re.sub(r"\s*/\s*", " OR ", package["license"])


def component(crate, package):
    described = {
        "type": "library",
        "bom-ref": purl(crate),
        "name": crate[0],
        "version": crate[1],
        "purl": purl(crate),
        "licenses": [{"expression": spdx(package)}],
    }
    if package["repository"]:
        described["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return described


def sbom(root, crates, packages, features, dependencies):
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in locked}
    libraries = []
    for crate in crates:
        described = component(crate, packages[crate]) | {"hashes": [{"alg": "SHA-256", "content": checksums[crate]}]}
        if features[crate]:
            described["properties"] = [{"name": "cargo:features", "value": " ".join(features[crate])}]
        libraries.append(described)
    program = component(root, packages[root]) | {"type": "application"}
    program["pedigree"] = {"commits": [{"uid": os.environ["SOURCE_REVISION"]}]}
    time = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    used = {crate: [] for crate in [root, *crates]}
    for user, crate in sorted(dependencies):
        used[user].append(purl(crate))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": program},
        "components": libraries,
        "dependencies": [{"ref": purl(user), "dependsOn": names} for user, names in used.items()],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def texts(package):
    """The licences and the notices in the crate's files."""
    files = [file for file in sorted(Path(package["manifest_path"]).parent.rglob("*")) if file.is_file()]
    files = [file for file in files if file.suffix not in SOURCE_CODE]
    licences = [file.read_text().strip() for file in files if LICENCE_FILE.match(file.name)]
    return licences, [file.read_text().strip() for file in files if NOTICE_FILE.match(file.name)]


def notices(crates, packages):
    """Each text once, after the crates that have it. A crate without a licence text is an error."""
    found = {crate: texts(packages[crate]) for crate in crates}
    missing, users = [], {}

    def origin(crate):
        return packages[crate]["repository"], packages[crate]["license"]

    for crate, (licences, others) in found.items():
        if not licences:
            # Some crates leave it in their repository, and another crate has it. Apache-2.0 is the same text for all.
            licences = next(
                (found[other][0] for other in crates if found[other][0] and origin(other) == origin(crate)), []
            )
            if not licences and "Apache-2.0" in spdx(packages[crate]).split(" OR "):
                licences = [(ROOT / "LICENSE").read_text().strip()]
        if not licences:
            missing.append(" ".join(crate))
        for text in [*licences, *others]:
            users.setdefault(text, []).append(" ".join(crate))
    if missing:
        sys.exit(f"components: no licence text in {', '.join(missing)}, and none of the same repository")
    lines = ["backup-share-gateway contains the Rust standard library and these crates, under these licences:", ""]
    lines += [f"{' '.join(crate)}: {spdx(packages[crate])}" for crate in crates]
    for text, names in users.items():
        lines += ["", "=" * 100, *dict.fromkeys(names), "-" * 100, text]
    return "\n".join(lines)


def main():
    resolved = [resolve(target) for target in TARGETS]
    features, dependencies = resolved[0][0], set().union(*(edges for _, edges in resolved))
    if any(other != features for other, _ in resolved):
        sys.exit(f"components: {' and '.join(TARGETS)} are no longer made of the same crates: list each by itself")
    metadata = json.loads(cargo("metadata", "--format-version=1"))
    packages = {(package["name"], package["version"]): package for package in metadata["packages"]}
    root, *_ = features
    crates = sorted(crate for crate in features if crate != root)
    match sys.argv[1:]:
        case ["sbom"]:
            print(sbom(root, crates, packages, features, dependencies))
        case ["notices"]:
            print(notices(crates, packages))
        case _:
            sys.exit(__doc__)


main()
