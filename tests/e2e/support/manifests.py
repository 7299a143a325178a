"""What is rendered of deploy/kubernetes and of the Helm chart, and what its selectors select."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml
from support.tools import ROOT, tool

KUBERNETES = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/backup-share-gateway"
NAME = "backup-share-gateway"
NAMESPACE = "backup"
INSTANCE = "app.kubernetes.io/instance"
CRDS = {
    "sigs.k8s.io/gateway-api@v1.5.0": [
        "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",
        "config/crd/standard/gateway.networking.k8s.io_tlsroutes.yaml",
    ],
    "github.com/cert-manager/cert-manager@v1.21.2": ["deploy/crds/cert-manager.io_certificates.yaml"],
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ],
}


@functools.cache
def kubectl():
    """The kubectl of the test cluster, which need not run."""
    built = subprocess.run([ROOT / "tests/e2e/kubernetes/build.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip()) / "kubectl"


def kustomize(folder):
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def kustomization(folder, **content):
    """The objects of a kustomization that is written to `folder` together with deploy/kubernetes."""
    shutil.copytree(KUBERNETES, folder, dirs_exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return kustomize(folder)


def helm(*arguments):
    """Helm to its end, which may be a failure."""
    command = [tool("bin/helm"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assignments(values):
    """The flags that set values, by their paths."""
    return [part for path, value in values.items() for part in ("--set-json", f"{path}={json.dumps(value)}")]


def helm_template(values, release=NAME):
    """`helm template`, a finished process."""
    flags = ["--namespace", NAMESPACE, "--kube-version", "1.34.4"]
    return helm("template", release, CHART, *flags, *assignments(values))


def chart(values, release=NAME):
    """The objects that an installation makes, without the hooks of `helm test`."""
    done = helm_template(values, release)
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    return [it for it in documents if "helm.sh/hook" not in it["metadata"].get("annotations", {})]


def one(documents, kind, name=NAME):
    (found,) = [it for it in documents if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    return found


def find(value, key):
    """Each value of the key, at any depth."""
    if isinstance(value, dict):
        for name, child in value.items():
            if name == key:
                yield child
            yield from find(child, key)
    elif isinstance(value, list):
        for child in value:
            yield from find(child, key)


def matches(selector, labels):
    """Whether a selector, as Kubernetes has it, selects an object with the labels."""
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def own_selectors(document):
    """The selectors with which an object selects pods of its own installation."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "Service":
            return [{"matchLabels": spec["selector"]}]
        case "Deployment":
            spread = spec["template"]["spec"]["topologySpreadConstraints"]
            return [spec["selector"], *(each["labelSelector"] for each in spread)]
        case "PodDisruptionBudget":
            return [spec["selector"]]
        case "NetworkPolicy":
            return [spec["podSelector"]]
    return []


def pod_labels(documents):
    (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
    return deployment["spec"]["template"]["metadata"]["labels"]


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
