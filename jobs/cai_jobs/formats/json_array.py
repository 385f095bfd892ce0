"""JSON arrays read item by item, so that memory need not hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import opened

CHUNK = 1 << 16
TORN = 16
"""A complaint so near the end of the text read so far may come of its end; no escape or word is longer."""
WHITE_SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


def begins_array(path: Path) -> bool:
    """Whether the first mark of a file, gzip if its name ends in .gz, is that of an array.

    Raises:
        InputError: the file cannot be read.
    """
    with opened(path) as file:
        return _Scanner(path, file).mark() == "["


def read_array(path: Path) -> Iterator[Any]:
    """Yield the items of a file that is one JSON array, gzip if its name ends in .gz.

    Raises:
        InputError: the file cannot be read or is no array; the sentence has the line. Items before a
            mistake come first.
    """
    with opened(path) as file:
        scanner = _Scanner(path, file)
        scanner.take("[", "an array is wanted")
        if scanner.mark() != "]":
            yield scanner.value()
            while scanner.mark() != "]":
                scanner.take(",", "Expecting ',' delimiter")
                yield scanner.value()
        scanner.take("]", "")
        scanner.take("", "Extra data")


class _Scanner:
    """What has been read of a file and not yet taken, and how many lines lie before it."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._place, self._lines = "", 0, 0

    def mark(self) -> str:
        """The next character that is no white space; nothing at the end."""
        while True:
            self._place = WHITE_SPACE.match(self._text, self._place).end()  # type: ignore[union-attr] # always matches
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read_on():
                return ""

    def take(self, mark: str, complaint: str) -> None:
        """Go past a mark that must come next."""
        if self.mark() != mark:
            raise self._problem(complaint, self._place)
        self._place += 1

    def value(self) -> Any:
        """The next JSON value, gone past."""
        self.mark()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._place)
            except json.JSONDecodeError as problem:
                torn = problem.msg.startswith("Unterminated string") or problem.pos > len(self._text) - TORN
                if not (torn and self._read_on()):
                    raise self._problem(problem.msg, problem.pos) from problem
                continue
            if end == len(self._text) and self._read_on():
                continue  # the digits of a number may go on
            self._place = end
            return value

    def _read_on(self) -> bool:
        # as much again as is at hand, so that a long value is not begun anew too often
        piece = self._file.read(max(CHUNK, len(self._text) - self._place))
        if piece:
            self._lines += self._text.count("\n", 0, self._place)
            self._text, self._place = self._text[self._place :] + piece, 0
        return bool(piece)

    def _problem(self, complaint: str, place: int) -> InputError:
        line = self._lines + self._text.count("\n", 0, place) + 1
        return InputError(f"{self._path}: the array is not JSON (line {line}: {complaint})")
