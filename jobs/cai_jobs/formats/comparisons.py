"""Preference data: prompts files, one {"text"} a prompt; comparisons files, two {"text"} lines a pair, chosen first.

A prompt's text ends where the answer begins. A comparison's text is prompt, answer and the token that ends it; in the
default template `<extra_id_0>System\\n\\n<extra_id_1>User\\n...\\n<extra_id_1>Assistant\\n{answer}\\n<extra_id_1>`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.formats.chat import ASSISTANT, USER, Message, Template
from cai_jobs.formats.jsonl import line_of, read_jsonl, written_aside

KINDS = ("prompts", "comparisons")
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


@dataclass(frozen=True)
class Pair:
    """A prompt and two whole texts that begin with it."""

    prompt: str
    chosen: str
    rejected: str


def file_name(prefix: str | None, split: str, kind: str) -> str:
    """`{prefix}_{split}_{kind}_with_chat_prompt.jsonl`, or without the prefix where there is none."""
    return f"{prefix}_{split}_{kind}_with_chat_prompt.jsonl" if prefix else f"{split}_{kind}_with_chat_prompt.jsonl"


def make_pair(template: Template, dialogue: Sequence[Message], chosen: str, rejected: str) -> Pair:
    """A dialogue that ends with the user's turn, with two answers to it."""
    return Pair(template.format(dialogue), template.answered(dialogue, chosen), template.answered(dialogue, rejected))


def write_split(pairs: Iterable[Pair], directory: Path, prefix: str | None, split: str) -> dict[str, Path]:
    """Write a split's prompts and comparisons files, both in one pass over the pairs; kind -> path."""
    paths = {kind: directory / file_name(prefix, split, kind) for kind in KINDS}
    with written_aside(paths["prompts"]) as prompts, written_aside(paths["comparisons"]) as comparisons:
        for pair in pairs:
            prompts.write(line_of({"text": pair.prompt}))
            comparisons.write(line_of({"text": pair.chosen}) + line_of({"text": pair.rejected}))
    return paths


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a prompts file.

    Raises:
        InputError: the file cannot be read, or a line has no "text"; the sentence has file and line.
    """
    for number, row in read_jsonl(path):
        yield _text(row, f"{path}:{number}")


def read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the (chosen, rejected) texts of a comparisons file, in its order.

    Two consecutive lines make a pair for NeMo-Aligner too, so that one line too many would shift every later pair.

    Raises:
        InputError: as `read_texts`, a blank line, an empty text, or an odd number of lines; with file and line. Pairs
            before a mistake come first.
    """
    chosen, rows = None, 0
    for rows, (number, row) in enumerate(read_jsonl(path), start=1):
        if number != rows:
            raise InputError(f"{path}:{rows}: a blank line; chosen and rejected must follow each other without one")
        text = _text(row, f"{path}:{number}")
        if not text:
            raise InputError(f'{path}:{number}: the field "text" is empty')
        if chosen is not None:
            yield chosen, text
        chosen = text if chosen is None else None
    if _ends_in_a_blank_line(path):
        raise InputError(f"{path}:{rows + 1}: a blank line at the end; remove it")
    if chosen is not None:
        raise InputError(f"{path}:{rows}: the chosen text of this last line has no rejected one after it")


def _ends_in_a_blank_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\n\n"


def pairs_of_dialogues(rows: Iterable[tuple[str, dict[str, Any]]], template: Template) -> tuple[list[Pair], int]:
    """Pairs of rows {"chosen": dialogue, "rejected": dialogue} in the layout of Anthropic's HH files.

    A dialogue is "\\n\\nHuman: ...\\n\\nAssistant: ..." with any number of turns; the prompt is everything before the
    last answer. Rows are left out, and counted, where a dialogue does not alternate from Human to Assistant, has an
    empty turn, or where the two share no prompt.

    Args:
        rows: ("file:line", row).

    Returns:
        (pairs, number of rows left out).

    Raises:
        InputError: a row lacks "chosen" or "rejected".
    """
    pairs: list[Pair] = []
    left_out = 0
    for where, row in rows:
        dialogues = [parse_dialogue(_text(row, where, name)) for name in ("chosen", "rejected")]
        chosen, rejected = dialogues
        if chosen is None or rejected is None or chosen[:-1] != rejected[:-1]:
            left_out += 1
            continue
        pairs.append(make_pair(template, chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]))
    return pairs, left_out


def parse_dialogue(text: str) -> list[Message] | None:
    """The turns of a "\\n\\nHuman: ...\\n\\nAssistant: ..." dialogue; None where it does not end in an answer.

    A last Human turn with nothing in it, which some HH rows have, is ignored.
    """
    parts = _SPEAKER.split(text)
    if parts[0].strip():
        return None
    turns = [
        {"role": USER if speaker == "Human" else ASSISTANT, "content": content.strip()}
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if turns and turns[-1] == {"role": USER, "content": ""}:
        turns.pop()
    alternating = all(turn["role"] == (ASSISTANT if number % 2 else USER) for number, turn in enumerate(turns))
    if not turns or len(turns) % 2 or not alternating or not all(turn["content"] for turn in turns):
        return None
    return turns


def _text(row: dict[str, Any], where: str, name: str = "text") -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise InputError(
            f'{where}: the field "{name}" must be text, it is {"missing" if value is None else repr(value)}'
        )
    return value
