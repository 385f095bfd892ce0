"""Names of children, labels and artifact paths: deterministic, and made nowhere else."""

from __future__ import annotations

import hashlib
import re

from cai_operator.api import GROUP

LONGEST_CHILD_NAME = 57
"""Of the 63 characters a label has, an Indexed Job's pods need some for "-<index>"."""

PIPELINE_LABEL = f"{GROUP}/pipeline"
NODE_LABEL = f"{GROUP}/node"
STAGE_LABEL = f"{GROUP}/stage"
KEY_LABEL = f"{GROUP}/key"
KIND_LABEL = f"{GROUP}/kind"
WORKLOAD_LABEL = f"{GROUP}/workload"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "cai-operator"

ROLES = ("server", "judge", "critic")
"""What a server of a node's job may be: the model's, the judge's, the critic's."""


def job_name(pipeline: str, node: str, key: str, retry: str | None = None) -> str:
    """The name of a node's job: another for every key, and for every retry that was asked."""
    suffix = f"{_kebab(node)}-{key[:8]}" + (f"-r{_digest(retry, 4)}" if retry else "")
    return _child_name(pipeline, suffix)


def server_name(pipeline: str, node: str, role: str, key: str, retry: str | None = None) -> str:
    """The name of a server that a node's job uses; `role`, one of ROLES, tells them apart."""
    suffix = f"{_kebab(node)}-{role}-{key[:8]}" + (f"-r{_digest(retry, 4)}" if retry else "")
    return _child_name(pipeline, suffix)


def replica_name(server: str, place: int) -> str:
    """The name of one replica, counted from 0, where each is a workload of its own; the first has the server's."""
    return f"{server}.{place}" if place else server


def without_replica(name: str) -> str:
    """The server's name in that of a replica."""
    return name.partition(".")[0]


def serve_name(pipeline: str) -> str:
    """The name of the kept server: the same whatever model it serves, so that its address stays."""
    return _child_name(pipeline, "serve")


def peers_name(workload: str) -> str:
    """The name of the headless Service among the nodes of a server; the server's own name is its first node's."""
    return f"{workload}-peers"


def artifact_path(pipeline: str, node: str, key: str) -> str:
    """The artifact directory of a node, relative to the root of the volume."""
    return f"{pipeline}/{node}/{key}"


def claim_name(pipeline: str) -> str:
    """The name of the claim made for a pipeline's artifacts."""
    return _child_name(pipeline, "artifacts")


def policy_name(pipeline: str, what: str) -> str:
    """The name of a NetworkPolicy; `what` says whom it is about."""
    return _child_name(pipeline, f"{what}-access")


def texts_name(workload: str, number: int) -> str:
    """The name of a workload's ConfigMap of texts, counted from 0: the first is named as the workload itself."""
    return f"{workload}-{number + 1}" if number else workload


def shared_labels(pipeline: str) -> dict[str, str]:
    """Labels of everything made for a pipeline."""
    return {
        MANAGED_BY_LABEL: MANAGED_BY,
        "app.kubernetes.io/part-of": MANAGED_BY,
        PIPELINE_LABEL: _shortened(pipeline, 63),
    }


def labels(pipeline: str, stage: str, node: str, key: str, kind: str) -> dict[str, str]:
    """Labels of a child, by which the operator finds it again."""
    return {
        **shared_labels(pipeline),
        STAGE_LABEL: stage,
        NODE_LABEL: node,
        KEY_LABEL: key,
        KIND_LABEL: kind,
    }


def _child_name(pipeline: str, suffix: str) -> str:
    # a Service's name begins with a letter and has no dots, while a pipeline's may
    prefix = pipeline.replace(".", "-")
    if prefix != pipeline:
        prefix = f"{prefix}-{_digest(pipeline, 4)}"
    if not prefix[0].isalpha():
        prefix = f"cai-{prefix}"
    return f"{_shortened(prefix, LONGEST_CHILD_NAME - len(suffix) - 1)}-{suffix}"


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return f"{text[: length - 9].rstrip('-.')}-{_digest(text, 8)}"


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "-" + match.group(1), name).lower()


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
