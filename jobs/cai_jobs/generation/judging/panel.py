"""What several judges say together: the pair that more of them name than any other, with the mean of their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cai_jobs.generation.judging.decision import Decision, Outcome

SPLIT = "the judges are split"


def combine(votes: Mapping[str, Decision], shown: Sequence[str], principle: str | None = None) -> Decision:
    """One decision out of those of several judges on the same candidates.

    Judges without a verdict have no vote. Where no pair, and no tie, has more votes than every other, and where the
    mean soft label speaks against the pair with the most votes, the outcome is a tie. A vote's label for the pair is
    its probability, where it has one; else 1 for the pair, 0 for the pair reversed, and one half for anything else.

    Args:
        votes: at least one, by the judges' names.
        shown: the candidates' keys as they were shown.
    """
    decided = [vote for vote in votes.values() if vote.outcome in (Outcome.PAIR, Outcome.TIE)]
    undecided = Decision(Outcome.UNDECIDED, list(shown), principle=principle, votes=dict(votes))
    if not decided:
        return replace(undecided, problem="; ".join(f"{name}: {vote.problem}" for name, vote in votes.items()))
    ranked = Counter((vote.chosen, vote.rejected) for vote in decided).most_common(2)
    (chosen, rejected), most = ranked[0]
    if len(ranked) > 1 and ranked[1][1] == most:
        return replace(undecided, outcome=Outcome.TIE, problem=SPLIT)
    if chosen is None or rejected is None:
        return replace(undecided, outcome=Outcome.TIE)
    probability = sum(_label(vote, chosen, rejected) for vote in decided) / len(decided)
    if probability < 0.5:
        return replace(undecided, outcome=Outcome.TIE, problem=SPLIT)
    told = next(vote.explanation for vote in decided if (vote.chosen, vote.rejected) == (chosen, rejected))
    return replace(
        undecided,
        outcome=Outcome.PAIR,
        chosen=chosen,
        rejected=rejected,
        explanation=told,
        probability=probability,
    )


def _label(vote: Decision, chosen: str, rejected: str) -> float:
    named = (vote.chosen, vote.rejected)
    if named == (chosen, rejected):
        return 1.0 if vote.probability is None else vote.probability
    if named == (rejected, chosen):
        return 0.0 if vote.probability is None else 1 - vote.probability
    return 0.5
