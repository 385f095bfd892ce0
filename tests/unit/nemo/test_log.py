"""What is read off a log: steps with their figures, and the line that says why a program failed."""

from __future__ import annotations

import pytest

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.nemo import log
from cai_jobs.nemo.failures import failure


@pytest.mark.parametrize(
    ("line", "done", "total", "figures"),
    [
        (
            "Training steps:  24%|██▍       | 12/50 [01:02<03:00,  4.7s/it, train_loss=0.712, train_lr=1e-6]",
            *(12, 50, {"train": {"loss": 0.712, "lr": 1e-6}}),
        ),
        (
            "Training steps: 100%|██████████| 50/50 [10:02<00:00, 12s/it, train_loss=0.4, val_loss=0.51, grad_norm=2]",
            *(50, 50, {"train": {"loss": 0.4, "grad_norm": 2.0}, "validation": {"loss": 0.51}}),
        ),
        (
            "[rank0]: PPO Global Step:   3%|▎         | 1/34 [02:11<1:12:21, 131.5s/it, train_global_rewards=-1.2e-1]",
            *(1, 34, {"train": {"global_rewards": -0.12}}),
        ),
        ("Training steps:   0%|          | 0/50 [00:00<?, ?it/s]", 0, 50, {}),
        (
            "PPO Global Step:   3%|▎ | 1/34 [02:11<1:12:21, 1.5s/it, train_kl=nan, train_loss=1]",
            1,
            34,
            {"train": {"loss": 1.0}},
        ),
    ],
)
def test_steps(line, done, total, figures):
    step = log.Reading().read(line)
    assert step is not None
    assert (step.done, step.total, dict(step.figures)) == (done, total, figures)


@pytest.mark.parametrize(
    "line",
    [
        "Validation steps:  50%|█████     | 20/40 [00:10<00:10, 2.0it/s, val_loss=1.0]",
        "Loading distributed checkpoint: 100%|██████████| 8/8 [00:10<00:00]",
        "[NeMo I 2024-09-01 12:00:00 exp_manager:396] Experiments will be logged at /x",
        "",
    ],
)
def test_what_is_no_step(line):
    assert log.Reading().read(line) is None


def reading(*lines):
    found = log.Reading()
    for line in lines:
        found.read(line)
    return found


def test_the_cause_is_told_and_not_what_came_of_it():
    found = reading(
        "[rank3]: torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "[rank0]: torch.distributed.DistBackendError: NCCL communicator was aborted on rank 0",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    )
    problem = failure("train_reward_model.py", 1, found, " at saved step 25 of 100")
    assert isinstance(problem, RetryableError)
    assert str(problem).startswith(
        "train_reward_model.py ended with 1 at saved step 25 of 100: torch.cuda.OutOfMemoryError: CUDA out of memory."
    )
    assert "micro batch" in str(problem)


@pytest.mark.parametrize(
    "line",
    [
        "Could not override 'model.optim.lrr'.",
        "Key 'lrr' is not in struct",
        "omegaconf.errors.MissingMandatoryValue: Missing mandatory value: model.restore_from_path",
        "Could not append to config. An item is already at 'model.seed'.",
        "convert_llama_hf_to_nemo.py: error: unrecognized arguments: --llama31=",
        "mismatched input '}' expecting <EOF>",
    ],
)
def test_a_refused_setting_is_wrong_input(line):
    problem = failure("train_gpt_sft.py", 1, reading("Traceback (most recent call last):", line))
    assert isinstance(problem, InputError)
    assert line in str(problem)


def test_an_error_right_behind_a_bar_is_read():
    found = log.Reading()
    step = found.read(
        "Training steps:  50%|##   | 1/2 [00:01<00:03, 1.0s/it]torch.cuda.OutOfMemoryError: CUDA out of memory."
    )
    assert step is not None
    assert found.error == "torch.cuda.OutOfMemoryError: CUDA out of memory."


def test_our_own_programs_keep_their_word():
    problem = failure("fetch_models.py", 2, reading("error: model x/y: the hub has no such repository"))
    assert isinstance(problem, InputError)
    assert "the hub has no such repository" in str(problem)


def test_without_an_exception_the_last_line_is_told():
    assert "Bus error" in str(failure("a.py", -7, reading("working", "Bus error (core dumped)")))
    assert "its log says nothing" in str(failure("a.py", 1, reading()))
