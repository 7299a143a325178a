"""Installations in one namespace of a genuine Kubernetes, each before an upstream of its own: they never mix.

Two are made by kustomize, as the overlays of two regions are, and one by Helm, all with the connection check. Each
upstream names its region in `availability_zone`, and rejects the token of another region.
"""

import json
import os
import subprocess
from contextlib import ExitStack

import pytest
from support.kubernetes import NODE, Deployment
from support.manifests import INSTANCE, NAME, kustomization
from support.release import Release
from support.tools import VERSION
from support.upstream import DOCUMENTED_SHARE, Upstream
from support.vbs import PROJECT, SHARE
from support.wait import wait_for

KUSTOMIZE, HELM = ("eu-de", "eu-nl"), "cn-north-1"
REGIONS = (*KUSTOMIZE, HELM)
CALLS, RATE, REPLICAS = 3400, 150, 2  # of each region; 10,200 calls in all
PODS = {"requests": {"cpu": "50m"}}  # so that all fit on a small node
MIN_READY = 1  # seconds


def answers_for(region):
    document = json.loads(DOCUMENTED_SHARE.read_text())
    document["shared"]["backup"]["availability_zone"] = region

    def respond(request):
        if request.headers["x-auth-token"] != region:
            return 401, {"error": {"code": 401, "title": "Unauthorized", "message": "a token of another region"}}
        return 200, document

    return respond


@pytest.fixture(scope="module")
def namespace(cluster, image):
    cluster.load(image.archive, f"{NAME}:{VERSION}")
    return cluster.create_namespace("instances")


@pytest.fixture(scope="module")
def upstreams(namespace):
    found = {region: Upstream(NODE, respond=answers_for(region)) for region in REGIONS}
    yield found
    for upstream in found.values():
        upstream.close()


def by_kustomize(namespace, folder, region, settings):
    small = {"containers": [{"name": "gateway", "resources": PODS}]}
    small["initContainers"] = [{"name": "check", "resources": PODS}]
    patches = [
        ("v1", "ConfigMap", {"data": settings}),
        ("apps/v1", "Deployment", {"spec": {"minReadySeconds": MIN_READY, "template": {"spec": small}}}),
        ("autoscaling/v2", "HorizontalPodAutoscaler", {"spec": {"minReplicas": REPLICAS}}),
    ]
    metadata = {"metadata": {"name": NAME}}
    objects = kustomization(
        folder,
        namespace=namespace.namespace,
        resources=["base"],
        components=["components/connection-check"],
        namePrefix=f"{region}-",
        labels=[{"pairs": {INSTANCE: region}, "includeSelectors": True}],
        patches=[
            {"patch": json.dumps({"apiVersion": version, "kind": kind} | metadata | content)}
            for version, kind, content in patches
        ],
    )
    namespace.apply(*objects)


def by_helm(namespace, region, settings):
    url = settings.pop("GATEWAY_UPSTREAM_URL")
    values = {"upstream.url": url, "settings": settings, "connectionCheck": True, "minReadySeconds": MIN_READY}
    return Release(namespace, region).install(values | {"resources": PODS, "autoscaling.minReplicas": REPLICAS})


@pytest.fixture(scope="module")
def installations(namespace, upstreams, tmp_path_factory):
    """The installations, and what Helm printed."""
    printed = ""
    for region, upstream in upstreams.items():
        settings = {"GATEWAY_UPSTREAM_URL": upstream.url, "GATEWAY_ALLOW_PLAINTEXT_UPSTREAM": "true"}
        if region == HELM:
            printed = by_helm(namespace, region, settings)
        else:
            by_kustomize(namespace, tmp_path_factory.mktemp(region), region, settings)
    found = {region: Deployment(namespace, f"{region}-{NAME}", region) for region in REGIONS}
    for deployment in found.values():
        deployment.wait_until_settled(REPLICAS)
    return found, printed


def test_each_service_has_the_pods_of_its_installation(installations):
    found, _ = installations
    for region, deployment in found.items():
        pods = set(deployment.serving().values())
        wait_for(lambda pods=pods, deployment=deployment: deployment.endpoints() == pods, f"endpoints of {region}", 60)
    assert len({address for deployment in found.values() for address in deployment.endpoints()}) == 3 * REPLICAS


def test_no_call_is_answered_by_another_region(installations, namespace, upstreams, load_binary):
    flags = ["-without-retries", f"-rate={RATE}", f"-calls={CALLS}"]
    with ExitStack() as stack:
        callers = {}
        for region in REGIONS:
            address = namespace.get("services", f"{region}-{NAME}")["spec"]["clusterIP"]
            command = [load_binary, f"-address={address}:50051", *flags, PROJECT, SHARE]
            process = subprocess.Popen(
                command, env=os.environ | {"OS_TOKEN": region}, stdout=subprocess.PIPE, text=True
            )
            callers[region] = stack.enter_context(process)
        totals = {region: json.loads(caller.communicate()[0].splitlines()[-1]) for region, caller in callers.items()}
    for region, total in totals.items():
        assert (total["calls"], total["failed"]) == (CALLS, 0), total["failures"]
        assert total["availability_zones"] == {region: CALLS}
        requests = [request for request in upstreams[region].requests if request.path.endswith(SHARE)]
        assert [request.headers["x-auth-token"] for request in requests] == [region] * CALLS


def test_connection_was_checked_before_each_pod_started(installations, namespace):
    found, _ = installations
    for deployment in found.values():
        for pod in deployment.serving():
            assert "ok    upstream, route" in namespace.kubectl("logs", pod, "--container=check")


def test_notes_and_test_of_the_chart(installations, namespace):
    _, printed = installations
    assert f"helm test {HELM} --namespace {namespace.namespace}" in printed.partition("NOTES:")[2]
    Release(namespace, HELM).helm("test", "--timeout=60s")
