"""The texts a run depends on: the constitution's files and data sets given as text; whose they are and what they say.

The built-in ones are package data of `cai_jobs`; reading them here is the control plane's only look at a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from cai_operator.api import Spec

INSTRUCTIONS = "critique_revision_instructions.json"
FEW_SHOTS = "few_shot_samples.json"
JUDGE_PROMPT = "judge_system_prompt.txt"
COMPARISON_PRINCIPLES = "comparison_principles.json"

CONSTITUTION = (INSTRUCTIONS, FEW_SHOTS, JUDGE_PROMPT, COMPARISON_PRINCIPLES)
"""The constitution's files."""

DATASET_FILES: Mapping[str, str] = {
    "redTeam": "red_team.jsonl",
    "helpfulness": "helpfulness.jsonl",
    "preference": "preference.jsonl",
}


class MissingTextError(Exception):
    """A text the spec refers to is not there (yet); the message says which."""


@dataclass(frozen=True)
class Text:
    """A text a program reads: its content, or where that is out of our sight, its path on the volume as written."""

    content: str | None = None
    path: str | None = None

    def digest(self) -> str:
        """What stands for it in a key: the content's sha256, or the path where that is all that is known."""
        if self.content is None:
            return f"path:{self.path}"
        return hashlib.sha256(self.content.encode()).hexdigest()


def source_name(kind: str, name: str) -> str:
    """How `Observed.texts` names a source: "configMap/NAME" or "path/PATH"."""
    return f"{kind}/{name}"


def sources(spec: Spec) -> tuple[str, ...]:
    """The sources this spec refers to, for the executor to read into `Observed.texts`."""
    names: list[str] = []
    if spec.constitution is not None and spec.constitution.config_map is not None:
        names.append(source_name("configMap", spec.constitution.config_map.name))
    if spec.constitution is not None and spec.constitution.path is not None:
        names.append(source_name("path", spec.constitution.path))
    for dataset in (spec.datasets.red_team, spec.datasets.helpfulness, spec.datasets.preference):
        if dataset is not None and dataset.config_map is not None:
            names.append(source_name("configMap", dataset.config_map.name))
    return tuple(dict.fromkeys(names))


def of_node(spec: Spec, node: str, observed: Mapping[str, Mapping[str, str]]) -> dict[str, Text]:
    """The texts a node's program reads, by file name.

    Raises:
        MissingTextError: a ConfigMap is not there, or lacks the key.
    """
    if node == "datasets":
        return _datasets(spec, observed)
    judged_by = judge_text(spec)
    used = {"slData": (INSTRUCTIONS, FEW_SHOTS), "rlData": (judged_by,), "report": (INSTRUCTIONS, judged_by)}
    return {name: _constitution_file(spec, name, observed) for name in used.get(node, ())}


def judge_text(spec: Spec) -> str:
    """The file of the constitution that the judge goes by."""
    by_principle = spec.stages.rl_data.judging.mode == "principle"
    return COMPARISON_PRINCIPLES if by_principle else JUDGE_PROMPT


def shipped(spec: Spec, node: str) -> dict[str, str]:
    """The digest of the pocket world's shipped files, for a node that reads them: a version with others redoes it."""
    given = (spec.models.base, spec.models.assistant)
    uses_pocket = {
        "models": any(source is not None and source.pocket is not None for source in given),
        "datasets": any(spec.dataset(name).pocket is not None for name in ("redTeam", "helpfulness", "preference")),
        "rlData": spec.judge_or_default.pocket is not None,
    }
    return {"pocket": pocket_digest()} if uses_pocket.get(node) else {}


@cache
def pocket_digest() -> str:
    """The sha256 over the names and contents of the pocket world's package data."""
    digest = hashlib.sha256()
    folders = [files("cai_jobs") / "data" / "pocket"]
    while folders:
        for entry in sorted(folders.pop().iterdir(), key=lambda entry: entry.name):
            if entry.is_dir():
                folders.append(entry)
            else:
                digest.update(f"{entry.name}:".encode() + hashlib.sha256(entry.read_bytes()).digest())
    return digest.hexdigest()


@cache
def built_in(name: str, pocket: bool = False) -> str:
    """A built-in text; with `pocket` the pocket world's own version of it, where it has one."""
    data = files("cai_jobs") / "data"
    own = data / "pocket" / name
    return (own if pocket and own.is_file() else data / "constitution" / name).read_text(encoding="utf-8")


def _constitution_file(spec: Spec, name: str, observed: Mapping[str, Mapping[str, str]]) -> Text:
    constitution = spec.constitution
    if constitution is not None and constitution.config_map is not None:
        config_map = constitution.config_map.name
        given = observed.get(source_name("configMap", config_map))
        if given is None:
            raise MissingTextError(f"ConfigMap {config_map}, the constitution, does not exist")
        if not set(given) & set(CONSTITUTION):
            known = f"{', '.join(CONSTITUTION[:-1])} and {CONSTITUTION[-1]}"
            raise MissingTextError(f"ConfigMap {config_map}, the constitution, has none of the keys {known}")
        if name in given:
            return Text(content=given[name])
    if constitution is not None and constitution.path is not None:
        given = observed.get(source_name("path", constitution.path))
        if given is None:
            return Text(path=f"{constitution.path.rstrip('/')}/{name}")
        if name in given:
            return Text(content=given[name])
    return Text(content=built_in(name, pocket=spec.assistant.pocket is not None))


def _datasets(spec: Spec, observed: Mapping[str, Mapping[str, str]]) -> dict[str, Text]:
    given = {
        "redTeam": spec.datasets.red_team,
        "helpfulness": spec.datasets.helpfulness,
        "preference": spec.datasets.preference,
    }
    found = {}
    for name, source in given.items():
        if source is None or source.config_map is None:
            continue
        wanted = source.config_map
        content = observed.get(source_name("configMap", wanted.name))
        if content is None:
            raise MissingTextError(f"ConfigMap {wanted.name}, of spec.datasets.{name}, does not exist")
        if wanted.key not in content:
            raise MissingTextError(f"ConfigMap {wanted.name}, of spec.datasets.{name}, has no key {wanted.key}")
        found[DATASET_FILES[name]] = Text(content=content[wanted.key])
    return found
