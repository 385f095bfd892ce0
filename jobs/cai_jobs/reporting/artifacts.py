"""What the report reads of the artifacts: plain values, each absent where its stage did not run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts
from cai_jobs.contract.program import InputError
from cai_jobs.evaluation.rates import Kind, Label
from cai_jobs.evaluation.transcripts import Transcript, read_transcripts
from cai_jobs.formats.constitution import Principle
from cai_jobs.formats.json_array import read_array
from cai_jobs.formats.jsonl import read_json
from cai_jobs.formats.spool import Spool
from cai_jobs.reporting.words import MODELS, NODE_TITLES

EVALUATIONS: Mapping[str, str] = {"base": "evaluateBase", "slCai": "evaluateSlCai", "rlCai": "evaluateRlCai"}


@dataclass(frozen=True)
class Stage:
    """One published artifact: its node, manifest and last word."""

    node: str
    title: str
    directory: Path
    manifest: Mapping[str, Any]

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.manifest["started"])

    @property
    def finished(self) -> datetime:
        return datetime.fromisoformat(self.manifest["finished"])

    @property
    def digest(self) -> str:
        return str(artifacts.last_word(self.manifest)["artifact"]["digest"])

    @property
    def bytes(self) -> int:
        return int(artifacts.last_word(self.manifest)["artifact"]["bytes"])


@dataclass(frozen=True)
class Comparison:
    """One prompt and what every evaluated model answered: model name -> (answer, label)."""

    kind: Kind
    prompt: str
    answers: Mapping[str, tuple[str, Label | None]]


def read_stages(root: Path | None, inputs: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages of `inputs` (node -> artifact directory, relative to `root` or absolute), in the pipeline's order.

    Raises:
        InputError: a directory holds no artifact, or its manifest cannot be read.
    """
    order = [*NODE_TITLES, *(name for name in inputs if name not in NODE_TITLES)]
    stages = {}
    for node in (name for name in order if name in inputs):
        directory = (root or Path()) / str(inputs[node])
        manifest = artifacts.read(directory)
        if manifest is None:
            raise InputError(f"--inputs: {node}: {directory} holds no artifact (it has no {artifacts.MANIFEST})")
        stages[node] = Stage(node, NODE_TITLES.get(node, node), directory, manifest)
    return stages


def read_metrics(stages: Mapping[str, Stage]) -> dict[str, dict[str, Any]]:
    """`metrics.json` of each evaluated model, base first."""
    return {
        model: dict(read_json(stages[node].directory / "metrics.json"))
        for model, node in EVALUATIONS.items()
        if node in stages
    }


def read_comparisons(stages: Mapping[str, Stage]) -> list[Comparison]:
    """Every prompt that was asked, in order, with the answer of each evaluated model that was asked it."""
    answers: dict[tuple[Kind, str], dict[str, Transcript]] = {}
    for model, node in EVALUATIONS.items():
        if node in stages:
            for row in read_transcripts(stages[node].directory / "transcripts.jsonl"):
                answers.setdefault((row.kind, row.prompt), {})[model] = row
    return [
        Comparison(kind, prompt, {model: (row.answer, row.label) for model, row in found.items()})
        for (kind, prompt), found in answers.items()
    ]


def read_curve(stages: Mapping[str, Stage], node: str, phase: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of one metric of a training stage; empty where it was not logged.

    A line cut short by a crash is left out, as the training programs do.
    """
    path = stages[node].directory / "metrics.jsonl" if node in stages else None
    if path is None or not path.is_file():
        return []
    points = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("phase") == phase and isinstance(row.get(name), int | float):
            points.append((float(row["step"]), float(row[name])))
    return sorted(points)


def read_revisions(stages: Mapping[str, Stage]) -> Sequence[dict[str, Any]]:
    """The critique and revision samples of slData, kept out of memory; empty where there are none.

    Raises:
        InputError: the file is no JSON array.
    """
    if "slData" not in stages:
        return []
    path = stages["slData"].directory / "cai_output" / "cai_critique_revision_samples.json"
    if not path.is_file():
        return []
    return Spool(sample for sample in read_array(path) if isinstance(sample, dict))


def count_principles(samples: Iterable[Mapping[str, Any]], principles: Sequence[Principle]) -> dict[str, int]:
    """How often each principle's requests stand in the samples, all rounds; 0 for those never drawn."""
    by_critique = {principle.critique_request: principle.name for principle in principles}
    by_revision = {principle.revision_request: principle.name for principle in principles}
    counts = dict.fromkeys((principle.name for principle in principles), 0)
    for sample in samples:
        for turn in [sample, *sample.get("earlier_rounds", [])]:
            critique, revision = (str(turn.get(f"{name}_prompt", "")).strip() for name in ("critique", "revision"))
            name = by_critique.get(critique) if critique else by_revision.get(revision)
            if name is not None:
                counts[name] += 1
    return counts


def principles_of(samples: Iterable[Mapping[str, Any]]) -> list[Principle]:
    """The principles the samples themselves show, numbered, for when the constitution's file is not the one used."""
    requests = dict.fromkeys(
        (str(sample.get("critique_prompt", "")).strip(), str(sample.get("revision_prompt", "")).strip())
        for sample in samples
    )
    return [Principle(f"principle_{number}", *pair) for number, pair in enumerate(requests, start=1)]


def model_titles(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Names as printed of the models there are figures of."""
    return {name: title for name, title in MODELS.items() if name in metrics}
