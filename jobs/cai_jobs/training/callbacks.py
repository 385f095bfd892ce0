"""What happens around a trainer's steps: rows in metrics.jsonl, the progress line, sealed checkpoints."""

# ruff: noqa: ARG002 (the signatures are the trainer's)

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from cai_jobs.contract.program import InputError
from cai_jobs.contract.progress import Progress
from cai_jobs.training import checkpoints, ranks
from cai_jobs.training.metrics import MetricsLog

# what the trainers report beside the training itself: clocks, and counts that repeat others
UNLOGGED = ("runtime", "samples_per_second", "steps_per_second", "total_flos", "entropy", "min_reward", "max_reward")
RENAMED = {"grad_norm": "gradient_norm", "mean_token_accuracy": "token_accuracy", "num_tokens": "tokens"}


class LogSteps(TrainerCallback):  # type: ignore[misc]
    """Writes what the trainer logs to the metrics log and the progress line; only on rank 0.

    Raises:
        InputError: the loss is not finite any more; every rank sees the same one.
    """

    def __init__(self, directory: Path, resumed_step: int, title: str, mode: str) -> None:
        self._log = MetricsLog(directory, resumed_step) if ranks.is_main() else None
        self._resumed_step, self._title, self._mode = resumed_step, title, mode
        self._progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if ranks.is_main():
            total = state.max_steps
            self._progress = Progress(total, "steps", self._title, self._mode, done=self._resumed_step).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._progress is not None:
            self._progress.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "train_runtime" in logs:  # the trainer's summary at the end
            return
        phase = "validation" if any(name.startswith("eval_") for name in logs) else "train"
        values = row_values(logs)
        if not math.isfinite(values.get("loss", 0.0)):
            raise InputError(
                f"the {phase} loss is {values['loss']} at step {state.global_step}: "
                "training has diverged; lower --learning-rate"
            )
        if self._log is not None:
            self._log.write(state.global_step, phase, values)
        if self._progress is not None:
            shown = {name: values[name] for name in ("loss", "accuracy") if name in values}
            prefix = "val_" if phase == "validation" else ""
            self._progress.advance(0, {prefix + name: value for name, value in shown.items()})

    def close(self) -> None:
        """Print the last progress line and flush the logs."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        if self._log is not None:
            self._log.close()


class SealCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Seals each checkpoint once every rank has written its part, then removes the one before."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ranks.barrier()
        if ranks.is_main():
            checkpoints.seal(self._directory / f"{checkpoints.PREFIX}{state.global_step}")
            checkpoints.prune(self._directory)


def row_values(logs: Mapping[str, Any]) -> dict[str, float]:
    """The trainer's logged numbers under this project's names, without the phase in them."""
    values = {}
    for name, value in logs.items():
        bare = name.removeprefix("eval_")
        if isinstance(value, int | float) and bare not in UNLOGGED:
            values[RENAMED.get(bare, bare)] = float(value)
    return values
