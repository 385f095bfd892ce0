"""Pipelines for tests of the operator: the pocket example, under any name and with any change of its spec."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "pocket.yaml"

JOBS = (
    *("models", "datasets", "slData", "sft", "rlData", "rewardModel", "ppo"),
    *("evaluateBase", "evaluateSlCai", "evaluateRlCai", "report"),
)
"""Nodes of the graph that are Jobs."""

SERVERS: Mapping[str, int] = {
    **{"slData": 1, "rlData": 2, "ppo": 1, "evaluateBase": 1, "evaluateSlCai": 1, "evaluateRlCai": 1, "serve": 1},
}
"""How many server Deployments the pocket example's nodes have while they run: of rlData the second is the judge."""

AFTER: Mapping[str, tuple[str, ...]] = {
    "models": (),
    "datasets": (),
    "slData": ("models", "datasets"),
    "sft": ("models", "slData"),
    "rlData": ("sft", "datasets"),
    "rewardModel": ("sft", "rlData"),
    "ppo": ("sft", "rlData", "rewardModel"),
    "evaluateBase": ("models", "datasets"),
    "evaluateSlCai": ("sft", "datasets", "evaluateBase"),
    "evaluateRlCai": ("ppo", "datasets", "evaluateBase"),
    "report": tuple(name for name in JOBS if name != "report"),
}
"""What must have succeeded before a node's Job is made: written down once more, lest the code be its own judge."""


def pocket(name: str = "pocket", spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """The pocket example, named `name`, with `spec` laid over its own (None takes a field away)."""
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    document["metadata"] = {"name": name, **metadata}
    document["spec"] = merged(document["spec"], spec or {})
    return document


def short(name: str = "short", spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A pipeline of few nodes: models, datasets, slData (with its server) and sft."""
    document = pocket(name, **metadata)
    for stage in ("rlData", "rewardModel", "ppo", "evaluate", "serve", "report"):
        document["spec"]["stages"][stage] = {"enabled": False}
    document["spec"] = merged(document["spec"], spec or {})
    return document


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with `over` laid over it, mappings field by field, None taking a field away."""
    result = copy.deepcopy(dict(base))
    for field, value in over.items():
        if value is None:
            result.pop(field, None)
        elif isinstance(value, Mapping) and isinstance(result.get(field), Mapping):
            result[field] = merged(result[field], value)
        else:
            result[field] = copy.deepcopy(value)
    return result
