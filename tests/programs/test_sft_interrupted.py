"""`sft` killed, resumed, spread over processes, and on a disk that fills up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.forked_program import ForkedProgram

from cai_jobs import sft

pytestmark = pytest.mark.slow

Model = Callable[[str], Path]
HEADER = json.dumps({"stage": "sft", "key": "0123", "parameters": {}, "inputs": {}})
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def dialogue(number: int) -> dict[str, Any]:
    turns = [("User", f"Where is umbrella {number}?"), ("Assistant", "Beside the door. " * (1 + number % 5))]
    conversations = [{"from": speaker, "value": value, "label": None} for speaker, value in turns]
    return {"system": "", "conversations": conversations, "mask": "User", "dataset": "test"}


@pytest.fixture
def flags(tiny_model_dir: Model, tmp_path: Path) -> list[str]:
    for name, numbers in (("train", range(20)), ("validation", range(30, 37))):
        text = "".join(json.dumps(dialogue(number)) + "\n" for number in numbers)
        (tmp_path / f"{name}.jsonl").write_text(text)
    argv = ["--model", str(tiny_model_dir("llama")), "--train-file", str(tmp_path / "train.jsonl")]
    argv += ["--validation-file", str(tmp_path / "validation.jsonl"), "--learning-rate", "1e-3", "--warmup-steps", "2"]
    argv += ["--global-batch-size", "4", "--micro-batch-size", "2", "--val-check-interval", "20", "--device", "cpu"]
    return [*argv, "--progress", "none", "--artifact-header", HEADER]


def weights(artifact: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(artifact / "model" / "model.safetensors")


def assert_same_weights(artifact: Path, other: Path) -> None:
    import torch

    left, right = weights(artifact), weights(other)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)


def first_progress(output: str) -> int:
    lines = [line for line in output.splitlines() if line.startswith('{"progress"')]
    done: int = json.loads(lines[0])["progress"]["done"]
    return done


def curves(artifact: Path) -> list[tuple[int, str, float]]:
    rows = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["phase"], pytest.approx(row["loss"], rel=1e-3)) for row in rows]


def test_a_killed_run_goes_on_from_its_newest_whole_checkpoint(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags += ["--max-steps", "80", "--save-interval", "7"]
    sft.main([*flags, "--artifact-dir", str(tmp_path / "whole")])

    artifact = tmp_path / "killed"
    arguments = [*flags, "--artifact-dir", str(artifact)]
    running = ForkedProgram("cai_jobs.sft", arguments, tmp_path / "log", environment=ENVIRONMENT)
    checkpoints = tmp_path / "killed.partial" / "checkpoints"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("checkpoint-*/sealed.json")):
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not artifact.exists()
    # as a kill in the midst of the next save would leave it
    sealed = next(path.parent for path in checkpoints.glob("checkpoint-*/sealed.json"))
    assert sealed.name != "checkpoint-80"
    torn = checkpoints / "checkpoint-79"
    shutil.copytree(sealed, torn)
    (torn / "optimizer.pt").write_bytes(b"torn")
    with (tmp_path / "killed.partial" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 79, "phase": "train", "loss": 0.0}\n{"step": 7')

    capsys.readouterr()
    last_word = sft.main([*flags, "--artifact-dir", str(artifact), "--progress", "json"])
    assert first_progress(capsys.readouterr().out) == int(sealed.name.removeprefix("checkpoint-"))
    assert last_word["metrics"]["steps"] == 80
    assert_same_weights(artifact, tmp_path / "whole")
    assert curves(artifact) == curves(tmp_path / "whole")
    assert not (artifact / "checkpoints").exists()


def test_a_run_killed_after_its_last_checkpoint_does_not_train_on(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cai_jobs.training import fit

    flags += ["--max-steps", "7", "--save-interval", "5"]
    sft.main([*flags, "--artifact-dir", str(tmp_path / "whole")])
    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sft.main([*flags, "--artifact-dir", str(tmp_path / "cut")])
    assert (tmp_path / "cut.partial" / "checkpoints" / "checkpoint-7").is_dir()

    monkeypatch.setattr(fit.checkpoints, "seal", lambda _: pytest.fail("it trained again"))
    last_word = sft.main([*flags, "--artifact-dir", str(tmp_path / "cut")])
    assert last_word["metrics"]["steps"] == 7
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")


def test_two_processes_train_what_one_does_and_publish_once(flags: list[str], tmp_path: Path) -> None:
    flags += ["--max-steps", "6", "--save-interval", "4"]
    alone = sft.main([*flags, "--artifact-dir", str(tmp_path / "one")])

    message = tmp_path / "last-word.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "cai_jobs.sft", *flags, "--artifact-dir", str(tmp_path / "two")]
    result = subprocess.run(
        [*command, "--termination-message", str(message)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    last_word = json.loads(message.read_text())
    assert last_word["metrics"]["steps"] == 6
    assert last_word["metrics"]["validationLoss"] == pytest.approx(alone["metrics"]["validationLoss"], rel=0.01)
    rows = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len((tmp_path / "one" / "metrics.jsonl").read_text().splitlines())
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert weights(tmp_path / "two").keys() == weights(tmp_path / "one").keys()


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of `request.param` bytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(place)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


# the weights (safetensors) are 140 kB, the optimiser (torch.save) twice that
@pytest.mark.parametrize("small_disk", [100_000, 300_000], ids=["weights", "optimiser"], indirect=True)
def test_a_full_disk_is_said_and_a_larger_one_goes_on(flags: list[str], small_disk: Path, tmp_path: Path) -> None:
    flags += ["--max-steps", "3", "--save-interval", "2", "--artifact-dir", str(small_disk / "sft")]
    message = tmp_path / "last-word.json"
    log = tmp_path / "log"
    arguments = [*flags, "--termination-message", str(message)]
    assert ForkedProgram("cai_jobs.sft", arguments, log, environment=ENVIRONMENT).wait() == 1, log.read_text()
    assert "no space left on the disk" in json.loads(message.read_text())["error"]
    assert "Traceback" not in log.read_text()

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert sft.main(flags)["metrics"]["steps"] == 3
