"""A job's finished work, kept in an append-only file, so that a killed job goes on where it was.

JSONL. The first line says what the work depends on: {"journal": 1, "parameters": {...}}; each other line holds finished
values of one step: {"step": name, "rows": [row, ...], "values": [value, ...]}. A kill can tear the last
line: from the first damaged line on everything is dropped and done again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from cai_jobs.contract.artifacts import sync_path
from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.contract.progress import Progress
from cai_jobs.formats import quick_json
from cai_jobs.formats.jsonl import line_of

FORMAT = 1
LINES_KEPT = 32
PLACE_BITS = 20
"""A value's address is its line's offset in the file, shifted by these, and its place in the line; 0 is none, since the
first line holds no values."""
FIRST_READ = 1 << 12
MIB = 1 << 20
LONG = 64 * MIB
"""A file that takes more than a moment to read."""
SHOWN = 60
MISSING = "not set"


class Journal:
    """Finished values by (step, row). They are on the disk; memory holds 8 bytes a value. For one thread.

    Args:
        path: the file; made if it is not there. None is a file without a name, gone with the process.
        parameters: JSON values on which the finished work depends.
        sync_interval_s: at most so often the file is synced to the disk. What a killed process has added is safe
            anyway; syncing guards against power cuts.
        progress: the value of --progress, for the reading of a long file.

    Raises:
        InputError: the file was written under other parameters; the sentence names them.
    """

    def __init__(
        self,
        path: Path | None,
        parameters: Mapping[str, Any],
        sync_interval_s: float = 1.0,
        progress: str = "none",
    ) -> None:
        self._path, self._interval_s, self._synced_at = path, sync_interval_s, time.monotonic()
        self._progress = progress
        self._addresses: dict[str, array[int]] = {}
        self._counts: dict[str, int] = {}
        self._values_at = lru_cache(LINES_KEPT)(self._read_values)
        head = {"journal": FORMAT, "parameters": json.loads(json.dumps(parameters))}
        self._file: BinaryIO
        if path is None:
            self._file, self._end = tempfile.TemporaryFile(buffering=0), 0  # noqa: SIM115
        else:
            self._file, self._end = self._open(path, head)
        if not self._end:
            self._append(line_of(head))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fdatasync(self._file.fileno())
        self._file.close()

    def __contains__(self, key: tuple[str, int]) -> bool:
        step, row = key
        addresses = self._addresses.get(step, ())
        return row < len(addresses) and addresses[row] != 0

    def __getitem__(self, key: tuple[str, int]) -> Any:
        if key not in self:
            raise KeyError(key)
        step, row = key
        offset, place = divmod(self._addresses[step][row], 1 << PLACE_BITS)
        return self._values_at(offset)[place]

    def add(self, step: str, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Keep finished values of a step: a value a row, rows counted from 0."""
        if len(rows) != len(values):
            raise ValueError(f"{len(rows)} rows, but {len(values)} values")
        offset = self._end
        self._append(quick_json.dump({"step": step, "rows": list(rows), "values": list(values)}) + b"\n")
        self._index(step, rows, offset)
        if time.monotonic() - self._synced_at >= self._interval_s:
            os.fdatasync(self._file.fileno())
            self._synced_at = time.monotonic()

    def count(self, step: str) -> int:
        """How many rows of a step are finished."""
        return self._counts.get(step, 0)

    def _open(self, path: Path, head: Mapping[str, Any]) -> tuple[BinaryIO, int]:
        """The file, cut behind what is whole, and its length."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._take_in(path, head) if path.exists() else 0
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        file.truncate(whole)
        sync_path(path.parent)
        return file, whole

    def _append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):  # a disk that fills up takes a part and complains the next time
                written += os.pwrite(self._file.fileno(), line[written:], self._end + written)
        except OSError as problem:
            problem.filename = self._path and str(self._path)
            raise
        self._end += len(line)

    def _index(self, step: str, rows: Sequence[int], offset: int) -> None:
        addresses = self._addresses.setdefault(step, array("q"))
        missing = max(rows, default=-1) + 1 - len(addresses)
        if missing > 0:
            addresses.frombytes(bytes(missing * addresses.itemsize))
        for place, row in enumerate(rows):
            self._counts[step] = self._counts.get(step, 0) + (addresses[row] == 0)
            addresses[row] = offset << PLACE_BITS | place

    def _read_values(self, offset: int) -> list[Any]:
        line, size = b"", FIRST_READ
        while not line.endswith(b"\n"):
            piece = os.pread(self._file.fileno(), size, offset + len(line))
            if not piece:
                raise RetryableError(f"{self._path or 'the journal'} was cut short by someone else; run again")
            line += piece[: piece.find(b"\n") + 1 or len(piece)]
            size *= 4
        values: list[Any] = quick_json.load(line)["values"]
        return values

    def _take_in(self, path: Path, head: Mapping[str, Any]) -> int:
        """Index what is whole and return how many bytes that is."""
        whole, size = 0, path.stat().st_size
        mode = self._progress if size >= LONG else "none"
        with path.open("rb") as file, Progress(size // MIB, "MB", "reading the journal", mode) as bar:
            for number, line in enumerate(file, start=1):
                entry = _parse(line)
                if entry is None or (number == 1) != ("journal" in entry):
                    print(
                        f"warning: {path}:{number} is damaged; the work from there on is done again",
                        file=sys.stderr,
                    )
                    break
                if number == 1:
                    if size == len(line):
                        break  # nothing was finished: it is begun anew, under whatever parameters
                    _check_head(path, entry, head)
                else:
                    self._index(entry["step"], entry["rows"], whole)
                whole += len(line)
                if whole // MIB > bar.done:  # a line takes less time than to tell of it
                    bar.advance(whole // MIB - bar.done)
        return whole


def _parse(line: bytes) -> dict[str, Any] | None:
    """A whole line's entry, or None for a damaged one."""
    try:
        entry = quick_json.load(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    if "journal" in entry:
        return entry if isinstance(entry.get("parameters"), dict) else None
    rows, values = entry.get("rows"), entry.get("values")
    whole = (
        isinstance(entry.get("step"), str)
        and isinstance(rows, list)
        and isinstance(values, list)
        and len(rows) == len(values)
        and all(type(row) is int and row >= 0 for row in rows)
    )
    return entry if whole else None


def _check_head(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found["journal"] != wanted["journal"]:
        raise InputError(f"{path} is no journal of this version; remove it to begin anew")
    changes = "; ".join(_differences(found["parameters"], wanted["parameters"], ""))
    if changes:
        raise InputError(
            f"{path} holds unfinished work made with other settings ({changes}); "
            "use those again, or remove the file to begin anew"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], outer: str) -> Iterator[str]:
    """ "name was ..., now ..." for each parameter that differs; "outer.name" for one inside another."""
    for name in sorted({*before, *now}):
        old, new = before.get(name, MISSING), now.get(name, MISSING)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{outer}{name}.")
        elif old != new:
            shown = [value if value is MISSING else json.dumps(value, ensure_ascii=False) for value in (old, new)]
            start = _first_difference(*shown)
            yield "{} was {}, now {}".format(outer + name, *(_cut(text, start) for text in shown))


def _first_difference(before: str, now: str) -> int:
    pairs = enumerate(zip(before, now, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(before), len(now)))


def _cut(text: str, around: int) -> str:
    if len(text) <= SHOWN:
        return text
    start = max(0, around - SHOWN // 3)
    return "..." * (start > 0) + text[start : start + SHOWN] + "..." * (start + SHOWN < len(text))
