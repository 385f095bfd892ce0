"""JSON and JSONL files, read with the file and line in every complaint, written whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from cai_jobs.contract.program import InputError

ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps makes a new one for every call


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSONL file, gzip if its name ends in .gz; blank lines are skipped.

    Raises:
        InputError: no such file, no row in it, or a line that is not a JSON object; the sentence has file and line.
    """
    rows = 0
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as problem:
                raise InputError(f"{path}:{number}: not JSON ({problem})") from problem
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: a JSON object is wanted, this is {_kind(row)}")
            rows += 1
            yield number, row
    if rows == 0:
        raise InputError(f"{path}: the file is empty, at least one row is wanted")


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A file to read as text, gzip if its name ends in .gz.

    Raises:
        InputError: there is no such file, or what is read in the block is no text.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield cast(TextIO, file)
    except FileNotFoundError as problem:
        raise InputError(f"{path}: no such file") from problem
    except IsADirectoryError as problem:
        raise InputError(f"{path}: is a directory, a file is wanted") from problem
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as problem:
        raise InputError(f"{path}: cannot be read as text ({problem})") from problem


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        InputError: no such file, or not JSON; the sentence has file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise InputError(f"{path}: no such file") from problem
    except (UnicodeDecodeError, IsADirectoryError) as problem:
        raise InputError(f"{path}: cannot be read as text ({problem})") from problem
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise InputError(f"{path}:{problem.lineno}: not JSON ({problem.msg})") from problem


def line_of(value: Any) -> bytes:
    """A JSON value as one line of UTF-8. Half a surrogate pair, which a server can send, stays an escape."""
    try:
        return (ENCODER.encode(value) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value) + "\n").encode()


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as JSONL one by one, whole or not at all (write aside, sync, rename); the number of rows."""
    number = 0
    with written_aside(path) as file:
        for row in rows:
            file.write(line_of(row))
            number += 1
    return number


def write_json_array(path: Path, values: Iterable[Any]) -> int:
    """Write values one by one as a JSON array, in the text of `write_json` of their list; the number of values."""
    number = 0
    with written_aside(path) as file:
        for number, value in enumerate(values, start=1):
            file.write(b"[\n " if number == 1 else b",\n ")
            # a line break inside a text is an escape, so that those found here are the layout's
            file.write(_indented(value).replace(b"\n", b"\n "))
        file.write(b"\n]\n" if number else b"[]\n")
    return number


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, whole or not at all."""
    with written_aside(path) as file:
        file.write(_indented(value) + b"\n")


def _indented(value: Any) -> bytes:
    try:
        return json.dumps(value, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=1).encode()


@contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path`, its directory made, once the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    aside.rename(path)


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
