"""What the stand-in trainers learn: digests of the model they start from, of the rows, of each other.

So a test can compute, from the artifacts a stage has read, the model of a run in which every step was taken once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TRAIN = re.compile(r"train:\[([^\],]+)")


@dataclass(frozen=True)
class Rows:
    """A trainer's rows, how many a step takes, and how many steps at most; the last partial batch is dropped."""

    rows: list[bytes]
    per_step: int
    most: int = -1

    @property
    def steps(self) -> int:
        """How many steps there are."""
        steps = len(self.rows) // self.per_step
        return min(steps, self.most) if self.most >= 0 else steps

    def share(self, step: int, rank: int = 0, size: int = 1) -> int:
        """What one of so many processes makes of its rows of a step; all together make the same as one alone."""
        rows = self.rows[step * self.per_step : (step + 1) * self.per_step][rank::size]
        return sum(int(hashlib.sha256(row).hexdigest()[:12], 16) for row in rows)


def read_rows(file: Path, per_step: int, most: int = -1) -> Rows:
    """The rows of a file; of comparisons two lines are one."""
    lines = file.read_bytes().splitlines()
    if "comparisons" in file.name:
        lines = [first + second for first, second in zip(lines[::2], lines[1::2], strict=True)]
    return Rows(lines, per_step, most)


def rows_told(settings: Mapping[str, str]) -> Rows | None:
    """The rows that a trainer's settings name; None where they name none."""
    prefixes = _TRAIN.search(settings.get("model.data.data_prefix", ""))
    file = prefixes[1] if prefixes else settings.get("model.data.train_ds.file_path")
    per_step = (
        settings.get("model.ppo.num_rollout_samples")
        or settings.get("model.data.train_ds.global_batch_size")
        or settings.get("model.global_batch_size")
    )
    most = next((int(value) for key, value in settings.items() if key.endswith(".max_steps")), -1)
    return read_rows(Path(file), int(per_step), most) if file and per_step else None


def start_of(settings: Mapping[str, str]) -> str:
    """What is known before the first step: the digest of the model started from; nothing where none is there."""
    path = settings.get("model.restore_from_path") or settings.get("pretrained_checkpoint.restore_from_path")
    return digest_of(Path(path)) if path and Path(path).is_file() else ""


def digest_of(model: Path) -> str:
    """A model file's digest."""
    return hashlib.sha256(model.read_bytes()).hexdigest()


def after(learnt: str, lesson: str) -> str:
    """What is known after a lesson."""
    return hashlib.sha256(f"{learnt} {lesson}".encode()).hexdigest()
