"""The texts a job reads, as ConfigMaps: what they said when its key was made, whatever their sources say later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai_operator import names
from cai_operator.api import CAIPipeline
from cai_operator.manifests.kinds import CONFIG_MAP
from cai_operator.manifests.metadata import child, workload_labels
from cai_operator.workloads import Workload

LARGEST_CONFIG_MAP = 1024 * 1024
"""Bytes of values the API server takes in one ConfigMap. Three data sets, each from a ConfigMap, may be more."""


def texts_config_maps(pipeline: CAIPipeline, workload: Workload) -> tuple[dict[str, Any], ...]:
    """As many ConfigMaps as its texts need, none without texts. Immutable: other texts have another key and name."""
    labels = workload_labels(pipeline, workload)
    return tuple(
        {**child(CONFIG_MAP, pipeline, name, labels), "immutable": True, "data": dict(data)}
        for name, data in _shared_out(workload).items()
    )


def texts_volume(workload: Workload) -> dict[str, Any]:
    """The volume in which all texts of a workload are together."""
    return {
        "name": "texts",
        "projected": {"sources": [{"configMap": {"name": name}} for name in _shared_out(workload)]},
    }


def _shared_out(workload: Workload) -> Mapping[str, Mapping[str, str]]:
    parts: list[dict[str, str]] = []
    room = 0
    for file, content in sorted(workload.texts.items()):
        size = len(content.encode())
        if not parts or size > room:
            parts.append({})
            room = LARGEST_CONFIG_MAP
        parts[-1][file] = content
        room -= size
    return {names.texts_name(workload.name, number): part for number, part in enumerate(parts)}
