"""A release of the Helm chart in the cluster."""

from support.kubernetes import Deployment
from support.manifests import CHART, NAME, assignments, helm


class Release:
    """`deployment` is what it makes: support.kubernetes.Deployment."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.deployment = Deployment(cluster, f"{name}-{NAME}", name)

    def helm(self, command, *arguments):
        """What Helm prints."""
        where = ["--kubeconfig", self.cluster.kubeconfig, "--namespace", self.cluster.namespace]
        done = helm(command, self.name, *arguments, *where)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, values):
        """`values` are by their paths."""
        return self.helm("install", CHART, *assignments(values))

    def upgrade(self, values, chart=CHART):
        return self.helm("upgrade", chart, *assignments(values))
