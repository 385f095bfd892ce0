"""The actor's records: metrics.jsonl, samples.jsonl and TensorBoard, cut back when the actor goes back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract.artifacts import write_synced


class RunLog:
    """Rows by step below a directory. Only one process of a run may hold one.

    Args:
        directory: where metrics.jsonl, samples.jsonl and tensorboard/ are.
        tensorboard: whether events are written too.
    """

    def __init__(self, directory: Path, tensorboard: bool) -> None:
        self.directory, self._tensorboard = directory, tensorboard
        self._writer: Any = None

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return _rows(self.directory / "metrics.jsonl")

    def go_back(self, step: int) -> None:
        """Remove rows of steps after `step`."""
        for name in ("samples.jsonl", "metrics.jsonl"):
            path = self.directory / name
            rows = [row for row in _rows(path) if row["step"] <= step]
            write_synced(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.close()
            self._writer = SummaryWriter(self.directory / "tensorboard", purge_step=step + 1)

    def metrics(self, step: int, phase: str, figures: Mapping[str, float | bool | str]) -> None:
        """Add the row {"step", "phase", **figures} to metrics.jsonl, and its numbers to TensorBoard."""
        _append(self.directory / "metrics.jsonl", [{"step": step, "phase": phase, **figures}])
        if self._writer is not None:
            for name, value in figures.items():
                if not isinstance(value, str):
                    self._writer.add_scalar(f"{phase}/{name}", float(value), step)
            self._writer.flush()

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to samples.jsonl."""
        _append(self.directory / "samples.jsonl", rows)

    def close(self) -> None:
        """Close the TensorBoard file, if there is one."""
        if self._writer is not None:
            self._writer.close()


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # a line a killed process had begun
    return rows
