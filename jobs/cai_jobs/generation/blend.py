"""SFT rows put together: blended with a helpfulness set, without what is too long, split without sharing prompts.

Sets of rows are sequences that may lie on disk (`Spool`); what is done to them is kept as places, not as rows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, overload

from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats import sft_rows
from cai_jobs.formats.jsonl import read_jsonl, write_json, write_jsonl
from cai_jobs.formats.spool import Spool
from cai_jobs.generation import duplicates

Item = TypeVar("Item")
Row = dict[str, Any]


class Picked(Sequence[Item]):
    """Some items of sets laid end to end, in an order of their own; only places are held.

    Args:
        sets: the sets; a place counts on from one to the next.
        places: which, in which order; None for all of them as they stand.
    """

    def __init__(self, sets: Sequence[Sequence[Item]], places: Iterable[int] | None = None) -> None:
        self._sets, self._ends = sets, list(accumulate(map(len, sets)))
        self._places = array("q", range(self._ends[-1] if sets else 0) if places is None else places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | Sequence[Item]:
        if isinstance(number, slice):
            return Picked(self._sets, self._places[number])
        place = self._places[number]
        which = bisect_right(self._ends, place)
        return self._sets[which][place - (self._ends[which - 1] if which else 0)]

    def pick(self, numbers: Iterable[int]) -> Picked[Item]:
        """Those of these items."""
        return Picked(self._sets, (self._places[number] for number in numbers))


def blend_cai_sft_dataset(
    helpfulness_dataset_path: str | Path | None,
    cai_samples_filepath: str | Path,
    blended_sl_cai_filename: str | Path,
    summary_filename: str | Path,
    *,
    seed: int = 1234,
) -> None:
    """Write the rows of both files in an order fixed by the seed, and a summary beside them.

    Args:
        helpfulness_dataset_path: SFT rows to blend with; None blends with nothing.
        blended_sl_cai_filename: where to; may be the same as `cai_samples_filepath`.
        summary_filename: JSON {"input_files", "output_file", "prompt_template", "rows"}.

    Raises:
        InputError: a file cannot be read or a row is no SFT row; the sentence has file and line.
    """
    files = [Path(path) for path in (helpfulness_dataset_path, cai_samples_filepath) if path is not None]
    rows = blend_rows([read_sft_rows(path) for path in files], seed)
    write_jsonl(Path(blended_sl_cai_filename), rows)
    write_summary(Path(summary_filename), files, Path(blended_sl_cai_filename), {"rows": len(rows)})


def read_sft_rows(path: Path) -> Spool[Row]:
    """The rows of an SFT file, each checked to be one the trainer takes.

    Raises:
        InputError: as `read_jsonl` and `sft_rows.validate`.
    """
    rows: Spool[Row] = Spool()
    for number, row in read_jsonl(path):
        sft_rows.validate(row, f"{path}:{number}")
        rows.append(row)
    return rows


def blend_rows(sets: Sequence[Sequence[Row]], seed: int) -> Picked[Row]:
    """All rows in an order fixed by the seed."""
    return Picked(sets, seeds.order(sum(map(len, sets)), seed, "blend"))


def sample_rows(rows: Sequence[Row], wanted: int, seed: int) -> Picked[Row]:
    """So many of the rows, drawn by the seed, in their order; all of them where there are no more.

    The rows drawn for a smaller number are among those of a greater one.
    """
    return Picked([rows], sorted(seeds.order(len(rows), seed, "blend ratio")[:wanted]))


def drop_long(rows: Sequence[Row], limit: int, count: Callable[[str], int]) -> Picked[Row]:
    """The rows of at most `limit` tokens as the trainer lays them out."""
    fits = (number for number, row in enumerate(rows) if count("".join(p.text for p in sft_rows.render(row))) <= limit)
    return Picked([rows], fits)


def drop_duplicates(rows: Sequence[Row], how: str) -> Picked[Row]:
    """Of rows whose whole dialogues are duplicates (see `duplicates.WAYS`) only the first."""

    def text(number: int) -> str:
        return "\n".join(str(turn["value"]) for turn in rows[number]["conversations"])

    return Picked([rows], duplicates.kept(text, len(rows), how))


def split_validation(rows: Picked[Row], share: float, seed: int, how: str = "exact") -> tuple[Picked[Row], Picked[Row]]:
    """(training rows, validation rows), both in the rows' order; rows with the same first turn stay together.

    Args:
        share: how much of the distinct first turns goes to validation, 0 <= share < 1; at least one if it is above 0.
        how: what first turns count as the same, "exact" or "near" (see `duplicates`).

    Raises:
        InputError: there are fewer than two distinct first turns to split.
    """
    import numpy as np

    if share == 0:
        return rows, rows.pick(())
    first = duplicates.groups(lambda number: first_turn(rows[number]), len(rows), how)
    heads, which = np.unique(first, return_inverse=True)
    if len(heads) < 2:
        raise InputError(f"--validation-split {share}: {len(heads)} distinct prompts cannot be split")
    held = min(max(1, round(share * len(heads))), len(heads) - 1)
    # drawn by the text, so that a prompt's part does not hang on how many other rows there are
    draws = np.fromiter(
        (seeds.draw(seed, "validation", first_turn(rows[int(head)])) for head in heads), np.uint64, len(heads)
    )
    validation = np.zeros(len(heads), bool)
    validation[np.argsort(draws, kind="stable")[:held]] = True
    chosen = validation[which]
    return rows.pick(map(int, np.flatnonzero(~chosen))), rows.pick(map(int, np.flatnonzero(chosen)))


def first_turn(row: Row) -> str:
    """What a row's dialogue begins with."""
    return str(row["conversations"][0]["value"])


def summary_path(output: Path) -> Path:
    """Where an output's summary stands: x.jsonl -> x.summary.json, and beside any other name likewise."""
    stem = output.stem if output.suffix in (".json", ".jsonl") else output.name
    return output.with_name(f"{stem}.summary.json")


def write_summary(path: Path, inputs: Sequence[Path], output: Path, figures: Mapping[str, Any]) -> None:
    """Write what went into an output and what came of it."""
    head = {"input_files": [str(file) for file in inputs], "output_file": str(output), "prompt_template": "chat"}
    write_json(path, {**head, **figures})
