"""Checkpoints of a training run: `checkpoint-STEP/` directories of which only those with a whole seal count.

A seal is written last and lists every file's size, so that a directory torn by SIGKILL, a power cut or a full disk is
recognised; the one before it is removed only after the new seal is on the disk.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cai_jobs.contract.artifacts import sync_path, write_synced

SEAL = "sealed.json"
PREFIX = "checkpoint-"


def newest(directory: Path) -> Path | None:
    """The whole checkpoint of the highest step, or None."""
    whole = [path for path in _checkpoints(directory) if is_whole(path)]
    return max(whole, key=step_of) if whole else None


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint directory's name."""
    return int(checkpoint.name.removeprefix(PREFIX))


def seal(checkpoint: Path) -> None:
    """Sync every file of a finished checkpoint and declare it whole."""
    sizes = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != SEAL:
            sync_path(path)
            sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    write_synced(checkpoint / SEAL, json.dumps({"files": sizes}) + "\n")
    sync_path(checkpoint)
    sync_path(checkpoint.parent)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has its seal and every file the seal lists, at its size."""
    try:
        sizes = json.loads((checkpoint / SEAL).read_text())["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def prune(directory: Path) -> None:
    """Remove every checkpoint but the newest whole one: torn ones, and those it made superfluous."""
    keep = newest(directory)
    for path in _checkpoints(directory):
        if path != keep:
            # without its seal first: a removal that is cut short must not leave a whole looking rest
            (path / SEAL).unlink(missing_ok=True)
            shutil.rmtree(path)


def _checkpoints(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    found = directory.glob(f"{PREFIX}*")
    return [path for path in found if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()]
