"""The dataset card of generated data, README.md: what it was made from and how, and what is in it.

The front matter is what the Hugging Face hub and `datasets.load_dataset` read: each configuration's splits and files.
Nothing in a card hangs on when, where or how fast the data were made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cai_jobs.contract.artifacts import write_synced
from cai_jobs.contract.program import InputError

NAME = "README.md"
UNKNOWN_LICENCE = "not stated"
_FENCE = "---"


@dataclass(frozen=True)
class Source:
    """A file the data were made from.

    Attributes:
        name: its part in this, as --license names it.
        rows: how many it has.
        licence: as `licences` found it.
    """

    name: str
    path: Path
    rows: int
    licence: str = UNKNOWN_LICENCE


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        title, summary: a line, and a paragraph on how the data came about.
        configs: for each configuration of the set its files by split, relative to the card.
        sources: what went in.
        counts: JSON values by name; a mapping becomes a table of its own.
        constitution: the files that say what is wanted of answers, by what they are; told by digest.
        settings: JSON values the data depend on, by name.
    """

    title: str
    summary: str
    configs: Mapping[str, Mapping[str, str]]
    sources: Sequence[Source]
    counts: Mapping[str, Any]
    constitution: Mapping[str, Path] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def write(path: Path, card: Card) -> None:
    """Write a card, whole or not at all.

    Raises:
        InputError: a source or constitution file cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, render(card))


def render(card: Card) -> str:
    """A card's text, Markdown."""
    front = {
        "configs": [
            {"config_name": name, "data_files": [{"split": split, "path": file} for split, file in files.items()]}
            for name, files in card.configs.items()
        ]
    }
    single = {name: value for name, value in card.counts.items() if not isinstance(value, Mapping)}
    parts = [
        f"{_FENCE}\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}{_FENCE}",
        f"# {card.title}",
        card.summary,
        "## Sources",
        _table(
            ("source", "file", "rows", "licence", "sha256"),
            [(s.name, s.path.name, s.rows, s.licence, f"`{digest(s.path)}`") for s in card.sources],
        ),
        "## Counts",
        _table(("what", "number"), list(single.items())),
    ]
    for name, values in card.counts.items():
        if isinstance(values, Mapping) and values:
            parts += [f"### {name}", _table(("what", "number"), list(values.items()))]
    if card.constitution:
        rows = [(what, file.name, f"`{digest(file)}`") for what, file in card.constitution.items()]
        parts += ["## Constitution", _table(("part", "file", "sha256"), rows)]
    if card.settings:
        parts += ["## Settings", _table(("setting", "value"), list(card.settings.items()))]
    return "\n\n".join(parts) + "\n"


def digest(path: Path) -> str:
    """The sha256 of a file, hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise InputError(f"{path}: cannot be read ({problem.strerror})") from problem


def card_path(output: Path, own_directory: bool) -> Path:
    """Where an output's card stands: README.md in a directory of the run's own; else x.jsonl -> x.README.md, since a
    README.md found there is somebody else's.
    """
    return output.with_name(NAME if own_directory else f"{output.stem}.{NAME}")


def licences(given: Sequence[str], paths: Mapping[str, Path]) -> dict[str, str]:
    """The licence of each source: as given, else as the dataset card beside its file has it, else "not stated".

    Args:
        given: values of --license, NAME=TEXT.
        paths: the sources' files by name.

    Raises:
        InputError: a value has no NAME=, names no source, or one twice; or a dataset card cannot be understood.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, licence = (part.strip() for part in text.partition("="))
        if not equals or not licence:
            raise InputError(f"--license {text!r}: NAME=TEXT is wanted, such as {next(iter(paths))}=MIT")
        if name not in paths:
            raise InputError(f"--license {text!r}: there is no source {name!r}; there are {', '.join(paths)}")
        if name in found:
            raise InputError(f"--license {text!r}: {name} has a licence already, {found[name]!r}")
        found[name] = licence
    return {name: found.get(name) or _licence_beside(path) or UNKNOWN_LICENCE for name, path in paths.items()}


def _licence_beside(path: Path) -> str | None:
    """The licence in the front matter of the README.md next to a file, if there is one."""
    readme = path.with_name(NAME)
    try:
        lines = readme.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines or lines[0].strip() != _FENCE or _FENCE not in lines[1:]:
        return None
    try:
        front = yaml.safe_load("\n".join(lines[1 : lines.index(_FENCE, 1)]))
    except yaml.YAMLError as problem:
        raise InputError(f"{readme}: its front matter is not YAML ({str(problem).splitlines()[0]})") from problem
    licence = front.get("license") if isinstance(front, dict) else None
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence) if licence else None


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "None."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", "\\n")
