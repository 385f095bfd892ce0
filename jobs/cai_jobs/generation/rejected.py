"""Rows that cannot be done, for reasons of their own: listed with the reason, and no more of them than was allowed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import write_jsonl

MOST_SHOWN = 300


class RejectedRows:
    """The rows of a run that were refused, by row.

    Args:
        rows: of the whole run.
        most: the share of them that may be rejected, 0 to 1.
    """

    def __init__(self, rows: int, most: float) -> None:
        self._total, self._most = rows, most
        self._rejected: dict[int, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._rejected)

    def __contains__(self, row: int) -> bool:
        return row in self._rejected

    def add(self, row: int, prompt: str, step: str, reason: str) -> None:
        """List a row; a row is listed once, at the first step that failed."""
        self._rejected.setdefault(row, {"row": row, "prompt": prompt, "step": step, "reason": reason})

    def check(self) -> None:
        """Call it after each addition.

        Raises:
            InputError: more rows are rejected than allowed, whatever becomes of the others.
        """
        count = len(self._rejected)
        if count <= self._most * self._total:
            return
        last = next(reversed(self._rejected.values()))
        raise InputError(
            f"{count} of {self._total} rows are rejected, more than --max-rejected {self._most:g} allows; row "
            f"{last['row']} at step {last['step']!r}: {last['reason'][:MOST_SHOWN]}"
        )

    def write(self, path: Path) -> None:
        """Write the list in row order, JSONL; without rejected rows there is no file."""
        if self._rejected:
            write_jsonl(path, (self._rejected[row] for row in sorted(self._rejected)))
        else:
            path.unlink(missing_ok=True)
