"""Artifacts a program is about to read, checked against their manifests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts
from cai_jobs.contract.program import InputError

CHECKS = ("digests", "sizes")


def check(directories: Sequence[Path], how: str) -> None:
    """Check that each directory is a whole artifact.

    Args:
        how: "digests" reads every byte; "sizes" sees what is missing or cut short, in no time.

    Raises:
        InputError: one is not; says which file.
    """
    for directory in directories:
        if how == "digests":
            artifacts.verify(directory)
        else:
            _check_sizes(directory)


def _check_sizes(directory: Path) -> None:
    manifest = artifacts.read(directory)
    if manifest is None:
        raise InputError(f"{directory} is no artifact: it has no {artifacts.MANIFEST}")
    entries: list[dict[str, Any]] = manifest["files"]
    for entry in entries:
        path = directory / entry["path"]
        found = path.stat().st_size if path.is_file() else None
        if found != entry["size"]:
            state = "missing" if found is None else f"{found} bytes long"
            raise InputError(
                f"{path} is {state}, and {artifacts.MANIFEST} says {entry['size']} bytes; remove {directory} to make "
                "it anew"
            )
