"""The claim of the volume that artifacts live on, and how pods may share it."""

from __future__ import annotations

from typing import Any

from cai_operator import names
from cai_operator.api import DEFAULT_CLAIM_SIZE, CAIPipeline, Spec
from cai_operator.manifests.kinds import CLAIM
from cai_operator.manifests.metadata import child
from cai_operator.manifests.quantities import canonical

ONCE, MANY = "ReadWriteOnce", "ReadWriteMany"


def access_mode(spec: Spec) -> str:
    """How pods mount the volume.

    Most clusters' default storage class can do ReadWriteOnce only, so that is what is asked for unless a stage has
    several nodes; a claim that asks for more would never be bound. Storage that can do ReadWriteMany does not show in
    its name, so the spec has a field for it. Of an existing claim the mode is not known here: its pods may go anywhere.
    """
    if spec.storage.access_mode is not None:
        return spec.storage.access_mode
    return MANY if spec.uses_several_nodes or spec.storage.claim_name is not None else ONCE


def claim_of(pipeline: CAIPipeline) -> str:
    """The name of the claim that pods mount: the spec's, or that of the one made."""
    return pipeline.spec.storage.claim_name or names.claim_name(pipeline.name)


def volume_claim(pipeline: CAIPipeline) -> dict[str, Any]:
    """The claim to make; owned by the pipeline, and deleted with it, only where the spec says retain: false."""
    storage = pipeline.spec.storage
    spec: dict[str, Any] = {
        "accessModes": [access_mode(pipeline.spec)],
        "resources": {"requests": {"storage": canonical(storage.size or DEFAULT_CLAIM_SIZE)}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    labels = names.shared_labels(pipeline.name)
    return {**child(CLAIM, pipeline, claim_of(pipeline), labels, owned=not storage.retain), "spec": spec}
