"""The judge's audit file summed up for the report, comparison by comparison: memory does not grow with its length."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import read_jsonl
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.judging.figures import Figures
from cai_jobs.reporting.artifacts import Stage

AUDIT = "judge.jsonl"
_FIELDS = frozenset(known.name for known in fields(Decision))


@dataclass
class Verdicts:
    """What the judge's audit file says of the comparisons it was asked for.

    Attributes:
        outcomes: how many ended in which outcome.
        chosen_places: how often the candidate shown at place 1, 2, … was chosen, of every judge and in every order.
        even_share: the share of each place if places did not matter.
        temperatures: how often the candidate of each temperature was chosen.
        repaired: comparisons with a reply that could not be used and a later one that could.
        pairwise: whether two candidates were compared at a time, in both orders.
        order_agreement, judge_agreement, without_logprobs, principles: see `Figures`; None, 0 and empty where there is
            nothing of the kind.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    chosen_places: Counter[int] = field(default_factory=Counter)
    even_share: dict[int, float] = field(default_factory=dict)
    temperatures: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    pairwise: bool = False
    order_agreement: float | None = None
    judge_agreement: float | None = None
    without_logprobs: int = 0
    principles: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read_verdicts(stages: Mapping[str, Stage]) -> Verdicts | None:
    """The judge's audit file of rlData summed up; None where there is none.

    Raises:
        InputError: a row of it is no decision.
    """
    path = stages["rlData"].directory / AUDIT if "rlData" in stages else None
    if path is None or not path.is_file() or not path.stat().st_size:
        return None
    verdicts, figures = Verdicts(), Figures()
    even: dict[int, float] = defaultdict(float)
    for number, row in read_jsonl(path):
        try:
            decision = _decision(row)
            figures.add(decision)
            _add(verdicts, even, decision)
        except (TypeError, ValueError, KeyError, AttributeError) as problem:
            raise InputError(f"{path}:{number}: a judge's decision is wanted ({problem})") from problem
    choices = verdicts.chosen_places.total()
    verdicts.even_share = {place: round(share / choices, 6) for place, share in even.items()}
    found = figures.values()
    verdicts.order_agreement, verdicts.judge_agreement = found.get("orderAgreement"), found.get("judgeAgreement")
    verdicts.without_logprobs = found.get("withoutLogprobs", 0)
    verdicts.principles = found.get("perPrinciple", {})
    return verdicts


def _decision(row: Mapping[str, Any]) -> Decision:
    given = {name: value for name, value in row.items() if name in _FIELDS}
    return Decision.from_json({"replies": [], "orders": [], "votes": {}, **given})


def _add(verdicts: Verdicts, even: dict[int, float], decision: Decision) -> None:
    verdicts.outcomes[decision.outcome] += 1
    verdicts.repaired += decision.repaired
    if decision.chosen is not None:
        verdicts.temperatures[decision.chosen.removeprefix("response_t=")] += 1
    for single in decision.singles():
        verdicts.pairwise = verdicts.pairwise or bool(single.orders)
        for place, shown in _choices(single):
            verdicts.chosen_places[place] += 1
            for each in range(1, shown + 1):
                even[each] += 1 / shown


def _choices(decision: Decision) -> Iterator[tuple[int, int]]:
    """(place of the candidate named, candidates shown) of each time one judge was asked and preferred one."""
    for order in decision.orders:
        if order.probability is not None and order.probability != 0.5:
            yield (1 if order.probability > 0.5 else 2), len(order.shown)
    if not decision.orders and decision.chosen is not None:
        yield decision.shown.index(decision.chosen) + 1, len(decision.shown)
