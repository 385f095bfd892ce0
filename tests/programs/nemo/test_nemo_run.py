"""The wrapper around NVIDIA's trainers, against a stand-in with their habits, the bad ones included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cai_jobs.contract import artifacts

STAND_IN = Path(__file__).with_name("stand_in.py")
ROWS = 9
HEADER = json.dumps({"stage": "sft", "key": "k" * 16, "parameters": {}, "inputs": {"slData": "x"}})


@pytest.fixture
def place(tmp_path):
    """An input artifact with nine rows, and where the stage's own is to be."""
    with artifacts.open_artifact(tmp_path / "slData" / "x", HEADER.replace("k" * 16, "x"), tmp_path) as artifact:
        (artifact.path / "rows.jsonl").write_text('{"a": 1}\n' * ROWS)
        artifact.publish()
    return tmp_path


@pytest.fixture
def wrapper(place):
    """Start the wrapper over the stand-in; the finished process, or the running one."""

    def start(*habits, flags=(), settings=(), wait=True, environment=None):
        target = place / "sft" / ("k" * 16)
        command = [
            *(sys.executable, "-m", "cai_jobs.nemo_run", "--artifact-dir", str(target), "--artifact-header", HEADER),
            *("--input", str(place / "slData" / "x"), "--model", "megatron_gpt_sft", "--progress", "json"),
            *("--rows", str(place / "slData" / "x" / "rows.jsonl"), "--rows-per-step", "2"),
            *("--termination-message", str(place / "word"), "--poll-s", "0.1", "--linger-s", "0.5", "--grace-s", "1"),
            *flags,
            *("--", sys.executable, str(STAND_IN), *(f"--habit={habit}" for habit in habits)),
            *(f"exp_manager.explicit_log_dir={target}.partial/nemo", *settings),
        ]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        if not wait:
            return process
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return start


def published(place):
    return artifacts.verify(place / "sft" / ("k" * 16))


def word(place):
    return json.loads((place / "word").read_text())


def starts(place):
    return (place / "sft" / ("k" * 16 + ".partial") / "nemo" / "starts").read_text().split()


def test_a_run_to_the_end_is_published(place, wrapper):
    done = wrapper()
    assert done.returncode == 0, done.stderr
    manifest = published(place)
    assert sorted(entry["path"] for entry in manifest["files"]) == ["metrics.jsonl", "model.nemo"]
    assert manifest["metrics"]["steps"] == 4
    assert manifest["metrics"] == {"steps": 4, "loss": 1.6, "lr": 1e-6, "validationLoss": 2.6}
    assert word(place)["artifact"]["key"] == "k" * 16
    rows = [json.loads(line) for line in (place / "sft" / ("k" * 16) / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in rows} == {"train", "validation"}
    assert [row["loss"] for row in rows if row["phase"] == "train"] == [1.9, 1.8, 1.7, 1.6]
    assert [row["step"] for row in rows if row["phase"] == "train"] == [1, 2, 3, 4]
    lines = [json.loads(line)["progress"] for line in done.stdout.splitlines() if line.startswith('{"progress"')]
    assert (lines[-1]["done"], lines[-1]["total"], lines[-1]["unit"]) == (4, 4, "steps")
    assert "Training steps" in done.stderr


def test_threads_of_the_wrapper_are_not_the_programs(tmp_path, place):
    show = "import os; print('threads', os.environ.get('OMP_NUM_THREADS'))"
    command = [sys.executable, "-m", "cai_jobs.nemo_run", "--serve", "--", sys.executable, "-c", show]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
    assert "threads None" in ended.stderr


def test_what_is_published_is_not_made_again(place, wrapper):
    wrapper()
    before = word(place)
    again = wrapper("crash")
    assert again.returncode == 0
    assert word(place) == before


def test_leaving_early_with_0_is_not_done_and_the_same_command_goes_on(place, wrapper):
    first = wrapper("early")
    assert first.returncode == 1
    assert word(place)["error"] == (
        "stand_in.py left at saved step 2 of 4 with exit code 0; the same command goes on from there"
    )
    assert not (place / "sft" / ("k" * 16)).exists()
    assert wrapper("early").returncode == 0
    assert published(place)["metrics"]["steps"] == 4


def test_a_crash_is_told_and_nemo_resumes_by_itself(place, wrapper):
    first = wrapper("crash")
    assert first.returncode == 1
    assert "at saved step 2 of 4: RuntimeError: NCCL communicator was aborted" in word(place)["error"]
    second = wrapper("crash", "early", flags=["--scratch", "nothing"])
    assert second.returncode == 0, second.stderr
    rows = [json.loads(line) for line in (place / "sft" / ("k" * 16) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["phase"] == "train"] == [1, 2, 3, 4]


def test_a_model_renamed_or_numbered_is_found(place, wrapper):
    folder = place / "sft" / ("k" * 16 + ".partial") / "nemo" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "megatron_gpt_sft.nemo").write_text("of an earlier start")
    os.utime(folder / "megatron_gpt_sft.nemo", (1, 1))
    done = wrapper("renames")
    assert done.returncode == 0, done.stderr
    assert b"step 4" in (place / "sft" / ("k" * 16) / "model.nemo").read_bytes()


def test_an_older_model_beside_the_last_checkpoint_is_not_the_result(place, wrapper):
    folder = place / "sft" / ("k" * 16 + ".partial") / "nemo" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "megatron_gpt_sft.nemo").write_text("of an earlier start")
    os.utime(folder / "megatron_gpt_sft.nemo", (1, 1))
    done = wrapper("forgets")
    assert done.returncode == 1
    assert "saved step 4 of 4, but no whole megatron_gpt_sft.nemo after it" in word(place)["error"]


def test_a_model_cut_short_is_not_published_and_the_last_steps_are_taken_again(place, wrapper):
    assert wrapper("cut").returncode == 1
    assert "no whole megatron_gpt_sft.nemo" in word(place)["error"]
    again = wrapper()
    assert again.returncode == 0, again.stderr
    assert "it is taken again, without megatron_gpt_sft--val_loss=1.0-step=4" in again.stdout
    published(place)


def test_a_program_that_hangs_at_its_exit_is_ended_and_its_work_published(place, wrapper):
    began = time.monotonic()
    done = wrapper("hangs")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    published(place)


def test_failing_after_everything_is_saved_is_no_failure(place, wrapper):
    done = wrapper("fails-late")
    assert done.returncode == 0
    assert "ended with 139 after it had saved everything" in done.stdout


def test_what_was_done_before_a_kill_is_published_without_another_start(place, wrapper):
    # the wrapper was killed between the program's end and publishing
    assert wrapper("cut").returncode == 1
    folder = place / "sft" / ("k" * 16 + ".partial") / "nemo" / "checkpoints"
    sys.path.insert(0, str(STAND_IN.parent))
    try:
        from stand_in import save_model
    finally:
        sys.path.pop(0)
    save_model(folder / "megatron_gpt_sft.nemo", 4)
    before = starts(place)
    assert wrapper("crash").returncode == 0
    assert len(before) == 1
    published(place)


def test_a_refused_setting_is_not_tried_again(place, wrapper):
    assert wrapper("setting").returncode == 2
    assert "refuses a setting: Could not override 'model.optim.lrr'" in word(place)["error"]


def test_too_little_memory_says_what_helps(place, wrapper):
    assert wrapper("memory").returncode == 1
    assert "CUDA out of memory" in word(place)["error"]
    assert "micro batch" in word(place)["error"]


def test_a_killed_program_is_told_as_such(place, wrapper):
    assert wrapper("killed").returncode == 1
    assert "was killed by SIGKILL at saved step 2 of 4" in word(place)["error"]


def test_signals_are_passed_on(place, wrapper):
    process = wrapper("terminated", wait=False, flags=["--grace-s", "20"])
    while "ready" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert (place / "sft" / ("k" * 16 + ".partial") / "nemo" / "asked").read_text() == "TERM"
    assert "asked to stop" in word(place)["error"]


def test_the_program_knows_better_how_many_steps_there_are(place, wrapper):
    done = wrapper(settings=["steps=6"])
    assert done.returncode == 0, done.stderr
    assert published(place)["metrics"]["steps"] == 6


def test_fewer_steps_by_the_setting(place, wrapper):
    assert wrapper(flags=["--max-steps", "2"], settings=["steps=2"]).returncode == 0
    assert published(place)["metrics"]["steps"] == 2


def test_an_input_that_changed_is_refused_before_anything_starts(place, wrapper):
    (place / "slData" / "x" / "rows.jsonl").write_text("changed\n")
    assert wrapper().returncode == 2
    assert "is not what manifest.json says it was" in word(place)["error"]
    assert not (place / "sft" / ("k" * 16 + ".partial") / "nemo").exists()


def test_rows_that_make_no_step_are_refused(place, wrapper):
    assert wrapper(flags=["--rows-per-step", "10"]).returncode == 2
    assert "9 rows do not make one step of 10" in word(place)["error"]
    assert wrapper(flags=["--lines-per-row", "5"]).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "m"], "0 commands after --"),
        (["--model", "m", "--"], "nothing follows a --"),
        (["--model", "m", "--", "true"], "--model and --rows are needed"),
        (["--serve", "--", "/no/such/program"], "is this the image with NVIDIA's programs?"),
    ],
)
def test_a_wrong_command_line_is_told(arguments, sentence):
    command = [sys.executable, "-m", "cai_jobs.nemo_run", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_other_nodes_run_their_part_and_publish_nothing(place, wrapper):
    second = {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": "29500"}
    failed = wrapper("killed", environment=second)
    assert failed.returncode == 1
    assert "killed by SIGKILL" in failed.stderr
    done = wrapper(environment=second)
    assert done.returncode == 0, done.stderr
    assert not (place / "sft" / ("k" * 16)).exists()
    assert wrapper().returncode == 0
    assert wrapper("crash", environment=second).returncode == 0, (
        "a restarted node of a finished stage has nothing to do"
    )


@pytest.mark.parametrize("habit", ["early", "forgets"])
def test_another_node_does_not_end_well_before_all_is_done(wrapper, habit):
    """Its pod would not be started again, and the first node's would wait for it."""
    second = {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": "29500"}
    left = wrapper(habit, environment=second)
    assert left.returncode == 1
    assert "left with exit code 0 before it was done; all nodes start it again" in left.stderr


def test_another_node_that_hangs_is_let_go_once_the_first_has_published(place, wrapper):
    second = {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": "29500"}
    process = wrapper("terminated", wait=False, environment=second)
    while "ready" not in process.stderr.readline():
        pass
    assert wrapper().returncode == 0
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_node_that_is_not_told_where_the_first_one_is_says_so(place, wrapper):
    lost = wrapper(environment={"PET_NODE_RANK": "1"})
    assert lost.returncode == 2
    assert "PET_MASTER_ADDR, PET_MASTER_PORT is not set" in lost.stderr
