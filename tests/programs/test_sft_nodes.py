"""`sft` on two nodes, as two pods run it, learns what it learns on one: same steps, same losses, same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.harness.processes import free_port

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parents[2] / "jobs"
HEADER = json.dumps({"stage": "sft", "key": "0123", "parameters": {}, "inputs": {}})
PATIENCE_S = 240
STEPS = 6
FLAGS = ["--global-batch-size=8", "--micro-batch-size=2", f"--max-steps={STEPS}", "--val-check-interval=3"]
FLAGS += ["--learning-rate=3e-3", "--warmup-steps=1", "--device=cpu", "--progress=none", f"--artifact-header={HEADER}"]
TOLERANCE = 1e-5
"""Sums are taken in another order; a step taken with another batch is off by ten times as much, at the least."""


def dialogue(number: int) -> dict[str, Any]:
    # of many lengths, as the mean over all tokens of a step is not the mean of the nodes' means
    answer = " ".join(["Look behind the piano.", "Nobody knows.", "Ask the neighbours."][number % 3 :])
    turns = [("User", f"Where is umbrella {number}?"), ("Assistant", answer)]
    conversations = [{"from": speaker, "value": value, "label": None} for speaker, value in turns]
    return {"system": "", "conversations": conversations, "mask": "User", "dataset": "test"}


@pytest.fixture
def inputs(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> list[str]:
    flags = [f"--model={tiny_model_dir('llama')}"]
    # neither number is a multiple of the batch
    for name, numbers in (("train", range(26)), ("validation", range(100, 107))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(dialogue(number)) + "\n" for number in numbers))
        flags.append(f"--{name}-file={path}")
    return flags


def trained(inputs: Sequence[str], artifact: Path, nodes: int) -> list[dict[str, float]]:
    """The rows of metrics.jsonl after a run on so many nodes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
    environment |= {"PYTHONPATH": str(JOBS), "OMP_NUM_THREADS": "1"}
    environment |= {"PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "cai_jobs.launch", f"--nodes={nodes}", "-m", "cai_jobs.sft"]
    pods = [
        subprocess.Popen(
            [*command, *inputs, *FLAGS, f"--artifact-dir={artifact}"],
            env={**environment, "PET_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(nodes)
    ]
    try:
        said = [pod.communicate(timeout=PATIENCE_S)[0] for pod in pods]
        assert [pod.returncode for pod in pods] == [0] * nodes, "\n".join(said)
    finally:
        for pod in pods:
            pod.kill()
    return [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]


def test_two_nodes_learn_what_one_learns(inputs: list[str], tmp_path: Path) -> None:
    one = trained(inputs, tmp_path / "one", nodes=1)
    two = trained(inputs, tmp_path / "two", nodes=2)
    assert [(row["phase"], row["step"]) for row in one] == [(row["phase"], row["step"]) for row in two]
    assert sum(row["phase"] == "train" for row in one) == STEPS
    assert one[0]["loss"] > 1.1 * one[-2]["loss"]
    for ours, theirs in zip(one, two, strict=True):
        # a mean of micro batches' accuracies depends on how rows are shared out; nothing is learned from it
        assert {**ours, "token_accuracy": 0.0} == pytest.approx({**theirs, "token_accuracy": 0.0}, rel=TOLERANCE)
