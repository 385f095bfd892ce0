"""The constitution's files: critique and revision requests, few-shot dialogues, and what the judge goes by.

Instructions, JSON: {"name": {"prompt": ["\\n\\nCritiqueRequest: ...\\n\\nCritique:"], "edit_request":
"\\n\\nRevisionRequest: ...\\n\\nRevision:"}, ...}; the wrapping words are optional and are taken off. Few-shots, JSON:
{"samples": [[{"role": "User" | "Assistant", "content": text}, ...], ...]}, each dialogue of User and Assistant in turn.
The judge goes by its system prompt, which holds the whole constitution, or by comparison principles, JSON:
{"name": "Which answer ...?", ...}, of which one is drawn for each comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.formats.chat import ASSISTANT, USER, Message
from cai_jobs.formats.jsonl import read_json

DATA_DIR = Path(__file__).resolve().parent.parent / "data" / "constitution"
INSTRUCTIONS = DATA_DIR / "critique_revision_instructions.json"
FEW_SHOTS = DATA_DIR / "few_shot_samples.json"
JUDGE_PROMPT = DATA_DIR / "judge_system_prompt.txt"
COMPARISON_PRINCIPLES = DATA_DIR / "comparison_principles.json"


@dataclass(frozen=True)
class Principle:
    """One principle: its name, and what the model is asked so as to criticise and to revise its answer."""

    name: str
    critique_request: str
    revision_request: str


@dataclass(frozen=True)
class ComparisonPrinciple:
    """One principle by which two answers are compared: its name, and the question of which agrees better with it."""

    name: str
    question: str


def read_principles(path: Path) -> list[Principle]:
    """The principles of an instructions file, in the file's order.

    Raises:
        InputError: not such a file; the sentence names the principle and its field.
    """
    entries = read_json(path)
    if not isinstance(entries, dict) or not entries:
        raise InputError(f'{path}: an object {{"name": {{"prompt": [...], "edit_request": ...}}, ...}} is wanted')
    return [_principle(name, entry, f"{path}: {name}") for name, entry in entries.items()]


def read_comparison_principles(path: Path) -> list[ComparisonPrinciple]:
    """The principles of a comparison file, in the file's order.

    Raises:
        InputError: not such a file; the sentence names the principle.
    """
    entries = read_json(path)
    if not isinstance(entries, dict) or not entries:
        raise InputError(f'{path}: an object {{"name": "Which answer ...?", ...}} is wanted')
    return [ComparisonPrinciple(name, _text(entry, f"{path}: {name}").strip()) for name, entry in entries.items()]


def read_few_shots(path: Path) -> list[Message]:
    """The turns of all few-shot dialogues, one after another, roles spelled User and Assistant.

    Raises:
        InputError: not such a file, a role other than these, or roles that do not alternate; an odd number of turns.
    """
    content = read_json(path)
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list):
        raise InputError(f'{path}: an object {{"samples": [[{{"role": ..., "content": ...}}, ...], ...]}} is wanted')
    turns: list[Message] = []
    for number, sample in enumerate(samples, start=1):
        turns += _dialogue(sample, f"{path}: sample {number}")
    return turns


def read_judge_prompt(path: Path) -> str:
    """The judge's system prompt, which holds the whole constitution.

    Raises:
        InputError: no such file, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise InputError(f"{path}: no such file; it is to hold the judge's system prompt") from problem
    except (IsADirectoryError, UnicodeDecodeError) as problem:
        raise InputError(f"{path}: cannot be read as text ({problem})") from problem
    if not text.strip():
        raise InputError(f"{path}: the file is empty; it is to hold the judge's system prompt")
    return text


def strip_request(text: str, kind: str) -> str:
    """A request without the words "\\n\\n{kind}Request: " before it and "\\n\\n{kind}:" after it."""
    return text.strip().removeprefix(f"{kind}Request:").removesuffix(f"{kind}:").strip()


def _principle(name: str, entry: Any, where: str) -> Principle:
    if not isinstance(entry, dict):
        raise InputError(f'{where}: an object with "prompt" and "edit_request" is wanted')
    unknown = set(entry) - {"prompt", "edit_request"}
    if unknown:
        raise InputError(f'{where}: unknown field {", ".join(sorted(unknown))}; there are "prompt" and "edit_request"')
    prompts = entry.get("prompt")
    if not isinstance(prompts, list) or len(prompts) != 1:
        raise InputError(f'{where}: "prompt" must be a list of exactly one critique request')
    critique = _text(prompts[0], f'{where}: "prompt"')
    revision = _text(entry.get("edit_request"), f'{where}: "edit_request"')
    return Principle(name, strip_request(critique, "Critique"), strip_request(revision, "Revision"))


def _dialogue(sample: Any, where: str) -> Sequence[Message]:
    if not isinstance(sample, list) or not sample:
        raise InputError(f"{where}: a list of turns is wanted")
    turns: list[Message] = []
    for number, turn in enumerate(sample, start=1):
        here = f"{where}, turn {number}"
        if not isinstance(turn, dict):
            raise InputError(f'{here}: an object with "role" and "content" is wanted')
        role = _text(turn.get("role"), f'{here}: "role"').capitalize()
        wanted = USER if number % 2 else ASSISTANT
        if role != wanted:
            raise InputError(f'{here}: "role" is {turn["role"]!r}, {wanted} is wanted: they take turns, User first')
        turns.append({"role": role, "content": _text(turn.get("content"), f'{here}: "content"')})
    if len(turns) % 2:
        raise InputError(f"{where}: {len(turns)} turns; the number must be even, the last one the Assistant's")
    return turns


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} must be text, it is {'missing' if value is None else repr(value)}")
    return value
