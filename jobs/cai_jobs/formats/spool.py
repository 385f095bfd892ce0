"""A list too long for memory: JSON values in a temporary file, read by their place."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, overload

from cai_jobs.formats import quick_json
from cai_jobs.formats.jsonl import line_of

Item = TypeVar("Item")
READ_AHEAD = 1 << 16


class Spool(Sequence[Item]):
    """JSON values kept in a file without a name, in the directory of temporary files; memory holds 8 bytes a value.

    Values come back as JSON makes them: a tuple as a list, for example. A slice is a list in memory. The file is gone
    with the spool, or with the process. For one thread.

    Args:
        values: what it begins with.
    """

    def __init__(self, values: Iterable[Item] = ()) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the spool is there
        self._ends = array("q", [0])
        self._unflushed = False
        for value in values:
            self.append(value)

    def append(self, value: Item) -> None:
        """Add a value at the end."""
        line = line_of(value)
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))
        self._unflushed = True

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]  # counts from the end where negative, and complains where outside
        value: Item = quick_json.load(self._read(self._ends[number], self._ends[number + 1]))
        return value

    def __iter__(self) -> Iterator[Item]:
        """The values in order, read many at a time; those added meanwhile too."""
        first = 0
        while first < len(self):
            last = first + 1
            while last < len(self) and self._ends[last + 1] - self._ends[first] <= READ_AHEAD:
                last += 1
            for line in self._read(self._ends[first], self._ends[last]).splitlines():
                yield quick_json.load(line)
            first = last

    def __del__(self) -> None:
        self._file.close()

    def _read(self, start: int, end: int) -> bytes:
        if self._unflushed:
            self._file.flush()
            self._unflushed = False
        return os.pread(self._file.fileno(), end - start, start)
