"""The layout of Anthropic's HH data set: folders, each with train.jsonl.gz and test.jsonl.gz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.fetching import sources
from cai_jobs.fetching.sources import Source
from cai_jobs.formats.jsonl import read_jsonl

SUFFIXES = (".jsonl.gz", ".jsonl", ".json.gz", ".json")
NOT_DIALOGUES = "red-team-attempts"


def download(source: Source, target: Path) -> Path:
    """The wanted folders of a hub repository; where no folder is named, all. As `sources.from_hub`."""
    folders = source.data_dirs or ("*",)
    return sources.from_hub(source, "dataset", [f"{folder}/*{end}" for folder in folders for end in SUFFIXES], target)


def rows(root: Path, folders: Sequence[str], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", row) of one split of the named folders, or of all folders that have it.

    Args:
        root: the data set's directory; one that has the split's file itself is taken as the only folder.

    Raises:
        InputError: there is no such directory, or a folder lacks the split.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such directory")
    if not folders:
        inside = sorted(path for path in root.iterdir() if path.is_dir() and path.name != NOT_DIALOGUES)
        found = [path for path in (split_file(folder, split) for folder in [root, *inside]) if path is not None]
    else:
        found = [_wanted(root / folder, split) for folder in folders]
    if not found:
        raise InputError(f"{root}: no {split}.jsonl.gz in it or its folders")
    for path in found:
        for number, row in read_jsonl(path):
            yield f"{path}:{number}", row


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, if it has one."""
    return next((path for path in (folder / f"{split}{end}" for end in SUFFIXES) if path.is_file()), None)


def _wanted(folder: Path, split: str) -> Path:
    path = split_file(folder, split)
    if path is None:
        raise InputError(f"{folder} has no {split}.jsonl.gz; is --dataset-dir-name right?")
    return path
