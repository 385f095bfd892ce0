"""The kinds of objects the operator reads or writes, and their REST paths (Kubernetes' "Resource URIs")."""

from __future__ import annotations

from dataclasses import dataclass

from cai_operator.api import API_VERSION, KIND, PLURAL


@dataclass(frozen=True)
class ObjectKind:
    """One kind, namespaced."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str, name: str | None = None) -> str:
        """The REST path of the collection, or of one object; with namespace "" that of all namespaces' objects."""
        base = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        collection = f"{base}/namespaces/{namespace}/{self.plural}" if namespace else f"{base}/{self.plural}"
        return collection if name is None else f"{collection}/{name}"


PIPELINE = ObjectKind(API_VERSION, KIND, PLURAL)
JOB = ObjectKind("batch/v1", "Job", "jobs")
DEPLOYMENT = ObjectKind("apps/v1", "Deployment", "deployments")
SERVICE = ObjectKind("v1", "Service", "services")
CONFIG_MAP = ObjectKind("v1", "ConfigMap", "configmaps")
NETWORK_POLICY = ObjectKind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
CLAIM = ObjectKind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD = ObjectKind("v1", "Pod", "pods")
EVENT = ObjectKind("v1", "Event", "events")
LEASE = ObjectKind("coordination.k8s.io/v1", "Lease", "leases")

CHILD_KINDS = (JOB, DEPLOYMENT, SERVICE, CONFIG_MAP, NETWORK_POLICY, CLAIM)
"""What the operator makes. Pods are made by Jobs and Deployments, and only read."""


def kind_of(manifest: dict[str, object]) -> ObjectKind:
    """The kind of a manifest this operator made.

    Raises:
        KeyError: it is of no child kind.
    """
    return _BY_NAME[str(manifest["kind"])]


_BY_NAME = {kind.kind: kind for kind in CHILD_KINDS}
