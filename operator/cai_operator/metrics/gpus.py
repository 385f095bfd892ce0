"""What becomes of GPUs: which pods hold how many and whether they work with them, and how that adds up to GPU-seconds.

A pod holds its GPUs from the moment it is given a machine until it has ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cai_operator.api_base import GPU
from cai_operator.manifests.quantities import value
from cai_operator.names import KIND_LABEL, NODE_LABEL, WORKLOAD_LABEL
from cai_operator.observing.endings import has_ended, is_running, program_status
from cai_operator.observing.objects import Raw, condition, holds, items, label, mapping, text, time
from cai_operator.workloads import Kind

SERVE = "serve"


class Use(StrEnum):
    """What a pod does with its GPUs."""

    PENDING = "pending"
    STARTING = "starting"
    IDLE = "idle"
    WORKING = "working"


HELD = (Use.STARTING, Use.IDLE, Use.WORKING)


@dataclass(frozen=True)
class Claim:
    """The GPUs of one living pod."""

    uid: str
    node: str
    gpus: int
    use: Use
    since: datetime | None


def claims(pods: Iterable[Raw]) -> list[Claim]:
    """What the living pods of one pipeline do with the GPUs they ask for."""
    living = [pod for pod in pods if not has_ended(pod)]
    uses = _Uses(living)
    return [
        Claim(text(pod, "metadata", "uid"), label(pod, NODE_LABEL), gpus, uses.of(pod), placed_at(pod))
        for pod in living
        if (gpus := gpus_of(pod))
    ]


def gpus_by_state(pods: Iterable[Raw]) -> Mapping[tuple[str, str], int]:
    """(node of the graph, use) -> GPUs, of one pipeline's pods."""
    found: Counter[tuple[str, str]] = Counter()
    for claim in claims(pods):
        found[claim.node, claim.use] += claim.gpus
    return found


def gpus_of(pod: Raw) -> int:
    """GPUs a pod asks for."""
    return sum(_whole(mapping(one, "resources", "limits").get(GPU)) for one in items(pod, "spec", "containers"))


def placed_at(pod: Raw) -> datetime | None:
    """When it was given a machine; None where it has none, or does not say."""
    placed = condition(pod, "PodScheduled")
    return time(placed, "lastTransitionTime") if placed.get("status") == "True" else None


def ended_at(pod: Raw) -> datetime | None:
    """When its program ended."""
    return time(program_status(pod), "state", "terminated", "finishedAt")


class _Uses:
    """Of the living pods of one pipeline: who of them works."""

    def __init__(self, living: Iterable[Raw]) -> None:
        jobs = [pod for pod in living if label(pod, KIND_LABEL) == Kind.JOB]
        running = [pod for pod in jobs if is_running(pod)]
        self._busy_nodes = {label(pod, NODE_LABEL) for pod in running} | {SERVE}
        runs = Counter(label(pod, WORKLOAD_LABEL) for pod in running)
        pods = Counter(label(pod, WORKLOAD_LABEL) for pod in jobs)
        self._whole = {name for name, count in pods.items() if runs[name] == count}

    def of(self, pod: Raw) -> Use:
        if not text(pod, "spec", "nodeName") and not holds(pod, "PodScheduled"):
            return Use.PENDING
        if label(pod, KIND_LABEL) == Kind.JOB:
            if not is_running(pod):
                return Use.STARTING
            return Use.WORKING if label(pod, WORKLOAD_LABEL) in self._whole else Use.IDLE
        if not holds(pod, "Ready"):
            return Use.STARTING
        return Use.WORKING if label(pod, NODE_LABEL) in self._busy_nodes else Use.IDLE


class Meter:
    """Adds GPU-seconds up, from one look to the next; seconds before the first look are nobody's.

    Between two looks a pod is taken to have done what it did at the earlier one. Its first second is that of its
    placement and its last that of its program's end, wherever they fall, as long as the pod is there to tell.
    """

    def __init__(self, start: datetime) -> None:
        self._looked = start
        self._before: dict[str, Claim] = {}
        self._present: dict[str, Claim] = {}
        self._added: dict[tuple[str, ...], float] = defaultdict(float)

    def add(self, where: tuple[str, str], pods: Sequence[Raw], now: datetime) -> None:
        """Take one pipeline into account; all pipelines of a look at the same time.

        Args:
            where: its namespace and engine.
            pods: its pods.
            now: the time.
        """
        for claim in claims(pods):
            for use in HELD:
                self._added[(*where, claim.node, use)] += 0.0
            self._present[claim.uid] = claim
            earlier = self._before.get(claim.uid)
            if claim.use != Use.PENDING:
                use = earlier.use if earlier is not None and earlier.use != Use.PENDING else claim.use
                self._count(where, claim, use, now)
        for pod in pods:
            known = self._before.get(text(pod, "metadata", "uid"))
            if known is None or known.uid in self._present or known.use == Use.PENDING:
                continue
            end = ended_at(pod)
            if end is not None:
                self._count(where, known, known.use, min(end, now))

    def take(self, now: datetime) -> Mapping[tuple[str, ...], float]:
        """What was added up at this look, which is over.

        Returns:
            (namespace, engine, node of the graph, use) -> GPU-seconds; 0 where a use is only possible, so that
            Prometheus sees it begin at 0.
        """
        added = self._added
        self._before, self._present, self._looked, self._added = self._present, {}, now, defaultdict(float)
        return added

    def _count(self, where: tuple[str, str], claim: Claim, use: Use, until: datetime) -> None:
        begin = max(self._looked, claim.since) if claim.since is not None else self._looked
        seconds = (until - begin).total_seconds()
        if seconds > 0:
            self._added[(*where, claim.node, use)] += claim.gpus * seconds


def _whole(quantity: object) -> int:
    try:
        return int(value(quantity)) if isinstance(quantity, str | int) else 0
    except ValueError:
        return 0
