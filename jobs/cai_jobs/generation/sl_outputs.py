"""The files of the supervised stage's data: raw samples, their rows, and the blended sets for the trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import write_json_array, write_jsonl
from cai_jobs.formats.spool import Spool
from cai_jobs.generation import blend, sl
from cai_jobs.generation.blend import Picked, Row
from cai_jobs.generation.rejected import RejectedRows

RAW_DIR, REJECTED = "cai_output", "rejected.jsonl"
RAW_SAMPLES, RAW_ROWS = "cai_critique_revision_samples.json", "cai_samples.jsonl"


def write_samples(
    rows: sl.Rows, chosen: Sequence[int], rejected: RejectedRows, directory: Path
) -> tuple[Spool[Row], dict[str, Any]]:
    """Write the raw samples of the finished rows, and as SFT rows those with a revision.

    Args:
        chosen: the run's row numbers, in order; those not finished were refused.
        rejected: gets the rows with an empty revision.
        directory: the files' directory.

    Returns:
        (the SFT rows, {"prompts", "rejected", of which "refused" and "emptyRevisions", "principles": name -> rounds}).

    Raises:
        InputError: no row, or too few of them, got a revision.
    """
    cai_rows: Spool[Row] = Spool()
    used: Counter[str] = Counter()
    refused, empty = 0, 0

    def samples() -> Iterator[sl.Sample]:
        nonlocal refused, empty
        for row in chosen:
            if not rows.finished(row):
                refused += 1
                continue
            sample = rows.sample(row)
            if sl.reject_empty(rows, row, rejected):
                empty += 1
            else:
                cai_rows.append(sl.sft_row(sample))
            used.update(principle.name for principle in rows.rounds(row))
            yield sample
        if not cai_rows:
            raise InputError(
                f"no row got a revision: {refused} were refused, of {empty} the revision is empty; {REJECTED} has the "
                "reasons"
            )

    write_json_array(directory / RAW_SAMPLES, samples())
    write_jsonl(directory / RAW_ROWS, cai_rows)
    return cai_rows, {
        "prompts": len(chosen),
        "rejected": refused + empty,
        "refused": refused,
        "emptyRevisions": empty,
        "principles": dict(sorted(used.items())),
    }


@dataclass(frozen=True)
class Blending:
    """How the rows become sets.

    Attributes:
        helpful: rows to blend with, those left out already that are too long or duplicates.
        ratio: of them so many a row of ours; None for all.
        limit, count: most tokens of a row and their counter; None for any length.
        share: of the prompts, kept apart for validation.
        duplicates: what prompts count as the same there, as in `duplicates.WAYS`.
        seed: fixes order, sample and split.
    """

    helpful: Sequence[Row]
    ratio: float | None
    limit: int | None
    count: Callable[[str], int] | None
    share: float
    duplicates: str
    seed: int


def write_sets(cai_rows: Sequence[Row], how: Blending, train: Path, validation: Path | None) -> dict[str, int]:
    """Write the blended rows; {"caiRows", "helpfulnessRows", "removedLong", "rows", "validationRows"}.

    Raises:
        InputError: every row is too long, or there are too few prompts to split.
    """
    fitting: Sequence[Row] = cai_rows
    if how.limit is not None and how.count is not None:
        fitting = blend.drop_long(cai_rows, how.limit, how.count)
    helpful = how.helpful
    if how.ratio is not None:
        helpful = blend.sample_rows(helpful, round(how.ratio * len(fitting)), how.seed)
    if not fitting and not helpful:
        raise InputError(f"--max-seq-length {how.limit}: every row is longer")
    rows: Picked[Row] = blend.blend_rows([helpful, fitting], how.seed)
    same = "near" if how.duplicates == "near" else "exact"
    training, held = blend.split_validation(rows, how.share, how.seed, same)
    write_jsonl(train, training)
    if validation is not None:
        write_jsonl(validation, held)
    return {
        "caiRows": len(cai_rows),
        "helpfulnessRows": len(helpful),
        "removedLong": len(cai_rows) - len(fitting),
        "rows": len(training),
        "validationRows": len(held),
    }


def card_counts(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures as a dataset card has them."""
    words = {
        "rows": "rows for training",
        "validationRows": "rows for validation",
        "caiRows": "rows with a revision",
        "helpfulnessRows": "helpfulness rows",
        "prompts": "prompts used",
        "removedDuplicates": "duplicates left out",
        "removedLong": "rows left out as too long",
        "refused": "rows refused by the server",
        "emptyRevisions": "rows with an empty revision",
        "principles": "Rounds by principle",
    }
    return {text: figures[name] for name, text in words.items() if name in figures}
