"""The dataset card of the reinforcement stage's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.formats.comparisons import KINDS, file_name, read_pairs, read_texts
from cai_jobs.generation import card
from cai_jobs.generation.card import Card, Source
from cai_jobs.generation.judging.judge import JudgeSettings
from cai_jobs.generation.rl_outputs import Blend, Plan, blend_file

RED_TEAM = "redTeam"
TITLE = "Constitutional AI preference data"
SUMMARY = (
    "Prompts and comparisons for a reward model and PPO. A model answered red-team prompts at several temperatures and "
    "{judges} chose between the answers by {by}. No comparison was decided by chance: what got no verdict is left out. "
    "In a comparisons file the first line of each two is the chosen text."
)
COUNTS = {
    "prompts": "prompts used",
    "rejected": "prompts rejected",
    "pairs": "preference pairs",
    "ties": "ties",
    "undecided": "comparisons without a verdict",
    "tooFewCandidates": "prompts with fewer than two different answers",
    "repaired": "verdicts that took a second reply",
    "orderAgreement": "share of comparisons judged alike in both orders",
    "judgeAgreement": "share of judges' verdicts that were alike",
    "withoutLogprobs": "orders judged without log-probabilities",
    "positionBias": "Preferences by the place an answer was shown in",
}


def sources(red_team: Path, rows: int, blend: Blend | None, given: Sequence[str]) -> list[Source]:
    """The files the data are made from, those to blend with read once, so that mistakes in them are found early.

    Args:
        rows: of the red-team file.
        given: values of --license, NAME=TEXT, the names being redTeam and the blend's.

    Raises:
        InputError: a licence is for no source, or a file to blend with is no prompts or comparisons file.
    """
    found = [(RED_TEAM, red_team, rows)]
    if blend is not None:
        name, splits = blend
        kinds = {path: kind for files in splits.values() for kind, paths in files.items() for path in paths}
        found += [(name, path, _rows(path, kind)) for path, kind in kinds.items()]
    licences = card.licences(given, {name: path for name, path, _ in reversed(found)})
    return [Source(name, path, count, licences[name]) for name, path, count in found]


def write(
    path: Path,
    plan: Plan,
    figures: Mapping[str, Any],
    found: Sequence[Source],
    constitution: Path,
    settings: Mapping[str, Any],
    judging: JudgeSettings,
) -> None:
    """Write the card of a run.

    Args:
        figures: of `write_outputs`, with "prompts" and "rejected".
        found: what `sources` found.
        constitution: what the judge was told.
        settings: JSON values the data depend on, by name.
    """
    judges = [endpoint.model for endpoint in judging.endpoints] or ["the model itself"]
    by_principle = judging.mode == "principle"
    by = "one principle of the constitution at a time" if by_principle else "the whole constitution"
    card.write(
        path,
        Card(
            title=TITLE,
            summary=SUMMARY.format(judges=", ".join(judges), by=by),
            configs=_configs(plan),
            sources=found,
            counts=_counts(figures, plan),
            constitution={"comparison principles" if by_principle else "judge's system prompt": constitution},
            settings=settings,
        ),
    )


def _rows(path: Path, kind: str) -> int:
    return 2 * sum(1 for _ in read_pairs(path)) if kind == "comparisons" else sum(1 for _ in read_texts(path))


def _configs(plan: Plan) -> dict[str, dict[str, str]]:
    names = {kind: {split: file_name(plan.prefix, split, kind) for split in plan.shares} for kind in KINDS}
    if plan.blend is None:
        return names
    blend = plan.blend[0]
    blended = {
        f"{blend}_{kind}": {split: blend_file(blend, name) for split, name in files.items()}
        for kind, files in names.items()
    }
    return names | blended


def _counts(figures: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    counts = {words: figures[name] for name, words in COUNTS.items() if figures.get(name) is not None}
    if "perPrinciple" in figures:
        counts["Pairs by principle"] = {name: found["pairs"] for name, found in figures["perPrinciple"].items()}
    return counts | {f"Split {split}": figures[split] for split in plan.shares}
