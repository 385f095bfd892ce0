"""Who may reach a pipeline's pods: its own pods all of them, everybody the kept server. What they reach is free.

Between them the two policies select every pod of the pipeline.
"""

from __future__ import annotations

from typing import Any

from cai_operator import names
from cai_operator.api import CAIPipeline
from cai_operator.manifests.kinds import NETWORK_POLICY
from cai_operator.manifests.metadata import child

KEPT_NODE = "serve"


def internal_policy(pipeline: CAIPipeline) -> dict[str, Any]:
    """Servers of stages, and ranks of jobs on several nodes, whatever their ports: for the same pipeline only."""
    own = _own(pipeline)
    others = [{"key": names.NODE_LABEL, "operator": "NotIn", "values": [KEPT_NODE]}]
    spec = {
        "podSelector": {"matchLabels": own, "matchExpressions": others},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": own}}]}],
    }
    return {**_head(pipeline, "stages"), "spec": spec}


def kept_server_policy(pipeline: CAIPipeline) -> dict[str, Any]:
    """The served model is what the pipeline is for: its port is open to the cluster, and no other."""
    spec = {
        "podSelector": {"matchLabels": {**_own(pipeline), names.NODE_LABEL: KEPT_NODE}},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"port": pipeline.spec.stages.serve.port, "protocol": "TCP"}]}],
    }
    return {**_head(pipeline, "serve"), "spec": spec}


def _own(pipeline: CAIPipeline) -> dict[str, str]:
    return {names.PIPELINE_LABEL: names.shared_labels(pipeline.name)[names.PIPELINE_LABEL]}


def _head(pipeline: CAIPipeline, what: str) -> dict[str, Any]:
    name = names.policy_name(pipeline.name, what)
    return child(NETWORK_POLICY, pipeline, name, names.shared_labels(pipeline.name))
