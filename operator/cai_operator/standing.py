"""What stands as it was begun, whatever this version of the operator would make of it now: pure.

A new operator, another default image or a changed label is no reason to restart what works. So the children of a job
that runs, and a model that is served, keep what would restart or cut them off. What was changed by hand is mended all
the same, and what is wanted otherwise comes to be when it is next begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cai_operator.api import GROUP, CAIPipeline
from cai_operator.keys import canonical
from cai_operator.manifests.kinds import DEPLOYMENT, JOB, SERVICE
from cai_operator.plan import Plan
from cai_operator.snapshot import Snapshot
from cai_operator.stages import NODES
from cai_operator.workloads import JobState, Kind, Observed, Workload

Manifest = dict[str, Any]

MADE_FROM = f"{GROUP}/made-from"
"""Annotation of a child: digest of the manifest it was made from. It tells that something is no longer wanted, which a
look at the child alone cannot; and of a Job, which is never changed, that it must be made anew."""

SETTINGS = f"{GROUP}/settings"
"""Annotation of a kept server's Deployment: digest of what the user said about it. It tells a change of the spec, which
restarts the server, from a change of the operator, which does not."""

KEPT_NODES = frozenset(node.name for node in NODES if node.kind == Kind.SERVER)


def settings_digest(pipeline: CAIPipeline) -> str:
    """Digest of what the spec says about the kept server, besides what is in its key; defaults do not count."""
    said = pipeline.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    own = {name: said.get(name) for name in ("image", "template", "gpusPerNode")}
    own["serve"] = said.get("stages", {}).get("serve")
    return hashlib.sha256(canonical(own).encode()).hexdigest()[:16]


def standing(pipeline: CAIPipeline, snapshot: Snapshot, observed: Observed, decision: Plan) -> frozenset[str]:
    """The names of workloads that keep what they were begun with.

    They are jobs that run, servers of such that are ready, and the kept server while it is ready with the model that is
    wanted and the user has said nothing else about it.
    """
    running = {workload.node for workload in decision.apply if _runs(workload, observed)}
    return frozenset(
        workload.name
        for workload in decision.apply
        if _runs(workload, observed)
        or (workload.node in running and _serves(workload, observed))
        or (workload.node in KEPT_NODES and _serves_on(pipeline, workload, snapshot, observed))
    )


def as_it_stands(manifest: Manifest, found: Mapping[str, Any] | None) -> Manifest | None:
    """What is to be applied of a manifest whose workload keeps what it was begun with; None: nothing.

    A Deployment may get other replicas and labels, not other pods.
    """
    if found is None or manifest["kind"] == JOB.kind:
        return manifest
    annotations = dict(manifest["metadata"]["annotations"])
    made_from = found["metadata"].get("annotations", {}).get(MADE_FROM)
    if made_from == annotations.pop(MADE_FROM):
        return manifest  # of the same manifest: what differs was changed by hand
    if manifest["kind"] != DEPLOYMENT.kind:
        return None
    if made_from is not None:
        annotations[MADE_FROM] = made_from
    kept = {name: found["spec"][name] for name in ("selector", "template")}
    metadata = {**manifest["metadata"], "annotations": annotations}
    return {**manifest, "metadata": metadata, "spec": {**manifest["spec"], **kept}}


def must_be_made_anew(manifest: Manifest, found: Mapping[str, Any]) -> bool:
    """Whether an object cannot be changed into what is wanted: a Service's address, or what a Deployment selects."""
    if manifest["kind"] == SERVICE.kind:
        return bool((manifest["spec"].get("clusterIP") == "None") != (found["spec"].get("clusterIP") == "None"))
    return bool(manifest["kind"] == DEPLOYMENT.kind and manifest["spec"]["selector"] != found["spec"].get("selector"))


def _runs(workload: Workload, observed: Observed) -> bool:
    seen = observed.jobs.get(workload.name)
    return workload.kind == Kind.JOB and seen is not None and seen.state == JobState.RUNNING


def _serves(workload: Workload, observed: Observed) -> bool:
    seen = observed.servers.get(workload.name)
    return seen is not None and seen.serving


def _serves_on(pipeline: CAIPipeline, workload: Workload, snapshot: Snapshot, observed: Observed) -> bool:
    found, seen = snapshot.of(DEPLOYMENT).get(workload.name), observed.servers.get(workload.name)
    if found is None or seen is None or not seen.serving or seen.key != workload.key:
        return False
    # a version that does not write the annotation made it: whatever the user says from now on counts
    return found["metadata"].get("annotations", {}).get(SETTINGS) in (None, settings_digest(pipeline))
