"""Checkpoints, the run's log, settings and vocabularies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cai_jobs.contract.program import InputError
from cai_jobs.ppo import checkpoints
from cai_jobs.ppo.log import RunLog
from cai_jobs.ppo.settings import ActorSettings
from cai_jobs.ppo.vocabulary import check_same_vocabulary


def test_the_newest_checkpoints_are_kept_and_come_back(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        checkpoints.save(tmp_path, step, {"weights": torch.full((2,), float(step)), "updates": step}, keep=2)
    assert checkpoints.saved_steps(tmp_path) == [4, 6]
    assert checkpoints.load(tmp_path, 4)["weights"].tolist() == [4.0, 4.0]
    with pytest.raises(InputError, match=r"no checkpoint of step 2; it has \[4, 6\]"):
        checkpoints.load(tmp_path, 2)


def test_a_killed_writer_leaves_no_checkpoint(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"updates": 1}, keep=2)
    (tmp_path / ".step_00000002.partial").mkdir()
    (tmp_path / ".step_00000002.partial" / "state.pt").write_bytes(b"half")
    assert checkpoints.saved_steps(tmp_path) == [1]
    checkpoints.save(tmp_path, 2, {"updates": 2}, keep=2)
    assert checkpoints.load(tmp_path, 2) == {"updates": 2}


def test_going_back_drops_what_came_after(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"updates": step}, keep=9)
    (tmp_path / ".step_00000004.partial").mkdir()
    checkpoints.drop_after(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"updates": 1}, keep=2)
    (tmp_path / "step_00000001" / "state.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"step_00000001/state.pt cannot be read"):
        checkpoints.load(tmp_path, 1)


def test_the_log_goes_back_and_forgets_a_half_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.metrics(step, "train", {"kl": step / 2})
    log.samples([{"step": 3, "answer": "…"}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "pha')
    log.go_back(2)
    assert log.rows() == [{"step": step, "phase": "train", "kl": step / 2} for step in (1, 2)]
    assert (tmp_path / "samples.jsonl").read_text() == ""
    log.metrics(3, "train", {"kl": 9.0})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_rollout_samples": 0}, "--num-rollout-samples is 0"),
        ({"temperature": 0.0}, "--temperature"),
        ({"top_p": 1.5}, "--top-p is 1.5"),
        ({"kl_penalty": -0.1}, "--kl-penalty is -0.1"),
        ({"max_length": 2}, "--max-length"),
        ({"max_length": 100, "max_new_tokens": 60}, "--max-new-tokens is 60, .*leaves 50"),
    ],
)
def test_wrong_settings_have_a_sentence(change: dict[str, float], sentence: str) -> None:
    assert ActorSettings().problem() is None
    problem = ActorSettings(**change).problem()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(problem)


def test_vocabularies_must_be_the_same() -> None:
    ours = {"vocab_size": 10, "vocab_digest": "a"}
    check_same_vocabulary(ours, {"vocab_size": 10, "vocab_digest": "a"})
    check_same_vocabulary(ours, {"vocab_size": 16, "vocab_digest": None})
    for theirs, sentence in (
        ({"vocab_size": 11, "vocab_digest": "b"}, "10 tokens, the critic's 11"),
        ({"vocab_size": 10, "vocab_digest": "b"}, "not the same ones"),
        ({"vocab_size": 9, "vocab_digest": None}, "the critic's model 9"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_same_vocabulary(ours, theirs)
