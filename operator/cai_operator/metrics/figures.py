"""Figures of pipelines as they are now: pure, from the resources and their pods as the API server has them.

They follow from what is there alone, so a restarted operator tells the same ones, and a deleted pipeline's go with it.
A label names a pipeline only in figures of stages that run and of pipelines that are in trouble or on their way: so
their number follows the work at hand, not all that was ever done.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeGuard

from cai_operator import conditions
from cai_operator.api import Spec
from cai_operator.metrics.gpus import gpus_by_state
from cai_operator.metrics.judgements import judgements
from cai_operator.observing.objects import Raw, condition, dig, items, mapping, name_of, text, time
from cai_operator.stages import NODES
from cai_operator.status import Phase, State

NODE_NAMES = frozenset(node.name for node in NODES)
_UNIT = re.compile(r"[a-z_]{1,20}")

Samples = Mapping[str, Mapping[tuple[str, ...], float]]
"""Metric name -> label values, in the order of the catalogue -> value."""


class Figures:
    """Figures over pipelines, added one by one."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)

    def samples(self) -> Samples:
        """Everything that was added."""
        return self._samples

    def engines(self) -> set[str]:
        """The engines the pipelines have."""
        return {engine for _, engine, _ in self._samples["cai_pipelines"]}

    def add(self, document: Raw, pods: Iterable[Raw]) -> None:
        """Take one pipeline into account.

        Args:
            document: the resource with its status, which may be missing as yet.
            pods: its pods.
        """
        namespace, name, engine = text(document, "metadata", "namespace"), name_of(document), engine_of(document)
        phase = text(document, "status", "phase") or Phase.PENDING
        for one in Phase:
            self._count("cai_pipelines", (namespace, engine, one), int(one == phase))
        degraded = condition(mapping(document), conditions.DEGRADED)
        since = time(degraded, "lastTransitionTime")
        if degraded.get("status") == "True" and since is not None:
            where = (namespace, name, text(degraded, "reason"))
            self._samples["cai_pipeline_degraded_timestamp_seconds"][where] = since.timestamp()
        for node in _nodes(document):
            state = text(node, "state")
            self._count("cai_stages", (namespace, engine, name_of_node(node), state), 1)
            run = (namespace, name, name_of_node(node))
            if state == State.RUNNING:
                self._add_run(run, node)
            elif state == State.SUCCEEDED and phase != Phase.SUCCEEDED:
                self._add_judgements(run, node)
        for (node_name, gpu_state), gpus in gpus_by_state(pods).items():
            self._count("cai_gpus", (namespace, engine, node_name, gpu_state), gpus)

    def _count(self, name: str, labels: tuple[str, ...], value: float) -> None:
        self._samples[name][labels] = self._samples[name].get(labels, 0.0) + value

    def _add_run(self, run: tuple[str, str, str], node: Raw) -> None:
        started = time(node, "started")
        if started is not None:
            self._samples["cai_stage_started_timestamp_seconds"][run] = started.timestamp()
        progress = mapping(node, "progress")
        if not progress:
            return
        unit = text(progress, "unit")
        where = (*run, unit if _UNIT.fullmatch(unit) else "other")
        metrics = mapping(progress, "metrics")
        for name, found in (
            ("cai_stage_progress_units", progress.get("done")),
            ("cai_stage_progress_expected_units", progress.get("total")),
            ("cai_stage_units_per_second", metrics.get(f"{unit}_per_s")),
        ):
            if is_number(found):
                self._samples[name][where] = float(found)
        calls = metrics.get("judge_calls_per_s")
        if is_number(calls):
            self._samples["cai_stage_judge_calls_per_second"][run] = float(calls)

    def _add_judgements(self, run: tuple[str, str, str], node: Raw) -> None:
        found = judgements(mapping(node, "metrics"))
        if found.all:
            self._samples["cai_stage_undecided_ratio"][run] = found.undecided / found.all


def engine_of(document: Raw) -> str:
    """The engine of a resource."""
    return text(document, "spec", "engine") or str(Spec.model_fields["engine"].default)


def name_of_node(node: Raw) -> str:
    """The name of a node of a status."""
    return text(node, "name")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number, which truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nodes(document: Raw) -> list[Raw]:
    """The nodes of a status that are not off: stages, and of a stage that has them its parts."""
    stages = items(document, "status", "stages")
    nodes = [node for stage in stages for node in (items(stage, "parts") or [stage])]
    return [node for node in nodes if name_of_node(node) in NODE_NAMES and dig(node, "state") != State.DISABLED]
