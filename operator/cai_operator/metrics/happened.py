"""What happened between two statuses of a pipeline, to be counted once.

The status in the API server is the ledger: it is written under the resourceVersion it was derived from, so whoever's
write succeeds, and nobody else, counts what it newly says. A restarted operator finds in it what was counted already,
and counts what happened while none ran. Lost is what was counted since the last scrape when a process ends, and
a write whose answer never came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cai_operator.metrics.judgements import judgements
from cai_operator.stages import NODES
from cai_operator.status import NodeStatus, PipelineStatus, State
from cai_operator.workloads import Kind

OUTCOMES = {State.SUCCEEDED: "succeeded", State.FAILED: "failed"}
FAILURE, ASKED = "failure", "asked"
DECIDED, UNDECIDED = "decided", "undecided"
JOB_NODES = tuple(node.name for node in NODES if node.kind == Kind.JOB)


@dataclass(frozen=True)
class Happened:
    """What to add: to the counter or histogram of this name, under these labels (the engine comes first), this much."""

    metric: str
    labels: tuple[str, ...]
    value: float


def happened(old: PipelineStatus, new: PipelineStatus, engine: str) -> tuple[Happened, ...]:
    """Attempts, retries, ends, durations and judgements that `new` tells of and `old` does not."""
    found: list[Happened] = []
    for name in JOB_NODES:
        after = new.node(name)
        if after is not None and after.key is not None and after.state != State.DISABLED:
            found.extend(_of_node(old.node(name), after, engine))
    return tuple(found)


def _of_node(before: NodeStatus | None, after: NodeStatus, engine: str) -> Iterator[Happened]:
    where = (engine, after.name)
    is_same_run = before is not None and (before.key, before.retry) == (after.key, after.retry)
    attempts_before = before.attempts if before is not None and is_same_run else 0
    if after.attempts > attempts_before:
        yield Happened("cai_stage_attempts_total", where, after.attempts - attempts_before)
    again = max(after.attempts, 1) - max(attempts_before, 1)
    if again > 0:
        yield Happened("cai_stage_retries_total", (*where, FAILURE), again)
    if before is not None and before.key == after.key and after.retry and before.retry != after.retry:
        yield Happened("cai_stage_retries_total", (*where, ASKED), 1)
    outcome = OUTCOMES.get(after.state)
    if outcome is None or (before is not None and is_same_run and before.state == after.state):
        return
    yield Happened("cai_stages_finished_total", (*where, outcome), 1)
    if after.started is not None and after.finished is not None and after.finished >= after.started:
        seconds = (after.finished - after.started).total_seconds()
        yield Happened("cai_stage_duration_seconds", (*where, outcome), seconds)
    if after.state == State.SUCCEEDED:
        told = judgements(after.metrics)
        if told.all:
            yield Happened("cai_judge_decisions_total", (*where, DECIDED), told.decided)
            yield Happened("cai_judge_decisions_total", (*where, UNDECIDED), told.undecided)
