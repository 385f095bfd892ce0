"""Red-team transcripts: rows {"transcript": "\\n\\nHuman: ...\\n\\nAssistant: ..."}; the first question is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.formats.json_array import begins_array, read_array
from cai_jobs.formats.jsonl import read_jsonl
from cai_jobs.formats.spool import Spool

HUMAN, ASSISTANT = "Human:", "Assistant:"


def read_prompts(path: Path) -> Spool[str]:
    """The first question of every transcript in a file, in order, kept on the disk.

    Raises:
        InputError: the file cannot be read, or a row has no transcript with a question; the sentence has file and line.
    """
    return Spool(first_question(row.get("transcript"), where) for where, row in read_rows(path))


def first_question(transcript: Any, where: str) -> str:
    """The text between the first "Human:" and the first "Assistant:", stripped.

    Args:
        transcript: the field's value.
        where: "file:line", put before a complaint.

    Raises:
        InputError: it is not text, one of the marks is missing, they stand the wrong way round, or nothing is between.
    """
    if not isinstance(transcript, str):
        raise InputError(f'{where}: the field "transcript" must be text, it is {_found(transcript)}')
    start, end = transcript.find(HUMAN), transcript.find(ASSISTANT)
    for mark, place in ((HUMAN, start), (ASSISTANT, end)):
        if place < 0:
            raise InputError(f'{where}: the field "transcript" has no {mark!r}')
    if end < start:
        raise InputError(f'{where}: the field "transcript" has {ASSISTANT!r} before {HUMAN!r}')
    question = transcript[start + len(HUMAN) : end].strip()
    if not question:
        raise InputError(f'{where}: the field "transcript" has nothing between {HUMAN!r} and {ASSISTANT!r}')
    return question


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", row) of a JSONL file, or ("file: item N", row) of one JSON array; gzip if it ends in .gz.

    Raises:
        InputError: no such file, nothing in it, not JSON, or an item that is not an object.
    """
    if not begins_array(path):
        for number, row in read_jsonl(path):
            yield f"{path}:{number}", row
        return
    number = 0
    for number, item in enumerate(read_array(path), start=1):
        if not isinstance(item, dict):
            raise InputError(f"{path}: item {number}: a JSON object is wanted, this is {_found(item)}")
        yield f"{path}: item {number}", item
    if number == 0:
        raise InputError(f"{path}: the array is empty, at least one row is wanted")


def _found(value: Any) -> str:
    return "missing" if value is None else f"{str(value)[:40]!r}"
