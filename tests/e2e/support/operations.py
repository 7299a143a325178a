"""What an operator does to an installation in the cluster while a caller goes on, and the check that no call fails."""

import contextlib
import socket
import time

from support.wait import wait_for

CONNECTION_AGE = 10  # seconds; the installations of these checks have it as --max-connection-age
MIN_READY = 6  # seconds, as minReadySeconds: longer than the caller waits between two DNS lookups


@contextlib.contextmanager
def no_call_fails(caller, deployment, name, count, min_rate, even_within=2 * CONNECTION_AGE + 2):
    """From the operation until `count` pods have an even load again."""
    before, began = caller.tally(), time.monotonic()
    remarks = []
    yield remarks.append
    deployment.wait_until_settled(count)
    done = time.monotonic()
    smallest = deployment.wait_until_even(even_within)
    after, even = caller.tally(), time.monotonic()
    calls, failed = after["calls"] - before["calls"], after["failed"] - before["failed"]
    rate = calls / (even - began)
    times = f"done in {done - began:.0f} s, even after {even - done:.0f} s, least loaded pod {smallest:.0%}"
    print(f"{name}: {times}, {calls} calls, {rate:.0f}/s, {failed} failed", *remarks, sep="; ")
    assert failed == 0, after["failures"]
    assert rate >= min_rate, f"the caller made {rate:.0f} calls a second"


def delete_each_pod(deployment, remark):
    """Waits for the replacement of each. Each must leave the endpoints before it stops accepting."""

    def accepts(address):
        try:
            socket.create_connection((address, 50051), timeout=2).close()
        except OSError:
            return False
        return True

    pods = deployment.serving()
    for name, address in pods.items():
        deployment.cluster.kubectl("delete", "pod", name, "--wait=false")
        wait_for(lambda address=address: address not in deployment.endpoints(), "it leaves the endpoints", 60)
        left = time.monotonic()
        assert accepts(address), "it stops accepting before it has left the endpoints"
        wait_for(lambda address=address: not accepts(address), "it stops accepting", 60)
        remark(f"out of the endpoints {time.monotonic() - left:.1f} s before it stops accepting")
        deployment.wait_until_replaced(name, len(pods))


def evict_each_pod(deployment, remark):
    """As `kubectl drain` does, at once: the PodDisruptionBudget must make it wait."""
    cluster, refused = deployment.cluster, 0

    def evict(name):
        nonlocal refused
        metadata = {"name": name, "namespace": cluster.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}/eviction"
        status, document = cluster.request("POST", path, body)
        assert status in (201, 429), document
        refused += status == 429
        return status == 201

    for name in deployment.serving():
        wait_for(lambda name=name: evict(name), "the PodDisruptionBudget allows the eviction", 60)
    assert refused, "the PodDisruptionBudget allowed the eviction of all pods at once"
    remark(f"{refused} times refused by the PodDisruptionBudget")


def renew_certificate(caller, secrets, rate, remark):
    """Until each pod presents it, and the caller has replaced each of its connections, whose age varies by a tenth."""
    began = time.monotonic()
    secrets.renew_server()
    secrets.wait_until_presented()
    remark(f"presented by every pod after {time.monotonic() - began:.0f} s")
    caller.wait_for_calls(1.2 * CONNECTION_AGE * rate)
