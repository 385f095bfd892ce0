"""Rows of a data set from the hub or from files, and the forms helpfulness rows come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.fetching.hh import SUFFIXES
from cai_jobs.fetching.sources import Source, explained
from cai_jobs.formats import sft_rows
from cai_jobs.formats.chat import ASSISTANT, SYSTEM, USER
from cai_jobs.formats.comparisons import parse_dialogue
from cai_jobs.formats.red_team import read_rows

Row = dict[str, Any]
ANSWER_FIELDS = ("response", "completion", "answer", "output")


def rows_of(source: Source, flag: str) -> Iterator[tuple[str, Row]]:
    """Yield (where, row) of a hub data set, or of files: JSONL or JSON arrays, gzip or not, or directories of these.

    Raises:
        InputError: there is no such data set or file, or a file is not of these.
        RetryableError: the hub cannot be reached.
    """
    if source.kind == "huggingFace":
        for data_dir in source.data_dirs or (None,):
            yield from _hub_rows(source, data_dir, flag)
        return
    for path in source.paths:
        files = _files_in(path, flag) if path.is_dir() else [path]
        for file in files:
            yield from read_rows(file)


def sft_row(row: Row, where: str) -> Row | None:
    """A helpfulness row as an SFT row, or None for a dialogue that does not end in an answer.

    Taken are SFT rows ("conversations"), "messages" with "role" and "content", HH rows (the dialogue in "chosen"), and
    "prompt" with one of "response", "completion", "answer", "output".

    Raises:
        InputError: the row has none of these forms.
    """
    if "conversations" in row:
        sft_rows.validate(row, where)
        return row
    if isinstance(row.get("messages"), list):
        return _from_messages(row["messages"], where)
    if isinstance(row.get("chosen"), str):
        turns = parse_dialogue(row["chosen"])
        return None if turns is None else _row("", [(turn["role"], turn["content"]) for turn in turns])
    answer = next((row[name] for name in ANSWER_FIELDS if isinstance(row.get(name), str)), None)
    if isinstance(row.get("prompt"), str) and answer is not None:
        return _row("", [(USER, row["prompt"].strip()), (ASSISTANT, answer.strip())])
    raise InputError(
        f'{where}: no helpfulness row: "conversations", "messages", "chosen", or "prompt" with "response" is wanted, '
        f"found {', '.join(sorted(row)) or 'nothing'}"
    )


def _from_messages(messages: list[Any], where: str) -> Row | None:
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(n), str) for n in ("role", "content")):
            raise InputError(f'{where}: message {number}: an object with "role" and "content" is wanted')
        turns.append((message["role"].capitalize(), message["content"].strip()))
    system = turns.pop(0)[1] if turns and turns[0][0] == SYSTEM else ""
    alternating = all(role == (ASSISTANT if place % 2 else USER) for place, (role, _) in enumerate(turns))
    return _row(system, turns) if turns and len(turns) % 2 == 0 and alternating else None


def _row(system: str, turns: list[tuple[str, str]]) -> Row:
    conversation = [{"from": role, "value": text, "label": None} for role, text in turns]
    return {"system": system, "conversations": conversation, "mask": USER, "dataset": "helpfulness"}


def _hub_rows(source: Source, data_dir: str | None, flag: str) -> Iterator[tuple[str, Row]]:
    from datasets import load_dataset

    name = f"{source.repo}/{data_dir}" if data_dir else source.repo
    with explained("dataset", source):
        try:
            found = load_dataset(source.repo, data_dir=data_dir, split=source.split, revision=source.revision)
        except ValueError as problem:
            raise InputError(f"{flag}: {name}: {problem}") from problem
    for number, row in enumerate(found, start=1):
        # the library fills fields that a row does not have with None
        yield f"{name}: row {number}", {key: value for key, value in row.items() if value is not None}


def _files_in(directory: Path, flag: str) -> list[Path]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES))
    if not files:
        raise InputError(f"{flag}: {directory} holds no {', '.join(SUFFIXES)} file")
    return files
