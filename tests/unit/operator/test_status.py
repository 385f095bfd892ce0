"""A status that another version of the operator wrote: what is understood counts, whatever stands beside it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cai_operator.api import PipelineStatus, State
from cai_operator.status import parse_status

DONE = {"name": "models", "state": "Succeeded", "key": "0123456789abcdef", "attempts": 1}
BROKEN = {"name": "sft", "state": "Failed", "key": "fedcba9876543210", "attempts": 4, "message": "the disk is full"}
DEGRADED = {
    "type": "Degraded",
    "status": "True",
    "reason": "StageFailed",
    "message": "sft failed",
    "lastTransitionTime": "2026-01-01T10:00:00Z",
}
STATUS = {"observedGeneration": 3, "phase": "Failed", "conditions": [DEGRADED], "stages": [DONE, BROKEN]}


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(STATUS), **fields}


@pytest.mark.parametrize(
    "written",
    [
        changed(costs={"gpuSeconds": 12}),
        changed(stages=[{**DONE, "costs": {}}, {**BROKEN, "colour": "red"}]),
        changed(stages=[DONE, BROKEN, {"name": "newStage", "state": "Running"}]),
        changed(stages=[DONE, BROKEN, {"state": "Running"}]),
        changed(stages=["models", DONE, BROKEN]),
        changed(conditions=[{"type": "Ready"}, DEGRADED]),
        changed(phase="Hibernating"),
        changed(progress={"done": 2, "of": 9}),
        changed(stages=[{**DONE, "started": "yesterday"}, {**BROKEN, "attempts": None, "progress": "half"}]),
    ],
    ids=[
        "unknown field",
        "unknown field of a stage",
        "unknown stage",
        "stage without a name",
        "stage that is none",
        "condition that lacks fields",
        "unknown phase",
        "another type",
        "fields of a stage",
    ],
)
def test_what_is_understood_counts(written: dict[str, Any]) -> None:
    before = copy.deepcopy(written)
    status = parse_status(written)
    done, broken = status.node("models"), status.node("sft")
    assert done is not None
    assert (done.state, done.key) == (State.SUCCEEDED, DONE["key"])
    assert broken is not None
    assert (broken.state, broken.key, broken.message) == (State.FAILED, BROKEN["key"], "the disk is full")
    assert status.observed_generation == 3
    assert [condition.reason for condition in status.conditions] == ["StageFailed"]
    assert written == before


def test_a_state_this_version_does_not_know_is_that_of_one_stage_alone() -> None:
    status = parse_status(changed(stages=[{**DONE, "state": "Archived"}, BROKEN]))
    assert [(stage.name, stage.state) for stage in status.stages] == [
        ("models", State.WAITING),
        ("sft", State.FAILED),
    ]


@pytest.mark.parametrize("written", [None, {}, {"stages": "none"}, {"conditions": 3}])
def test_nothing_at_all_is_an_empty_status(written: Any) -> None:
    assert parse_status(written) == PipelineStatus()
