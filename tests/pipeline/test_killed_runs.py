"""SIGKILL of every kind of program and of `cai run` itself, in the middle of their work: the result is the same."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA_STAGES = ("slData", "rlData")
TRAINED = ("sft", "rewardModel", "ppo")


def journalled(count: int) -> Callable[[Path], bool]:
    """Whether a generator has finished so many batches or rows (its journal begins with a line about itself)."""
    return lambda partial: any(len(path.read_bytes().splitlines()) > count for path in partial.rglob("*journal*"))


def trained(count: int) -> Callable[[Path], bool]:
    """Whether a checkpoint of that step, or a later one, stands."""
    name = re.compile(r"(?:checkpoint-|step_)(\d+)")

    def is_trained(partial: Path) -> bool:
        names = (name.fullmatch(path.name) for path in partial.rglob("*"))
        return any(int(found[1]) >= count for found in names if found)

    return is_trained


# program, as its log is called; stage; when
PROGRAMS = [
    ("sl-data", "slData", journalled(2)),
    ("sl-data-server", "slData", journalled(5)),
    ("sft", "sft", trained(1)),
    ("rl-data", "rlData", journalled(3)),
    ("rl-data-server", "rlData", journalled(6)),
    ("rl-data-judge", "rlData", journalled(9)),
    ("reward-model", "rewardModel", trained(1)),
    ("ppo-critic", "ppo", trained(1)),
    ("ppo", "ppo", trained(2)),
]
RUNS = [
    ("datasets", "datasets", lambda partial: True),
    ("sl-data", "slData", journalled(4)),
    ("rl-data", "rlData", journalled(4)),
    ("ppo", "ppo", trained(2)),
]


def at_work(pipeline: Any, program: str, stage: str, far_enough: Callable[[Path], bool]) -> int | None:
    """The program's process, if it runs and its stage has got far enough."""
    pid = pipeline.program(program)
    try:
        partials = list((pipeline.workdir / "artifacts" / "small" / stage).glob("*.partial"))
        return pid if pid is not None and any(map(far_enough, partials)) else None
    except FileNotFoundError:  # it went on while we looked
        return None


def without_evaluation(pipeline: Any) -> None:
    for stage in ("evaluate", "report"):
        pipeline.stages[stage] = {"enabled": False}


def rows(pipeline: Any) -> dict[str, bytes]:
    found = {}
    for stage in DATA_STAGES:
        root = pipeline.artifact(stage)
        for path in root.rglob("*"):
            if path.suffix in (".jsonl", ".json") and path.name != "manifest.json" and "summary" not in path.name:
                found[f"{stage}/{path.relative_to(root)}"] = path.read_bytes()
    return found


def weights(pipeline: Any) -> dict[str, str]:
    return {
        stage: hashlib.sha256((pipeline.artifact(stage) / "model" / "model.safetensors").read_bytes()).hexdigest()
        for stage in TRAINED
    }


def assert_the_same(pipeline: Any, undisturbed: Any) -> None:
    expected = rows(undisturbed)
    assert {"slData/sl_cai_train.jsonl", "rlData/cai_preference_dataset.json"} < set(expected)
    found = rows(pipeline)
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert set(found) == set(expected)
    assert weights(pipeline) == weights(undisturbed)
    assert list((pipeline.workdir / "artifacts").rglob("*.partial")) == []


@pytest.mark.slow
def test_every_kind_of_program_may_be_killed(pipeline: Any, undisturbed: Any, until: Callable[..., Any]) -> None:
    without_evaluation(pipeline)
    run = pipeline.start("--parallel", "2")
    try:
        for program, stage, far_enough in PROGRAMS:
            pid = until(lambda: at_work(pipeline, program, stage, far_enough), f"{program} at work", run)  # noqa: B023
            os.kill(pid, signal.SIGKILL)
        assert run.wait() == 0, pipeline.output()
    finally:
        pipeline.end(run)
    nodes = pipeline.nodes()
    assert all(nodes[stage]["attempts"] > 1 for stage in ("slData", "sft", "rlData", "rewardModel", "ppo"))
    assert_the_same(pipeline, undisturbed)


@pytest.mark.slow
def test_the_run_itself_may_be_killed(pipeline: Any, undisturbed: Any, until: Callable[..., Any]) -> None:
    without_evaluation(pipeline)
    for program, stage, far_enough in RUNS:
        run = pipeline.start("--parallel", "2")
        try:
            until(lambda: at_work(pipeline, program, stage, far_enough), f"{program} at work", run)  # noqa: B023
            run.kill()
            assert run.wait() == -signal.SIGKILL
            until(lambda: not pipeline.processes(), "the programs of a killed run to end")
        finally:
            pipeline.end(run)
    code, output = pipeline.run("--parallel", "2")
    assert code == 0, output
    assert "slData: found done already" in output
    assert pipeline.processes() == {}
    assert_the_same(pipeline, undisturbed)
