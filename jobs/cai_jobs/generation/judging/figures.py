"""Numbers by which a run's judging can be told sound: counted decision by decision, in constant memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from cai_jobs.generation.judging.decision import Decision, Outcome

_OUTCOMES = {
    Outcome.PAIR: "pairs",
    Outcome.TIE: "ties",
    Outcome.UNDECIDED: "undecided",
    Outcome.TOO_FEW: "tooFewCandidates",
}


class Figures:
    """Counts over decisions. `values` holds

    - pairs, ties, undecided, tooFewCandidates, repaired: decisions of each kind; repaired ones are among the others.
    - positionBias: place (from 1) -> the share of single judges' preferences for the candidate shown there; 1 over the
      number of places each, if places count for nothing.
    - orderAgreement (principle mode): the share of comparisons in which a judge preferred the same candidate in both
      orders, of those where it had a preference in both.
    - withoutLogprobs (principle mode): orders decided by the named option alone, for want of log-probabilities.
    - judgeAgreement (panel): the share of pairs of judges that said the same, of all pairs in which both had a verdict.
    - perPrinciple (principle mode): name -> {"pairs", "ties", "undecided"}.
    """

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._places: Counter[int] = Counter()
        self._orders: Counter[bool] = Counter()
        self._judges: Counter[bool] = Counter()
        self._principles: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._repaired = 0
        self._orders_decided = 0
        self._without_logprobs = 0

    def add(self, decision: Decision) -> None:
        """Count one more."""
        self._outcomes[_OUTCOMES[decision.outcome]] += 1
        self._repaired += decision.repaired
        if decision.principle is not None:
            self._principles[decision.principle][_OUTCOMES[decision.outcome]] += 1
        for single in decision.singles():
            self._add_places(single)
        verdicts = [
            (vote.chosen, vote.rejected)
            for vote in decision.votes.values()
            if vote.outcome in (Outcome.PAIR, Outcome.TIE)
        ]
        for place, verdict in enumerate(verdicts):
            self._judges.update(verdict == other for other in verdicts[place + 1 :])

    def values(self) -> dict[str, Any]:
        """The numbers so far; see the class."""
        preferences = self._places.total()
        found: dict[str, Any] = {name: self._outcomes[name] for name in _OUTCOMES.values()}
        found["repaired"] = self._repaired
        found["positionBias"] = {
            str(place): round(self._places[place] / preferences, 4) for place in sorted(self._places)
        }
        if self._orders_decided:
            found["orderAgreement"] = _share(self._orders)
            found["withoutLogprobs"] = self._without_logprobs
        if self._judges:
            found["judgeAgreement"] = _share(self._judges)
        if self._principles:
            kinds = ("pairs", "ties", "undecided")
            found["perPrinciple"] = {
                name: {kind: counts[kind] for kind in kinds} for name, counts in sorted(self._principles.items())
            }
        return found

    def _add_places(self, decision: Decision) -> None:
        if not decision.orders:
            if decision.chosen is not None:
                self._prefer(decision.shown.index(decision.chosen) + 1, len(decision.shown))
            return
        preferred = []
        for order in decision.orders:
            if order.probability is None:
                continue
            self._orders_decided += 1
            self._without_logprobs += not order.from_logprobs
            if order.probability != 0.5:
                place = 0 if order.probability > 0.5 else 1
                self._prefer(place + 1, 2)
                preferred.append(order.shown[place])
        if len(preferred) == 2:
            self._orders[preferred[0] == preferred[1]] += 1

    def _prefer(self, place: int, places: int) -> None:
        # places nobody prefers are shown, too
        self._places.update({each: int(each == place) for each in range(1, places + 1)})


def _share(counts: Counter[bool]) -> float | None:
    return round(counts[True] / counts.total(), 4) if counts.total() else None
