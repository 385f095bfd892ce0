"""What to write so that a cluster holds what a plan wants: pure, from the plan and the children that are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cai_operator.api import CAIPipeline
from cai_operator.manifests.children import shared_children, workload_children
from cai_operator.manifests.drift import differs
from cai_operator.manifests.kinds import CLAIM, DEPLOYMENT, JOB, kind_of
from cai_operator.manifests.site import Site
from cai_operator.names import MANAGED_BY, MANAGED_BY_LABEL, WORKLOAD_LABEL
from cai_operator.observing.objects import is_going
from cai_operator.plan import Plan
from cai_operator.snapshot import Snapshot
from cai_operator.standing import (
    KEPT_NODES,
    MADE_FROM,
    SETTINGS,
    as_it_stands,
    must_be_made_anew,
    settings_digest,
    standing,
)
from cai_operator.workloads import JobState, Observed, Workload

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Apply:
    """Manifests to apply in this order, of one workload, or of the pipeline as a whole (None)."""

    workload: Workload | None
    manifests: tuple[Manifest, ...]


@dataclass(frozen=True)
class Changes:
    """What to do, deletions first; `kept` are the workloads that stay or come."""

    delete: tuple[Manifest, ...]
    apply: tuple[Apply, ...]
    kept: frozenset[str]


def changes(
    pipeline: CAIPipeline,
    snapshot: Snapshot,
    observed: Observed,
    decision: Plan,
    refused: Collection[str],
    site: Site,
) -> Changes:
    """What is to be written.

    Args:
        pipeline: the resource.
        snapshot: what is there.
        observed: the same as the plan saw it.
        decision: the plan.
        refused: names of workloads that were refused when last applied: they are tried again.
        site: the installation.
    """
    there = {*snapshot.of(JOB), *snapshot.of(DEPLOYMENT)}
    kept = frozenset(there - set(decision.delete)) | {workload.name for workload in decision.apply}
    stands = standing(pipeline, snapshot, observed, decision)
    wanted: list[tuple[Workload | None, tuple[Manifest, ...]]] = [(None, _for_all(pipeline, snapshot, site))]
    for workload in decision.apply:
        manifests = _of_workload(pipeline, workload, site)
        if workload.name in stands:
            manifests = tuple(held for one in manifests if (held := as_it_stands(one, _found(snapshot, one))))
        wanted.append((workload, manifests))
    applies = []
    for whose, manifests in wanted:
        needed = tuple(manifest for manifest in manifests if _needs_apply(pipeline, snapshot, manifest))
        if needed or (whose is not None and whose.name in refused):
            applies.append(Apply(whose, needed))
    names_wanted = {(m["kind"], m["metadata"]["name"]): m for _, manifests in wanted for m in manifests}
    delete = tuple(
        found
        for found in snapshot.every()
        if not is_going(found) and _is_unwanted(pipeline, found, observed, kept, names_wanted)
    )
    return Changes(delete, tuple(applies), kept)


def own(pipeline: CAIPipeline, snapshot: Snapshot) -> Snapshot:
    """The snapshot without what is being deleted and what belongs to an earlier pipeline of the same name."""
    children = {
        kind: {
            name: found
            for name, found in by_name.items()
            if not is_going(found) and (kind == "Pod" or not _belongs_to_another(pipeline, found))
        }
        for kind, by_name in snapshot.children.items()
    }
    return Snapshot(snapshot.pipeline, children)


def _for_all(pipeline: CAIPipeline, snapshot: Snapshot, site: Site) -> tuple[Manifest, ...]:
    manifests = []
    for manifest in _marked(shared_children(pipeline, site)):
        found = _found(snapshot, manifest)
        if manifest["kind"] == CLAIM.kind and found is not None and pipeline.spec.storage.size is None:
            # another version may have had another default, which is no reason to grow a volume
            manifest = {**manifest, "spec": {**manifest["spec"], "resources": found["spec"]["resources"]}}
        manifests.append(manifest)
    return tuple(manifests)


def _of_workload(pipeline: CAIPipeline, workload: Workload, site: Site) -> tuple[Manifest, ...]:
    manifests = _marked(workload_children(pipeline, workload, site))
    if workload.node not in KEPT_NODES:
        return manifests
    said = settings_digest(pipeline)
    return tuple(_annotated(manifest, SETTINGS, said) for manifest in manifests)


def _found(snapshot: Snapshot, manifest: Manifest) -> Manifest | None:
    return snapshot.of(kind_of(manifest)).get(manifest["metadata"]["name"])


def _needs_apply(pipeline: CAIPipeline, snapshot: Snapshot, manifest: Manifest) -> bool:
    kind, found = kind_of(manifest), _found(snapshot, manifest)
    if found is None:
        return True
    if is_going(found) or _belongs_to_another(pipeline, found) or must_be_made_anew(manifest, found):
        return False  # its place must be free first
    return kind != JOB and (differs(manifest, found) or _is_to_be_retained(pipeline, manifest, found))


def _is_to_be_retained(pipeline: CAIPipeline, manifest: Manifest, found: Mapping[str, Any]) -> bool:
    """Whether a claim goes with the pipeline though the spec has come to say that it is to stay."""
    owners = found["metadata"].get("ownerReferences", [])
    is_owned = any(owner["uid"] == pipeline.metadata.uid for owner in owners)
    return manifest["kind"] == CLAIM.kind and is_owned and "ownerReferences" not in manifest["metadata"]


def _is_unwanted(
    pipeline: CAIPipeline,
    found: Manifest,
    observed: Observed,
    kept: Collection[str],
    wanted: Mapping[tuple[str, str], Manifest],
) -> bool:
    name, labels = found["metadata"]["name"], found["metadata"].get("labels", {})
    if found["kind"] == CLAIM.kind:
        return False  # data: the garbage collector takes it if the spec said so, nobody else
    if labels.get(MANAGED_BY_LABEL) != MANAGED_BY:
        return False  # somebody's own, who labels it for an overview
    if _belongs_to_another(pipeline, found):
        return True
    manifest = wanted.get((found["kind"], name))
    workload = labels.get(WORKLOAD_LABEL)
    if workload is None:
        return manifest is None
    if workload not in kept:
        return True
    if manifest is None:
        return False
    return must_be_made_anew(manifest, found) or (found["kind"] == JOB.kind and _is_outdated(manifest, found, observed))


def _is_outdated(manifest: Manifest, found: Manifest, observed: Observed) -> bool:
    """Whether a Job that does nothing yet was made from another manifest than is wanted now, or was changed by hand."""
    seen = observed.jobs.get(found["metadata"]["name"])
    if seen is None or seen.state != JobState.PENDING:
        return False
    made_from = found["metadata"].get("annotations", {}).get(MADE_FROM)
    if made_from != manifest["metadata"]["annotations"][MADE_FROM]:
        return True
    parallelism = found["spec"].get("parallelism", 1)
    return bool(parallelism != manifest["spec"].get("parallelism", 1))


def _marked(manifests: Collection[Manifest]) -> tuple[Manifest, ...]:
    # not a claim: one that is left from an earlier pipeline may be larger than wanted, and stays as it is
    return tuple(manifest if manifest["kind"] == CLAIM.kind else _with_digest(manifest) for manifest in manifests)


def _with_digest(manifest: Manifest) -> Manifest:
    return _annotated(
        manifest, MADE_FROM, hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    )


def _annotated(manifest: Manifest, name: str, value: str) -> Manifest:
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), name: value}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _belongs_to_another(pipeline: CAIPipeline, found: Mapping[str, Any]) -> bool:
    owners = [owner for owner in found["metadata"].get("ownerReferences", []) if owner.get("controller")]
    return any(owner["uid"] != pipeline.metadata.uid for owner in owners)
