"""How many rows came into the data sets the run made, and what was left out on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cai_jobs.reporting.artifacts import Stage

CARD = "README.md"
LONGEST_CARD = 20_000

REVISIONS: Mapping[str, str] = {
    "removedDuplicates": "Duplicates, left out",
    "prompts": "Red-team prompts",
    "rejected": "Could not be done (rejected.jsonl)",
    "caiRows": "Revised answers",
    "helpfulnessRows": "Helpful dialogues blended in",
    "removedLong": "Too long, left out",
    "rows": "Dialogues to train on",
    "validationRows": "Dialogues to validate on",
}
PREFERENCES: Mapping[str, str] = {
    "prompts": "Red-team prompts",
    "rejected": "Could not be done (rejected.jsonl)",
    "pairs": "Pairs the judge chose",
}
SPLIT: Mapping[str, str] = {
    "removedLong": "Too long, left out of {}",
    "pairs": "Pairs of {}",
    "blendedComparisons": "Pairs of {}, human ones blended in",
    "blendedPrompts": "Prompts of {} for PPO, others blended in",
}


@dataclass(frozen=True)
class DataSet:
    """One data set the run made.

    Attributes:
        title: its name as printed.
        counts: what is counted, in the order in which it came about -> how many; nothing that is not there.
        card: the text of its card, cut where it is long; empty where it has none.
    """

    title: str
    counts: Mapping[str, int]
    card: str

    @property
    def most(self) -> int:
        """The largest of the counts."""
        return max(self.counts.values(), default=0)


def read_data_sets(stages: Mapping[str, Stage]) -> list[DataSet]:
    """The data sets of slData and rlData, as far as these stages ran and tell their counts."""
    told = {"slData": ("For supervised fine-tuning", _revisions), "rlData": ("For the reward model and PPO", _pairs)}
    found = []
    for node, (title, counts_of) in told.items():
        if node in stages:
            counts = dict(counts_of(stages[node].manifest.get("metrics", {})))
            found.append(DataSet(title, counts, _card(stages[node])))
    return [data for data in found if data.counts or data.card]


def _revisions(metrics: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    return _counted(metrics, REVISIONS)


def _pairs(metrics: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from _counted(metrics, PREFERENCES)
    for split, figures in metrics.items():
        if isinstance(figures, Mapping) and "pairs" in figures and "removedLong" in figures:
            yield from _counted(figures, {name: words.format(split) for name, words in SPLIT.items()})


def _counted(metrics: Mapping[str, Any], titles: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Counts with their titles; what was left out is told only where something was."""
    for name, words in titles.items():
        count = metrics.get(name)
        if isinstance(count, int) and (count or not words.startswith(("Could", "Duplicates", "Too"))):
            yield words, count


def _card(stage: Stage) -> str:
    path = stage.directory / CARD
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(LONGEST_CARD + 1)
    return text if len(text) <= LONGEST_CARD else f"{text[:LONGEST_CARD]} …"
