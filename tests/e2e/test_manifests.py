"""The manifests in deploy/kubernetes: the base, each component on it, and each overlay.

Kubernetes' own kinds are checked with their schemas, strictly. Then the API server, with the CRDs of cert-manager, the
Gateway API and the Prometheus operator, validates everything in a dry run with no warning, in a namespace that enforces
the restricted profile; and the Deployment's pods as such, since Pod Security rejects only pods.
"""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from support.tools import ROOT, tool

DEPLOY = ROOT / "deploy/kubernetes"
NAME = "backup-share-gateway"
NAMESPACE = "manifests"
SCHEMAS = "1.34"
BUILT_IN = re.compile(r"v1|(apps|autoscaling|policy|batch|networking\.k8s\.io|rbac\.authorization\.k8s\.io)/.*")
CRDS = {
    "sigs.k8s.io/gateway-api@v1.4.0": ["config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"],
    "github.com/cert-manager/cert-manager@v1.21.2": ["deploy/crds/cert-manager.io_certificates.yaml"],
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ],
}
FOLDERS = [DEPLOY / "base", *sorted(DEPLOY.glob("components/*")), *sorted(DEPLOY.glob("overlays/*"))]
TARGETS = [str(folder.relative_to(DEPLOY)) for folder in FOLDERS]


@pytest.fixture(scope="module")
def server(cluster):
    """The cluster with the CRDs that the components use."""
    for module, files in CRDS.items():
        download = [tool("go"), "mod", "download", "-json", module]
        done = subprocess.run(download, cwd=ROOT, capture_output=True, text=True, check=True)
        for file in files:
            cluster.kubectl("apply", "--server-side", "-f", Path(json.loads(done.stdout)["Dir"]) / file)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return cluster


@pytest.fixture
def build(server, tmp_path):
    """The objects of a target; those of a component together with the base."""

    def kustomize(target):
        folder = DEPLOY / target
        if target.startswith("components/"):
            kustomization = {"resources": ["base"], "components": [target]}
            folder = tmp_path / "kubernetes"
            shutil.copytree(DEPLOY, folder)
            (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return [document for document in yaml.safe_load_all(server.kubectl("kustomize", folder)) if document]

    return kustomize


def one(documents, kind):
    (found,) = [it for it in documents if (it["kind"], it["metadata"]["name"]) == (kind, NAME)]
    return found


def pod_of(documents):
    deployment = copy.deepcopy(one(documents, "Deployment"))
    template = deployment["spec"]["template"]
    metadata = template["metadata"] | {"name": "one", "namespace": deployment["metadata"].get("namespace", NAMESPACE)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def dry_run(server, documents):
    """Why the API server rejects the objects; nothing if it does not."""
    namespace = server.create_namespace(documents[0]["metadata"].get("namespace", NAMESPACE))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME}}
    namespace.apply(account)  # without which no pod is accepted
    flags = ["--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors"]
    done = namespace.run("apply", *flags, "-f", "-", input=yaml.safe_dump_all(documents))
    return "" if done.returncode == 0 else done.stderr


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


@pytest.mark.parametrize("target", TARGETS)
def test_manifests(server, build, target):
    documents = build(target)
    assert len({document["metadata"].get("namespace") for document in documents}) == 1
    for document in documents:
        if BUILT_IN.fullmatch(document["apiVersion"]):
            kubernetes_validate.validate(document, SCHEMAS, strict=True)
    assert dry_run(server, documents) == ""
    assert dry_run(server, [pod_of(documents)]) == ""
    settings = one(documents, "ConfigMap")["data"]
    drain = seconds(settings["GATEWAY_DRAIN_DELAY"]) + seconds(settings["GATEWAY_DRAIN_TIMEOUT"])
    assert drain < one(documents, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


def test_pod_that_may_be_root_is_rejected(server, build):
    pod = pod_of(build("base"))
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    assert "violates PodSecurity" in dry_run(server, [pod])


def test_unknown_field_is_rejected(server, build):
    deployment = one(build("base"), "Deployment")
    deployment["spec"]["template"]["spec"]["noSuchField"] = 1
    assert "noSuchField" in dry_run(server, [deployment])


def test_rules_are_those_of_the_observability_checks():
    tested = yaml.safe_load((ROOT / "deploy/observability/rules.yaml").read_text())
    assert yaml.safe_load((DEPLOY / "components/monitoring/rules.yaml").read_text())["spec"] == tested
