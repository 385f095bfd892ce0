"""Held-out prompts in, transcripts out: the files `evaluate` reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from cai_jobs.contract.program import InputError
from cai_jobs.evaluation.rates import KINDS, LABELS, Kind, Label, Outcome
from cai_jobs.formats.jsonl import read_jsonl, write_jsonl


@dataclass
class Transcript:
    """A prompt, what the model answered, and what was made of it; `outcome` is against a baseline, if there is one."""

    kind: Kind
    prompt: str
    answer: str
    label: Label | None = None
    outcome: Outcome | None = None


def read_benign_prompts(path: Path) -> list[str]:
    """The `prompt` of every row; raises InputError with file and line for a row without one."""
    return [_text(row, "prompt", f"{path}:{number}") for number, row in read_jsonl(path)]


def read_transcripts(path: Path) -> list[Transcript]:
    """A transcripts file that `evaluate` wrote; raises InputError with file and line for any other row."""
    return [_transcript(row, f"{path}:{number}") for number, row in read_jsonl(path)]


def write_transcripts(path: Path, transcripts: Sequence[Transcript]) -> None:
    """Write a transcripts file, whole or not at all."""
    write_jsonl(path, (asdict(transcript) for transcript in transcripts))


def match_baseline(transcripts: Sequence[Transcript], baseline: Sequence[Transcript]) -> list[Transcript]:
    """The baseline's transcript for each of ours, by kind and prompt.

    Raises:
        InputError: the baseline was not asked one of the prompts, so the two cannot be compared.
    """
    answered = {(transcript.kind, transcript.prompt): transcript for transcript in baseline}
    missing = [transcript for transcript in transcripts if (transcript.kind, transcript.prompt) not in answered]
    if missing:
        raise InputError(
            f"--baseline holds no answer to {len(missing)} of {len(transcripts)} prompts, the first being "
            f'"{missing[0].prompt[:80]}"; evaluate the baseline on the same held-out files'
        )
    return [answered[transcript.kind, transcript.prompt] for transcript in transcripts]


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: a row with text in `{name}` is wanted, found the fields {', '.join(row) or 'none'}")
    return value.strip()


def _transcript(row: Mapping[str, Any], where: str) -> Transcript:
    kind, label, answer = row.get("kind"), row.get("label"), row.get("answer")
    if kind not in KINDS or (label is not None and label not in LABELS) or not isinstance(answer, str):
        raise InputError(f"{where}: not a transcript row: kind {kind!r}, label {label!r}; kind is one of {KINDS}")
    return Transcript(cast(Kind, kind), _text(row, "prompt", where), answer, cast(Label | None, label))
