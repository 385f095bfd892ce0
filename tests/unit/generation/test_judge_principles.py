"""Principle mode: comparisons drawn, labels from log-probabilities, both orders, chains of thought, figures."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.generation.judge_fakes import Fake, completion, judge_of, letter, token, user_message

from cai_jobs.clients.remote import RefusedError
from cai_jobs.formats.constitution import ComparisonPrinciple
from cai_jobs.generation.judging.decision import Decision, Order, Outcome
from cai_jobs.generation.judging.endpoint import Reply, Token
from cai_jobs.generation.judging.figures import Figures
from cai_jobs.generation.judging.judge import JudgeSettings
from cai_jobs.generation.judging.principles import probability_of_first
from cai_jobs.generation.judging.replies import Option, parse_option
from cai_jobs.generation.judging.request import Comparison, parse_comparison

PRINCIPLES = tuple(ComparisonPrinciple(f"p{number}", f"Which answer is number {number}?") for number in range(4))
CANDIDATES = {f"response_t={number}": f"text {number}" for number in range(4)}
SETTINGS = JudgeSettings(seed=1, mode="principle", principles=PRINCIPLES)


def decide(*fakes: Fake, row: int = 0, settings: JudgeSettings = SETTINGS, candidates=CANDIDATES) -> list[Decision]:
    return asyncio.run(judge_of(settings, *fakes).decide(row, "Q?", candidates))


def asked(body: dict[str, Any]) -> Comparison:
    return parse_comparison(user_message(body))


def liking(probability: float, text: str = "text 0", bias: float = 0.0) -> Fake:
    """Prefers one text with that probability, moved towards whatever is shown first."""
    return Fake(lambda body: letter((probability if asked(body).first == text else 1 - probability) + bias))


TWO = {"response_a": "text 0", "response_b": "text 1"}


def test_both_orders_are_asked_and_averaged_so_that_places_cancel_out() -> None:
    fake = liking(0.6, bias=0.3)
    (decision,) = decide(fake, candidates=TWO)
    first, second = map(asked, fake.bodies)
    assert (first.first, first.second) == (second.second, second.first)
    assert first.principle == second.principle
    assert (decision.outcome, decision.chosen, decision.rejected) == (Outcome.PAIR, "response_a", "response_b")
    assert decision.probability == pytest.approx(0.6)
    assert [order.from_logprobs for order in decision.orders] == [True, True]
    assert decision.orders[0].shown == tuple(reversed(decision.orders[1].shown))


def test_the_request_asks_for_the_log_probabilities_of_one_letter() -> None:
    fake = liking(0.6)
    decide(fake, candidates=TWO)
    body = fake.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0.0)
    assert "letter alone" in user_message(body)
    assert "instruction" in body["messages"][0]["content"]


def test_a_place_liked_equally_in_both_orders_is_a_tie() -> None:
    (decision,) = decide(Fake(lambda _: letter(0.9)), candidates=TWO)
    assert (decision.outcome, decision.probability, decision.chosen) == (Outcome.TIE, None, None)
    (decision,) = decide(Fake(lambda _: "A"), candidates=TWO)
    assert decision.outcome is Outcome.TIE


def test_comparisons_principles_and_orders_follow_from_seed_and_row() -> None:
    def drawn(row: int, count: int | None) -> list[tuple[Any, ...]]:
        found = decide(liking(0.6), row=row, settings=replace(SETTINGS, comparisons_per_prompt=count))
        return [(decision.principle, *decision.shown) for decision in found]

    every = drawn(7, None)
    assert len(every) == 6
    assert len({frozenset(shown) for _, *shown in every}) == 6
    assert every == drawn(7, None)
    assert drawn(7, 2) == every[:2]
    rows = [drawn(row, 1)[0] for row in range(400)]
    assert all(70 < count < 130 for count in Counter(principle for principle, *_ in rows).values())
    assert all(70 < count < 130 for count in Counter(first for _, first, _ in rows).values())
    assert all(45 < count < 90 for count in Counter(frozenset(shown) for _, *shown in rows).values())


def test_without_log_probabilities_the_named_option_counts_as_sure() -> None:
    (decision,) = decide(Fake(lambda body: "(A)" if asked(body).first == "text 0" else "(B)"), candidates=TWO)
    assert (decision.outcome, decision.chosen, decision.probability) == (Outcome.PAIR, "response_a", 1.0)
    assert [order.from_logprobs for order in decision.orders] == [False, False]


def test_a_judge_that_refuses_log_probabilities_is_asked_without_them() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if body.get("top_logprobs", 0) > 5:
            return RefusedError("top_logprobs must be at most 5", 400)
        if "logprobs" in body:
            return RefusedError("this model does not support logprobs", 400)
        return "A" if asked(body).first == "text 0" else "B"

    fake = Fake(answer)
    (decision,) = decide(fake, candidates=TWO)
    assert decision.outcome is Outcome.PAIR
    assert not {"logprobs", "top_logprobs"} & fake.bodies[-1].keys()
    limited = Fake(
        lambda body: (
            RefusedError("top_logprobs: 5 at most", 422) if body["top_logprobs"] > 5 else liking(0.7).answer(body)
        )
    )
    (decision,) = decide(limited, candidates=TWO)
    assert decision.probability == pytest.approx(0.7)


def test_a_chain_of_thought_is_read_to_its_end_and_clamped() -> None:
    def answer(body: dict[str, Any]) -> Any:
        name = "A" if asked(body).first == "text 0" else "B"
        thoughts = [token("A is", A_is=0.5, B_is=0.5), token(" rude.\n", _rude=1.0), token("The answer is: (", x=1.0)]
        last = token(name, **{name: 0.99, "C": 0.001, "B" if name == "A" else "A": 0.009})
        return completion(f"A is rude.\nThe answer is: ({name})", [*thoughts, last, token(")", x=1.0)])

    fake = Fake(answer)
    settings = replace(SETTINGS, chain_of_thought=True)
    (decision,) = decide(fake, candidates=TWO, settings=settings)
    assert asked(fake.bodies[0]).chain_of_thought
    assert fake.bodies[0]["max_tokens"] > 500
    assert decision.probability == pytest.approx(0.6)
    assert "rude" in decision.explanation
    (free,) = decide(fake, candidates=TWO, settings=replace(settings, clamp=(0.0, 1.0)))
    assert free.probability == pytest.approx(0.99 / 0.999)


def test_an_order_without_an_option_is_asked_again_and_then_leaves_it_undecided() -> None:
    settings = replace(SETTINGS, chain_of_thought=True)

    def answer(body: dict[str, Any]) -> Any:
        return "A" if len(body["messages"]) > 2 and asked(body).first == "text 0" else "Hm."

    fake = Fake(answer)
    (decision,) = decide(fake, candidates=TWO, settings=settings)
    assert decision.outcome is Outcome.UNDECIDED
    assert not decision.repaired
    assert sorted(len(order.replies) for order in decision.orders) == [2, 2]
    assert decision.problem == "it names neither option A nor option B"
    again = fake.bodies[-1]["messages"]
    assert (again[2]["content"], again[3]["role"]) == ("Hm.", "user")
    assert "one letter" in again[3]["content"]
    refused = Fake(lambda _: RefusedError("too long", 400))
    (decision,) = decide(refused, candidates=TWO)
    assert decision.outcome is Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("text", "tokens", "probability"),
    [
        ("A", [("A", {"A": 0.6, "B": 0.2})], 0.75),
        ("(B)", [("(", {"(": 1.0}), ("B", {"A": 0.1, "B": 0.3, "b": 0.5}), (")", {")": 1.0})], 0.25),
        ("(B)", [("(B", {"(A": 0.1, "(B": 0.3}), (")", {")": 1.0})], 0.25),
        (" A", [("▁A", {"▁A": 0.5, "A": 0.1, "▁B": 0.2})], 0.75),
        ("B", [("B", {"B": 0.9, "Both": 0.05})], 0.0),
        ("b", [("b", {"a": 0.1, "b": 0.3})], 0.25),
        ("**A**", [("**", {"**": 1.0}), ("A", {"A": 0.9, "B": 0.1}), ("**", {"**": 1.0})], 0.9),
        ("Both are fine.", [("Both", {"Both": 0.6, "A": 0.1, "B": 0.3})], 0.25),
        ("Both are fine.", [("Both", {"Both": 0.6, "A": 0.1})], None),
        ("A", [("A", {"A": 1.0})], None),
        ("A", [("B", {"A": 0.4, "B": 0.6})], None),
        ("A", [], None),
    ],
)
def test_probabilities_are_normalised_over_the_two_options(
    text: str, tokens: list[tuple[str, dict[str, float]]], probability: float | None
) -> None:
    content = [token(name, **alternatives) for name, alternatives in tokens]
    read = tuple(
        Token(each["token"], {other["token"]: other["logprob"] for other in each["top_logprobs"]}) for each in content
    )
    option = parse_option(text, thought=False)
    found, from_logprobs = probability_of_first(Reply(text, read), option, thought=False)
    assert from_logprobs is (probability is not None)
    if probability is None:
        assert found == (float(option.letter == "A") if isinstance(option, Option) else None)
    else:
        assert found == pytest.approx(probability)


def test_a_panel_averages_labels_and_needs_a_majority() -> None:
    (decision,) = decide(liking(0.9), liking(0.6), liking(0.4), candidates=TWO)
    assert (decision.outcome, decision.chosen) == (Outcome.PAIR, "response_a")
    assert decision.probability == pytest.approx((0.9 + 0.6 + 0.4) / 3)
    assert decision.principle in {principle.name for principle in PRINCIPLES}
    (against,) = decide(liking(0.51), liking(0.51), liking(0.01), candidates=TWO)
    assert (against.outcome, against.problem) == (Outcome.TIE, "the judges are split")
    assert Decision.from_json(json.loads(json.dumps(decision.as_json()))) == decision


def order(first: str, second: str, probability: float | None, from_logprobs: bool = True) -> Order:
    return Order((first, second), probability, from_logprobs, ("A",))


def test_figures_of_principle_mode_by_hand() -> None:
    figures = Figures()
    agreed = Decision(
        Outcome.PAIR,
        ["a", "b"],
        "a",
        "b",
        principle="p",
        probability=0.7,
        orders=(order("a", "b", 0.8), order("b", "a", 0.4)),
    )
    swayed = replace(
        agreed,
        outcome=Outcome.TIE,
        chosen=None,
        rejected=None,
        probability=None,
        orders=(order("a", "b", 1.0, False), order("b", "a", 1.0, False)),
    )
    lost = replace(swayed, outcome=Outcome.UNDECIDED, principle="q", orders=(order("a", "b", None, False),) * 2)
    for decision in (agreed, swayed, lost):
        figures.add(decision)
    assert figures.values() == {
        **{"pairs": 1, "ties": 1, "undecided": 1, "tooFewCandidates": 0, "repaired": 0},
        "positionBias": {"1": 0.75, "2": 0.25},
        "orderAgreement": 0.5,
        "withoutLogprobs": 2,
        "perPrinciple": {
            "p": {"pairs": 1, "ties": 1, "undecided": 0},
            "q": {"pairs": 0, "ties": 0, "undecided": 1},
        },
    }


def test_figures_of_constitution_mode_and_of_a_panel_by_hand() -> None:
    figures = Figures()
    assert figures.values()["positionBias"] == {}
    one = Decision(Outcome.PAIR, ["a", "b", "c"], "a", "c", replies=("?", "1"))
    other = replace(one, chosen="c", rejected="a", replies=("1",))
    silent = Decision(Outcome.UNDECIDED, ["a", "b", "c"], replies=("?", "?"))
    figures.add(one)
    figures.add(replace(one, votes={"x": one, "y": one, "z": other, "w": silent}))
    figures.add(Decision(Outcome.TOO_FEW, ["a"]))
    assert figures.values() == {
        **{"pairs": 2, "ties": 0, "undecided": 0, "tooFewCandidates": 1, "repaired": 2},
        "positionBias": {"1": 0.75, "2": 0.0, "3": 0.25},
        "judgeAgreement": 0.3333,
    }
