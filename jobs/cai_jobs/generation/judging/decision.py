"""What a judge, or several, made of one comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """PAIR: one candidate was preferred to another. TIE: the same one was named twice, both orders or a panel cancelled
    out. UNDECIDED: no usable verdict in two replies. TOO_FEW: fewer than two different candidates, so nobody was asked.
    """

    PAIR = "pair"
    TIE = "tie"
    UNDECIDED = "undecided"
    TOO_FEW = "tooFew"


@dataclass(frozen=True)
class Order:
    """Principle mode: what was said of two candidates shown in one order.

    Attributes:
        shown: their keys; the first was option A.
        probability: that the first one is the better, 0..1, clamped where there was a chain of thought; None where no
            option was named.
        from_logprobs: whether it was read off log-probabilities; else it is 1 for the option named and 0 for the other.
        replies: every reply, in order; two where the judge was asked again.
        problem: why the last reply could not be used, where it could not.
    """

    shown: tuple[str, str]
    probability: float | None
    from_logprobs: bool
    replies: tuple[str, ...]
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "shown": list(self.shown), "replies": list(self.replies)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Order:
        first, second = value["shown"]
        return cls(**{**value, "shown": (first, second), "replies": tuple(value["replies"])})


@dataclass(frozen=True)
class Decision:
    """What came of one comparison.

    Attributes:
        shown: the keys of the candidates in the order the judge saw them; in principle mode, as it saw them first.
        chosen, rejected: keys of `shown`, None unless the outcome is a pair.
        explanation: the judge's reason, where it gave one.
        replies: constitution mode: every reply, in order; two where the judge was asked again.
        problem: why there is no verdict, where there is none.
        principle: principle mode: the name of the one the judge went by.
        probability: that `chosen` is better than `rejected`, 0.5..1: the soft label of a pair in principle mode or of a
            panel.
        orders: principle mode with one judge: what it said in either order.
        votes: of a panel: the judge's name -> its own decision.
    """

    outcome: Outcome
    shown: list[str]
    chosen: str | None = None
    rejected: str | None = None
    explanation: str = ""
    replies: tuple[str, ...] = ()
    problem: str | None = None
    principle: str | None = None
    probability: float | None = None
    orders: tuple[Order, ...] = ()
    votes: dict[str, Decision] = field(default_factory=dict)

    @property
    def repaired(self) -> bool:
        """Whether it took a second reply to get a usable verdict, of any judge."""
        if self.votes:
            return any(vote.repaired for vote in self.votes.values())
        asked_again = len(self.replies) > 1 or any(len(order.replies) > 1 for order in self.orders)
        return asked_again and self.outcome is not Outcome.UNDECIDED

    def singles(self) -> Iterator[Decision]:
        """The decisions of single judges: a panel's votes, or this one."""
        yield from self.votes.values() or (self,)

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "outcome": str(self.outcome),
            "replies": list(self.replies),
            "orders": [order.as_json() for order in self.orders],
            "votes": {name: vote.as_json() for name, vote in self.votes.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Decision:
        return cls(
            **{
                **value,
                "outcome": Outcome(value["outcome"]),
                "replies": tuple(value["replies"]),
                "orders": tuple(Order.from_json(order) for order in value["orders"]),
                "votes": {name: cls.from_json(vote) for name, vote in value["votes"].items()},
            }
        )
