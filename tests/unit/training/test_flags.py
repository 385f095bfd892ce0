"""Settings that contradict each other are refused by name before anything slow happens."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cai_jobs import reward_model, sft
from cai_jobs.contract.program import InputError
from cai_jobs.training import flags

FILES = ["--model", "m", "--train-file", "t", "--validation-file", "v"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--max-steps", "0"], "--max-steps is 0; -1 or at least 1 is wanted"),
        (["--micro-batch-size", "0"], "--micro-batch-size is 0; at least 1 is wanted"),
        (
            ["--micro-batch-size", "3"],
            "--global-batch-size 128 is not a multiple of --micro-batch-size 3 x 1 processes",
        ),
        (["--learning-rate", "-1"], "--learning-rate is -1.0; above 0 is wanted"),
        (["--min-learning-rate", "1"], "--min-learning-rate is 1.0; from 0 to the learning rate, 1e-06 is wanted"),
        (["--epochs", "0"], "--epochs is 0.0; above 0 is wanted"),
    ],
)
def test_contradictions(argv: list[str], complaint: str) -> None:
    with pytest.raises(InputError) as problem:
        sft.main(FILES + argv)
    assert str(problem.value) == complaint


def test_the_tutorials_values_are_the_defaults() -> None:
    args = sft.build_parser().parse_args(FILES)
    assert (args.learning_rate, args.global_batch_size, args.max_seq_length) == (1e-6, 128, 4096)
    assert (args.val_check_interval, args.save_interval, args.limit_val_batches) == (50, 50, 40)
    argv = ["--model", "m", "--train-comparisons", "t", "--validation-comparisons", "v"]
    args = reward_model.build_parser().parse_args(argv)
    assert (args.learning_rate, args.global_batch_size, args.save_interval) == (9e-6, 512, 25)


def test_accumulation_makes_up_for_fewer_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    args = sft.build_parser().parse_args([*FILES, "--micro-batch-size", "4"])
    assert flags.accumulation_steps(args) == 32
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert flags.accumulation_steps(args) == 4


def test_the_cosine_never_ends_above_the_learning_rate() -> None:
    assert flags.min_learning_rate(sft.build_parser().parse_args(FILES)) == 9e-7
    low = sft.build_parser().parse_args([*FILES, "--learning-rate", "1e-8"])
    assert flags.min_learning_rate(low) == 1e-8


@pytest.mark.parametrize("name", ["sft", "reward_model"])
def test_importing_a_program_imports_no_heavy_library(name: str) -> None:
    heavy = "{'torch', 'transformers', 'trl', 'datasets', 'accelerate', 'numpy'}"
    code = f"import sys, cai_jobs.{name} as m; m.build_parser(); print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
