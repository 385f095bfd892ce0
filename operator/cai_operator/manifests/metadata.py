"""Metadata of children: name, labels by which the operator finds them, the pipeline as their owner."""

from __future__ import annotations

from typing import Any

from cai_operator import names
from cai_operator.api import API_VERSION, KIND, CAIPipeline
from cai_operator.manifests.kinds import ObjectKind
from cai_operator.stages import NODES
from cai_operator.workloads import Workload

_STAGES = {node.name: node.stage for node in NODES}


def stage_name(workload: Workload) -> str:
    """The stage a workload works for."""
    return _STAGES[workload.node]


def workload_labels(pipeline: CAIPipeline, workload: Workload) -> dict[str, str]:
    """Labels of everything made for a workload, its pods included."""
    stage = stage_name(workload)
    found = names.labels(pipeline.name, stage, workload.node, workload.key, workload.kind.value)
    return {**found, names.WORKLOAD_LABEL: workload.name}


def workload_selector(pipeline: CAIPipeline, workload: Workload) -> dict[str, str]:
    """The labels that tell a workload's pods from all others, and stay the same for a kept server of another model."""
    found = workload_labels(pipeline, workload)
    return {name: found[name] for name in (names.PIPELINE_LABEL, names.WORKLOAD_LABEL)}


def child(
    kind: ObjectKind, pipeline: CAIPipeline, name: str, labels: dict[str, str], owned: bool = True
) -> dict[str, Any]:
    """The head of a child's manifest.

    The pipeline's own labels and annotations are not taken over: tools that deploy the pipeline find by them what they
    made themselves. A pipeline that no API server has seen has no uid, so nothing can name it as owner.
    """
    metadata: dict[str, Any] = {"name": name, "namespace": pipeline.metadata.namespace, "labels": dict(labels)}
    if owned and pipeline.metadata.uid is not None:
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": pipeline.name,
                "uid": pipeline.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
