"""Checkpoints both PPO programs keep: `DIR/step_00000012/state.pt`, there whole or not at all.

A checkpoint is written aside, synced and renamed, so that SIGKILL or a power cut leaves the old ones or the new one.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from cai_jobs.contract.artifacts import sync_path
from cai_jobs.contract.program import InputError

STATE_FILE = "state.pt"
_NAME = re.compile(r"step_(\d{8,})")


def saved_steps(directory: Path) -> list[int]:
    """The steps with a whole checkpoint, ascending; [] where the directory is not there."""
    if not directory.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def save(directory: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write `state` (tensors, numbers, text, lists and dicts of them) as the checkpoint of `step`; keep the newest
    `keep`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    aside = directory / f".step_{step:08d}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    with (aside / STATE_FILE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    sync_path(aside)
    final = _path(directory, step)
    if final.exists():
        _remove(final)
    aside.rename(final)
    sync_path(directory)
    for old in saved_steps(directory)[:-keep]:
        _remove(_path(directory, old))


def load(directory: Path, step: int) -> dict[str, Any]:
    """The state saved for `step`, its tensors on the CPU.

    Raises:
        InputError: there is no such checkpoint, or its file cannot be read.
    """
    path = _path(directory, step) / STATE_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as problem:
        raise InputError(f"{directory} has no checkpoint of step {step}; it has {saved_steps(directory)}") from problem
    except Exception as problem:  # torch raises pickle, zip and runtime errors for a damaged file
        raise InputError(f"{path} cannot be read ({problem}); remove it to go on from an older checkpoint") from problem
    return dict(state)


def drop_after(directory: Path, step: int) -> None:
    """Remove the checkpoints of steps after `step` and what killed writers left behind."""
    for newer in saved_steps(directory):
        if newer > step:
            _remove(_path(directory, newer))
    if directory.is_dir():
        for aside in directory.glob(".*"):
            shutil.rmtree(aside, ignore_errors=True)


def _path(directory: Path, step: int) -> Path:
    return directory / f"step_{step:08d}"


def _remove(path: Path) -> None:
    # the name goes first: a half-removed directory must not look like a checkpoint
    aside = path.with_name(f".{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
