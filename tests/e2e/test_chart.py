"""The Helm chart: it makes the same objects as kustomize, and rejects values that mean nothing or would not work."""

import copy
import re

import pytest
import yaml
from support.manifests import CHART, KUBERNETES, NAME, NAMESPACE, chart, find, helm, helm_template, kustomization
from support.tools import REPOSITORY, VERSION

URL = "https://vbs.example.com"
RULES = "caller.example=c13f5220dc1949b0b741ea81a7cd5554\n"
UPSTREAM = {"upstream.url": URL}
TLS = {"tls.enabled": True}
MUTUAL = TLS | {"tls.mutual": True}
WITH_RULES = MUTUAL | {"rules": RULES}
CERTIFICATE = {"tls.certManager.enabled": True}
HOSTS = ["backup-share-gateway.example.com"]
ROUTE = {"route": {"kind": "tls", "hostnames": HOSTS}}
OPERATOR = {"monitoring.enabled": True}
PROXY = {"proxy.url": "http://proxy.example.com:3128"}
OTLP = {"otlp.endpoint": "http://collector.observability:4318"}
CHECK = {"connectionCheck": True}
KEYSTONE = WITH_RULES | {"auth.mode": "keystone"}

# The components of kustomize, and the values that mean the same.
SAME = {
    "": {},
    "tls": TLS,
    "mutual-tls": MUTUAL,
    "rules": WITH_RULES,
    "keystone": KEYSTONE,
    "aksk": WITH_RULES | {"auth.mode": "aksk"},
    "tls cert-manager": TLS | CERTIFICATE,
    "monitoring": OPERATOR,
    "proxy": PROXY,
    "otlp": OTLP,
    "grpcroute": {"route": {"kind": "grpc", "hostnames": HOSTS}},
    "tls tlsroute": TLS | ROUTE,
    "connection-check": CHECK,
    "keystone cert-manager monitoring proxy otlp tlsroute connection-check": (
        KEYSTONE | CERTIFICATE | OPERATOR | PROXY | OTLP | ROUTE | CHECK
    ),
}


def normalised(documents):
    """The objects by kind and name, without what differs on purpose: labels of objects, and the checksum."""
    found = {}
    for document in copy.deepcopy(documents):
        metadata = document["metadata"]
        metadata.pop("labels", None)
        metadata.setdefault("namespace", NAMESPACE)  # Helm's is that of the release
        for pod in find(document, "template"):
            pod["metadata"].pop("annotations", None)
            spec = pod["spec"]
            spec["volumes"] = sorted(spec.get("volumes", []), key=lambda volume: volume["name"])
            for container in spec["containers"] + spec.get("initContainers", []):
                container["volumeMounts"] = sorted(container.get("volumeMounts", []), key=lambda mount: mount["name"])
        # In kustomize the overlay adds the names that contain the namespace.
        for certificate in [document["spec"]] if document["kind"] == "Certificate" else []:
            certificate["dnsNames"] = [name for name in certificate["dnsNames"] if "." not in name]
        found[document["kind"], metadata["name"]] = document
    return found


@pytest.mark.parametrize("components", SAME)
def test_chart_makes_the_objects_of_kustomize(tmp_path, components):
    url = {"op": "add", "path": "/data/GATEWAY_UPSTREAM_URL", "value": URL}
    content = {
        "namespace": NAMESPACE,
        "resources": ["base"],
        "components": [f"components/{component}" for component in components.split()],
        "patches": [{"target": {"kind": "ConfigMap", "name": f"{NAME}$"}, "patch": yaml.safe_dump([url])}],
    }
    if "monitoring" in components:
        content["transformers"] = ["expected-instance"]
    if "rules" in SAME[components]:
        rules = {"name": f"{NAME}-rules", "literals": [f"rules={RULES}"], "options": {"disableNameSuffixHash": True}}
        content["configMapGenerator"] = [rules]
    expected = normalised(kustomization(tmp_path / "kubernetes", **content))
    made = normalised(chart(UPSTREAM | SAME[components]))
    assert made.keys() == expected.keys()
    for key, document in expected.items():
        assert made[key] == document, key


def test_each_component_is_compared():
    compared = {component for components in SAME for component in components.split()}
    assert compared == {folder.name for folder in KUBERNETES.glob("components/*")}


def test_sandbox_is_the_overlay(tmp_path):
    expected = normalised(kustomization(tmp_path / "kubernetes", namespace=NAMESPACE, resources=["overlays/sandbox"]))
    assert normalised(chart({"upstream.sandbox": True})) == expected


def test_digest_replaces_the_tag(tmp_path):
    image = {"repository": "registry.example.com/gateway", "digest": f"sha256:{'0123456789abcdef' * 4}"}
    images = [{"name": NAME, "newName": image["repository"], "digest": image["digest"]}]
    overlay = kustomization(tmp_path / "kubernetes", resources=["overlays/sandbox"], images=images)
    for documents in (overlay, chart({"upstream.sandbox": True, "image": image})):
        assert set(find(documents, "image")) == {"{repository}@{digest}".format(**image)}


def test_lint():
    done = helm("lint", "--strict", "--quiet", "--set", "upstream.sandbox=true", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_package_contains_the_rules(tmp_path):
    done = helm("package", "--destination", tmp_path, CHART)
    assert done.returncode == 0, done.stderr
    packaged = tmp_path / f"{NAME}-{VERSION}.tgz"
    flags = ["--kube-version", "1.34.4", "--set", "upstream.sandbox=true,monitoring.alerts=true"]
    assert "BackupShareGatewayOverloaded" in helm("template", NAME, packaged, *flags).stdout


def test_version_and_home_are_those_of_the_package():
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (metadata["version"], metadata["appVersion"], metadata["home"]) == (VERSION, VERSION, REPOSITORY)


VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
FREE = {"settings", "resources.requests", "resources.limits", "nodeSelector", "affinity"}


def groups(values, path=""):
    """The paths of all groups of values that have a fixed set of keys."""
    yield path
    for key, value in values.items():
        below = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and below not in FREE:
            yield from groups(value, below)


@pytest.mark.parametrize("path", [*groups(VALUES)])
def test_unknown_value_is_an_error(path):
    done = helm_template({"upstream.sandbox": True, f"{path}.noSuchKey".lstrip("."): True})
    assert done.returncode != 0
    assert "noSuchKey" in done.stderr


SANDBOX = {"upstream.sandbox": True}


@pytest.mark.parametrize(
    "values, words",
    [
        ({}, "upstream.url is missing"),
        (SANDBOX | UPSTREAM, "exclude each other"),
        (UPSTREAM | {"tls.mutual": True}, "tls.mutual needs tls.enabled=true"),
        (UPSTREAM | CERTIFICATE, "tls.certManager.enabled needs tls.enabled=true"),
        (UPSTREAM | TLS | {"rules": RULES}, "rules needs tls.mutual=true"),
        (UPSTREAM | MUTUAL | {"auth.mode": "aksk"}, "auth.mode=aksk needs rules"),
        ({"auth.mode": "keystone"}, "auth.mode=keystone needs rules"),
        (UPSTREAM | TLS | {"route": {"kind": "grpc", "hostnames": HOSTS}}, "Use route.kind=tls"),
        (UPSTREAM | ROUTE, "route.kind=tls needs tls.enabled=true"),
        (UPSTREAM | TLS | {"route.kind": "tls"}, "route.hostnames is missing"),
        (UPSTREAM | {"settings.GATEWAY_AUTH": "aksk"}, "settings.GATEWAY_AUTH: the chart sets it"),
        (UPSTREAM | {"settings.OTEL_EXPORTER_OTLP_HEADERS": "authorization=x"}, "may hold a secret"),
        (UPSTREAM | {"settings.OS_SECRET_KEY": "x"}, "OS_SECRET_KEY"),
        (UPSTREAM | {"auth.mode": "none"}, "passthrough"),
        ({"upstream.url": "vbs.example.com"}, "upstream"),
        (UPSTREAM | {"proxy.url": "http://user:password@proxy.example.com:3128"}, "proxy"),
        (UPSTREAM | {"replicas": "3"}, "replicas"),
    ],
)
def test_values_that_cannot_work_are_an_error(values, words):
    done = helm_template(values)
    assert done.returncode != 0
    assert words in done.stderr


SECRETS = ["pullSecrets", "credentialsSecret", "secret", "clientSecret"]


def test_values_have_no_place_for_a_secret():
    """What sounds like one is the name of a Secret."""
    keys = re.findall(r"^ *([A-Za-z]+):", (CHART / "values.yaml").read_text(), re.M)
    assert [key for key in keys if re.search(r"password|token|key|secret", key, re.I)] == SECRETS


def test_settings_and_environment_reach_the_container():
    variable = {"name": "GATEWAY_UPSTREAM_PROXY", "valueFrom": {"secretKeyRef": {"name": "proxy", "key": "url"}}}
    documents = chart(UPSTREAM | {"settings.GATEWAY_MAX_IN_FLIGHT": "2000", "extraEnv": [variable], **CHECK})
    assert {each["GATEWAY_MAX_IN_FLIGHT"] for each in find(documents, "data")} == {"2000"}
    assert list(find(documents, "env")) == [[variable], [variable]]


def test_change_of_settings_restarts_the_pods_and_of_rules_does_not():
    def checksum(**values):
        (found,) = find(chart(UPSTREAM | WITH_RULES | values), "checksum/settings")
        return found

    assert checksum() == checksum(rules=RULES + RULES)
    assert checksum() != checksum(settings={"GATEWAY_MAX_IN_FLIGHT": "2000"})


def hooks(values):
    documents = yaml.safe_load_all(helm_template(values).stdout)
    return [document for document in documents if document and "annotations" in document["metadata"]]


def test_helm_test_runs_health_in_a_pod_that_no_selector_selects():
    for values in (SANDBOX, UPSTREAM | TLS, UPSTREAM | WITH_RULES | {"test.clientSecret": "caller"}):
        (pod,) = hooks(values)
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert pod["spec"]["containers"][0]["args"][:2] == ["health", f"--address={NAME}:50051"]
        assert pod["metadata"]["labels"]["app.kubernetes.io/name"] != NAME
    assert hooks(UPSTREAM | WITH_RULES) == [], "it needs a caller's certificate"
