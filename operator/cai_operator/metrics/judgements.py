"""How many judgements a finished stage tells of in its metrics, and how many of them ended without a verdict.

rlData counts comparisons (`generation/judging/figures.py`), evaluation comparisons and, where a judge labels, labels
(`evaluation/rates.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from cai_operator.observing.objects import Raw, mapping, number


@dataclass(frozen=True)
class Judgements:
    """Counts; a tie is a verdict."""

    decided: int
    undecided: int

    @property
    def all(self) -> int:
        """Both together."""
        return self.decided + self.undecided


def judgements(metrics: Raw) -> Judgements:
    """The judgements in the metrics of a finished program; none where there was no judge."""
    decided, undecided = number(metrics, "pairs") + number(metrics, "ties"), number(metrics, "undecided")
    if metrics.get("classifier") == "judge":
        for counts in mapping(metrics, "counts").values():
            without = number(counts, "unlabelled")
            decided += number(counts, "prompts") - without + number(counts, "compared")
            undecided += without + number(counts, "undecided")
    return Judgements(decided, undecided)
