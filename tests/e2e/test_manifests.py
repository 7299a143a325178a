"""The manifests in deploy/kubernetes: the base, each component on it, each overlay, and the alerts.

Kubernetes' own kinds are checked with their schemas, strictly, for the oldest version that is supported and for that of
the test cluster. Then the API server, with the CRDs of cert-manager, the Gateway API and the Prometheus operator,
validates everything in a dry run with no warning, in a namespace that enforces the restricted profile; and the
Deployment's pods as such, since Pod Security rejects only pods.
"""

import copy
import json
import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from support.manifests import (
    INSTANCE,
    KUBERNETES,
    NAME,
    chart,
    find,
    kustomization,
    kustomize,
    matches,
    one,
    own_selectors,
    pod_labels,
    seconds,
)
from support.tools import REPOSITORY, ROOT, VERSION, tool

NAMESPACE = "manifests"
SCHEMAS = ("1.27", "1.34")
BUILT_IN = re.compile(r"v1|(apps|autoscaling|policy|batch|networking\.k8s\.io|rbac\.authorization\.k8s\.io)/.*")
FOLDERS = [*sorted(KUBERNETES.glob("components/*")), *sorted(KUBERNETES.glob("overlays/*"))]
TARGETS = ["base", *(str(folder.relative_to(KUBERNETES)) for folder in FOLDERS)]
REGIONS = ("eu-de", "cn-north-1")
GENERAL_RULES = yaml.safe_load((ROOT / "deploy/observability/rules.yaml").read_text())


@pytest.fixture
def build(tmp_path):
    """The objects of a target; those of a component together with the base."""

    def build(target):
        if target.startswith("components/"):
            return kustomization(tmp_path / "kubernetes", resources=["base"], components=[target])
        return kustomize(KUBERNETES / target)

    return build


def pod_of(documents):
    (deployment,) = [copy.deepcopy(document) for document in documents if document["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    metadata = template["metadata"] | {"name": "one", "namespace": deployment["metadata"].get("namespace", NAMESPACE)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def validate(documents):
    for document in documents:
        if BUILT_IN.fullmatch(document["apiVersion"]):
            for version in SCHEMAS:
                kubernetes_validate.validate(document, version, strict=True)


def dry_run(server, documents):
    """Why the API server rejects the objects; nothing if it does not."""
    namespace = server.create_namespace(documents[0]["metadata"].get("namespace", NAMESPACE))
    for account in {name for document in documents for name in find(document, "serviceAccountName")}:
        # Without it no pod is accepted.
        namespace.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}})
    flags = ["--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors"]
    done = namespace.run("apply", *flags, "-f", "-", input=yaml.safe_dump_all(documents))
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_manifests(manifest_server, build, target):
    documents = build(target)
    assert len({document["metadata"].get("namespace") for document in documents}) == 1
    assert {image.rpartition(":")[2] for image in find(documents, "image")} == {VERSION}
    validate(documents)
    pod = pod_of(documents)
    assert dry_run(manifest_server, [*documents, pod]) == ""
    (settings,) = [data for document in documents for data in find(document, "data") if "GATEWAY_DRAIN_DELAY" in data]
    drain = seconds(settings["GATEWAY_DRAIN_DELAY"]) + seconds(settings["GATEWAY_DRAIN_TIMEOUT"])
    assert drain < pod["spec"]["terminationGracePeriodSeconds"]


def test_chart(manifest_server):
    values = {
        "auth.mode": "keystone",
        "tls": {"enabled": True, "mutual": True, "certManager": {"enabled": True}},
        "rules": "caller.example=*",
        "connectionCheck": True,
        "monitoring": {"enabled": True, "alerts": True},
        "proxy.url": "http://proxy.example.com:3128",
        "otlp.endpoint": "http://collector.observability:4318",
        "route": {"kind": "tls", "hostnames": ["backup.example.com"]},
    }
    for release in (values, {"upstream.sandbox": True, "route": {"kind": "grpc", "hostnames": ["backup.example.com"]}}):
        documents = chart(release)
        validate(documents)
        assert dry_run(manifest_server, [*documents, pod_of(documents)]) == ""


def test_pod_that_may_be_root_is_rejected(manifest_server, build):
    pod = pod_of(build("base"))
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    assert "violates PodSecurity" in dry_run(manifest_server, [pod])


def test_unknown_field_is_rejected(manifest_server, build):
    deployment = one(build("base"), "Deployment")
    deployment["spec"]["template"]["spec"]["noSuchField"] = 1
    assert "noSuchField" in dry_run(manifest_server, [deployment])


# Each way to install two: the overlays of two regions, and two releases of the chart, in one namespace.
RELEASES = {
    "auth.mode": "aksk",
    "upstream.url": "https://vbs.example.com",
    "tls": {"enabled": True, "mutual": True, "certManager": {"enabled": True}},
    "rules": "caller.example=*",
    "monitoring.enabled": True,
    "route": {"kind": "tls", "hostnames": ["backup.example.com"]},
}
PAIRS = {
    "kustomize": lambda: [kustomize(KUBERNETES / "overlays" / region) for region in REGIONS],
    "helm": lambda: [chart(RELEASES, release=region) for region in REGIONS],
}


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]()


def test_no_selector_of_one_installation_selects_anything_of_another(pair):
    for mine, other in (pair, pair[::-1]):
        selectors = [selector for document in mine for selector in own_selectors(document)]
        assert len(selectors) > 8
        assert all(matches(selector, pod_labels(mine)) for selector in selectors)
        assert not any(matches(selector, pod_labels(other)) for selector in selectors)
        (monitor,) = [document for document in mine if document["kind"] == "ServiceMonitor"]

        def scraped(documents, monitor=monitor):
            labels = [it["metadata"]["labels"] for it in documents if it["kind"] == "Service"]
            return sum(matches(monitor["spec"]["selector"], each) for each in labels)

        assert (scraped(mine), scraped(other)) == (1, 0)


def test_no_name_of_one_installation_is_a_name_of_another(pair):
    for region, documents in zip(REGIONS, pair, strict=True):
        names = [document["metadata"]["name"] for document in documents]
        for key in ("secretName", "serviceAccountName", "configMapRef", "configMap", "scaleTargetRef", "backendRefs"):
            found = list(find(documents, key))
            assert found or key == "backendRefs", key  # which the next test covers
            parts = [part for each in found for part in (each if isinstance(each, list) else [each])]
            names += [part if isinstance(part, str) else part["name"] for part in parts]
        names += [name for each in find(documents, "dnsNames") for name in each]
        assert [name for name in names if not name.startswith(f"{region}-{NAME}")] == []
        labels = [document["metadata"]["labels"] for document in documents]
        assert {each[INSTANCE] for each in labels} == {region}
        assert {each["app.kubernetes.io/name"] for each in labels} == {NAME}


def test_routes_lead_to_the_service_of_their_installation(tmp_path):
    components = ["components/grpcroute", "components/tlsroute"]
    made = kustomization(tmp_path / "kubernetes", resources=["base"], components=components[:1], namePrefix="x-")
    made += kustomization(tmp_path / "kubernetes", resources=["base"], components=components[1:], nameSuffix="-x")
    names = [reference["name"] for references in find(made, "backendRefs") for reference in references]
    assert names == [f"x-{NAME}", f"{NAME}-x"]


def test_selectors_of_callers_and_of_prometheus_do_not_have_the_instance(pair):
    for documents in pair:
        policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
        peers = [peer for key in ("from", "to") for peers in find(policies, key) for peer in peers]
        selectors = [peer["podSelector"] for peer in peers if "podSelector" in peer]
        assert selectors
        assert INSTANCE not in json.dumps(selectors)


def test_each_installation_has_an_alert_that_fires_without_it(pair, tmp_path):
    for region, documents in zip(REGIONS, pair, strict=True):
        (rules,) = [document for document in documents if document["kind"] == "PrometheusRule"]
        (tmp_path / "rules.json").write_text(json.dumps(rules["spec"]))
        labels = {"job": NAME, "namespace": "backup", "app_kubernetes_io_instance": region}
        up = f'up{{job="{NAME}",namespace="backup",app_kubernetes_io_instance="%s"}}'
        annotations = {
            "summary": f"backup/{region}: no replica is scraped",
            "runbook_url": f"{REPOSITORY}/blob/main/docs/runbook.md#backupsharegatewaygone",
        }
        alert = {"exp_labels": labels | {"severity": "critical"}, "exp_annotations": annotations}
        cases = []
        for present in REGIONS:
            expected = [] if present == region else [alert]
            rule_test = {"eval_time": "10m", "alertname": "BackupShareGatewayGone", "exp_alerts": expected}
            series = [{"series": up % present, "values": "1x20"}]
            cases.append({"interval": "1m", "input_series": series, "alert_rule_test": [rule_test]})
        (tmp_path / "test.json").write_text(json.dumps({"rule_files": ["rules.json"], "tests": cases}))
        command = [tool("prometheus/usr/bin/promtool"), "test", "rules", "test.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_those_of_the_observability_checks(manifest_server):
    (rules,) = kustomize(KUBERNETES / "alerts")
    assert rules["spec"] == GENERAL_RULES
    assert dry_run(manifest_server, [rules]) == ""
    packaged = chart({"upstream.sandbox": True, "monitoring.alerts": True})
    assert one(packaged, "PrometheusRule", f"{NAME}-alerts")["spec"] == GENERAL_RULES
