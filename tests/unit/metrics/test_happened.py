"""What happened between two statuses is counted once, whatever of the statuses between them was ever written."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from tests.unit.operator.conftest import POCKET, FakeExecutor

from cai_operator.metrics.happened import happened
from cai_operator.status import NodeStatus, PipelineStatus, StageStatus, State
from cai_operator.validation import parse_pipeline

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(seconds=90)


def status(**node: object) -> PipelineStatus:
    """A status of one stage, sft."""
    return PipelineStatus(stages=(StageStatus.model_validate({"name": "sft", "key": "k1", **node}),))


def found(old: PipelineStatus, new: PipelineStatus) -> dict[tuple[str, ...], float]:
    return {(one.metric.removeprefix("cai_"), *one.labels[1:]): one.value for one in happened(old, new, "hf")}


RUNNING = {"state": State.RUNNING, "attempts": 1, "started": START}
DONE = {**RUNNING, "state": State.SUCCEEDED, "finished": END}


def test_an_end_has_a_duration_once() -> None:
    assert found(status(**RUNNING), status(**DONE)) == {
        ("stages_finished_total", "sft", "succeeded"): 1,
        ("stage_duration_seconds", "sft", "succeeded"): 90,
    }
    assert found(status(**DONE), status(**DONE)) == {}


def test_what_never_started_has_an_end_and_no_duration() -> None:
    failed = status(state=State.FAILED, finished=END)
    assert found(status(state=State.STARTING), failed) == {("stages_finished_total", "sft", "failed"): 1}


def test_attempts_and_retries() -> None:
    waiting = status(state=State.WAITING)
    assert found(waiting, status(**RUNNING)) == {("stage_attempts_total", "sft"): 1}
    assert found(status(**RUNNING), status(**{**RUNNING, "attempts": 2})) == {
        ("stage_attempts_total", "sft"): 1,
        ("stage_retries_total", "sft", "failure"): 1,
    }
    assert found(waiting, status(**{**RUNNING, "attempts": 3})) == {  # two statuses between were never written
        ("stage_attempts_total", "sft"): 3,
        ("stage_retries_total", "sft", "failure"): 2,
    }


def test_a_retry_that_was_asked_begins_a_new_run() -> None:
    failed = {**DONE, "state": State.FAILED, "attempts": 2}
    asked = found(status(**failed), status(**RUNNING, retry="1"))
    assert asked == {("stage_retries_total", "sft", "asked"): 1, ("stage_attempts_total", "sft"): 1}
    again = found(status(**RUNNING, retry="1"), status(**failed, retry="1"))
    assert again["stages_finished_total", "sft", "failed"] == 1
    assert again["stage_retries_total", "sft", "failure"] == 1


def test_another_key_is_another_run_and_no_retry() -> None:
    assert found(status(**DONE), status(**{**RUNNING, "key": "k2"})) == {("stage_attempts_total", "sft"): 1}
    # of a fast one only the end is ever seen
    assert found(status(**DONE), status(**{**DONE, "key": "k2"})) == {
        ("stage_attempts_total", "sft"): 1,
        ("stages_finished_total", "sft", "succeeded"): 1,
        ("stage_duration_seconds", "sft", "succeeded"): 90,
    }


def test_judgements_of_a_finished_stage() -> None:
    judged = status(**DONE, metrics={"pairs": 6, "ties": 1, "undecided": 3})
    told = found(status(**RUNNING), judged)
    assert told["judge_decisions_total", "sft", "decided"] == 7
    assert told["judge_decisions_total", "sft", "undecided"] == 3


def totals(statuses: Sequence[PipelineStatus]) -> Counter[tuple[str, ...]]:
    """What an operator counts that writes these statuses one after the other."""
    counts: Counter[tuple[str, ...]] = Counter()
    for old, new in pairwise(statuses):
        for one in happened(old, new, "hf"):
            counts[(one.metric, *one.labels)] += one.value  # type: ignore[assignment]
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_whichever_statuses_are_never_written_the_counts_are_the_same(seed: int) -> None:
    executor, rng = FakeExecutor(parse_pipeline(POCKET)), random.Random(seed)
    statuses = [PipelineStatus()]
    for _ in range(400):
        executor.reconcile()
        statuses.append(executor.status)
        if not executor.step(rng):
            break
    executor.reconcile()
    statuses.append(executor.status)
    every = totals(statuses)
    some = [statuses[0], *(one for one in statuses[1:-1] if rng.random() < 0.4), statuses[-1]]
    assert totals(some) == every
    ended = {key[2]: value for key, value in every.items() if key[0] == "cai_stages_finished_total"}
    assert ended == dict.fromkeys(set(executor.ran), 1)
    assert {key[2] for key in every if key[0] == "cai_stage_duration_seconds"} == set(executor.ran)


def test_a_served_model_is_no_run() -> None:
    serving = PipelineStatus(stages=(StageStatus(name="serve", key="k", state=State.RUNNING, started=START),))
    assert happened(PipelineStatus(), serving, "hf") == ()


def test_parts_of_evaluation_are_counted_each() -> None:
    parts = tuple(NodeStatus(name=name, key="k", **DONE) for name in ("evaluateBase", "evaluateSlCai"))
    new = PipelineStatus(stages=(StageStatus(name="evaluate", key="k", state=State.RUNNING, parts=parts),))
    ends = [one for one in happened(PipelineStatus(), new, "nemo") if one.metric == "cai_stages_finished_total"]
    assert [one.labels for one in ends] == [("nemo", part.name, "succeeded") for part in parts]
