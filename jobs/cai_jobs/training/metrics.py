"""`metrics.jsonl`, one row a logged step, and the same curves for TensorBoard.

A row is `{"step": int, "phase": "train" | "validation", name: float, ...}`. A resumed run takes back what was logged
after its checkpoint, so that every step is there once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cai_jobs.contract.artifacts import write_synced

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsLog:
    """Appends rows to `directory/metrics.jsonl` and scalars `PHASE/NAME` to `directory/tensorboard/`.

    Args:
        directory: the artifact's directory.
        resumed_step: the step training goes on from; rows of later steps are taken back.
    """

    def __init__(self, directory: Path, resumed_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = directory / FILE
        keep = [row for row in read_metrics(self.path) if row["step"] <= resumed_step] if resumed_step else []
        write_synced(self.path, "".join(json.dumps(row) + "\n" for row in keep))
        self._file = self.path.open("a", encoding="utf-8")
        purge = resumed_step + 1 if resumed_step else 0
        self._board = SummaryWriter(str(directory / TENSORBOARD), purge_step=purge, flush_secs=10)

    def write(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Log one row; phase is "train" or "validation"."""
        self._file.write(json.dumps({"step": step, "phase": phase, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        """Flush both."""
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics file; a last line cut short by a crash is left out. Empty where there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
