"""One judge or a panel in constitution mode, and how endpoints are asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.unit.generation.judge_fakes import Fake, judge_of, user_message

from cai_jobs.clients.chat_address import chat_url
from cai_jobs.clients.remote import RefusedError
from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.formats.constitution import COMPARISON_PRINCIPLES, read_comparison_principles, read_principles
from cai_jobs.formats.constitution import INSTRUCTIONS as CRITIQUES
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.judging.endpoint import TRIES_FOR_A_COMPLETION
from cai_jobs.generation.judging.judge import EndpointSettings, JudgeSettings, make_judge
from cai_jobs.generation.judging.request import parse_request

CANDIDATES = {"response_t=1": "one", "response_t=2": "two", "response_t=3": "three"}
SETTINGS = JudgeSettings(seed=1, system_prompt="constitution")


def decide(*fakes: Fake, row: int = 0, settings: JudgeSettings = SETTINGS, candidates=CANDIDATES) -> Decision:
    (decision,) = asyncio.run(judge_of(settings, *fakes).decide(row, "Q?", candidates))
    return decision


def naming(chosen: str, rejected: str) -> Fake:
    """A judge that finds these texts among what it is shown, wherever they stand."""

    def answer(body: dict[str, Any]) -> str:
        shown = parse_request(user_message(body))[1]
        return json.dumps({"chosen": shown.index(chosen) + 1, "rejected": shown.index(rejected) + 1})

    return Fake(answer)


def test_the_order_shown_depends_on_seed_and_row_only() -> None:
    def shown(seed: int, row: int) -> list[str]:
        fake = Fake(lambda _: '{"chosen": 1, "rejected": 2}')
        return decide(fake, row=row, settings=JudgeSettings(seed=seed, system_prompt="c")).shown

    assert shown(1, 5) == shown(1, 5)
    first = [shown(1, row)[0] for row in range(300)]
    assert all(70 < first.count(key) < 130 for key in set(first)), "each is shown first about as often"
    assert [shown(2, row)[0] for row in range(300)] != first


def test_numbers_mean_candidates_as_shown() -> None:
    for row in range(6):
        fake = Fake(lambda _: '{"chosen": 3, "rejected": 1}')
        decision = decide(fake, row=row)
        seen = parse_request(user_message(fake.bodies[0]))[1]
        assert decision.outcome is Outcome.PAIR
        assert decision.chosen is not None
        assert decision.rejected is not None
        assert (CANDIDATES[decision.chosen], CANDIDATES[decision.rejected]) == (seen[2], seen[0])
        assert decision.probability is None


def test_an_unusable_reply_is_asked_again_once_with_its_problem() -> None:
    replies = iter(["no idea", '{"chosen": 1, "rejected": 2}'])
    fake = Fake(lambda _: next(replies))
    decision = decide(fake)
    assert (decision.outcome, decision.repaired) == (Outcome.PAIR, True)
    first, second = (body["messages"] for body in fake.bodies)
    assert second[:2] == first[:2]
    assert second[2] == {"role": "assistant", "content": "no idea"}
    assert "no JSON object" in second[3]["content"]


def test_ties_and_refusals_to_judge_are_no_pairs() -> None:
    tie = decide(Fake(lambda _: '{"chosen": 2, "rejected": 2}'))
    assert (tie.outcome, tie.chosen, len(tie.replies)) == (Outcome.TIE, None, 1)
    undecided = decide(Fake(lambda _: "no"))
    assert (undecided.outcome, undecided.repaired, len(undecided.replies)) == (Outcome.UNDECIDED, False, 2)


def test_equal_and_empty_candidates_are_not_shown() -> None:
    fake = Fake(lambda _: '{"chosen": 1, "rejected": 2}')
    assert sorted(decide(fake, candidates={"a": "x", "b": "x", "c": "  ", "d": "y"}).shown) == ["a", "d"]
    asked = len(fake.bodies)
    assert decide(fake, candidates={"a": "x", "b": "x"}).outcome is Outcome.TOO_FEW
    assert len(fake.bodies) == asked


def test_decisions_survive_a_journal() -> None:
    single = decide(Fake(lambda _: '{"chosen": 1, "rejected": 2, "explanation": "e"}'))
    panel = decide(naming("one", "two"), naming("one", "three"), naming("one", "two"))
    assert panel.votes
    for decision in (single, panel):
        assert Decision.from_json(json.loads(json.dumps(decision.as_json()))) == decision


def test_a_panel_votes_and_its_label_is_the_mean() -> None:
    decision = decide(naming("one", "two"), naming("one", "two"), naming("two", "one"))
    assert (decision.outcome, decision.chosen, decision.rejected) == (Outcome.PAIR, "response_t=1", "response_t=2")
    assert decision.probability == pytest.approx(2 / 3)
    assert [vote.chosen for vote in decision.votes.values()] == ["response_t=1", "response_t=1", "response_t=2"]
    half = decide(naming("one", "two"), naming("one", "two"), naming("three", "two"))
    assert half.probability == pytest.approx(2.5 / 3), "a vote on other candidates says nothing about these"


def test_a_split_panel_is_a_tie_and_a_judge_without_a_verdict_has_no_vote() -> None:
    split = decide(naming("one", "two"), naming("two", "one"))
    assert (split.outcome, split.problem) == (Outcome.TIE, "the judges are split")
    assert decide(naming("one", "two"), Fake(lambda _: "?")).outcome is Outcome.PAIR
    lost = decide(Fake(lambda _: "?"), Fake(lambda _: RefusedError("http://x refused (413): too long", 413)))
    assert lost.outcome is Outcome.UNDECIDED
    assert lost.problem is not None
    assert "no JSON object" in lost.problem


def test_a_refused_row_is_undecided_and_a_refused_key_ends_the_run() -> None:
    assert decide(Fake(lambda _: RefusedError("too long", 400))).outcome is Outcome.UNDECIDED
    with pytest.raises(InputError, match="refused"):
        decide(Fake(lambda _: RefusedError("refused (401)", 401)))


def test_a_judge_that_refuses_everything_ends_the_run() -> None:
    async def rows() -> None:
        judge = judge_of(SETTINGS, Fake(lambda _: RefusedError("model unknown", 400)))
        for row in range(30):
            await judge.decide(row, "Q?", CANDIDATES)

    with pytest.raises(InputError, match="model unknown"):
        asyncio.run(rows())


def test_what_is_no_chat_completion_is_asked_again_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai_jobs.generation.judging.endpoint.backoff", lambda _: 0.0)
    broken = Fake(lambda _: {"error": "busy"})
    with pytest.raises(RetryableError, match="no chat completion"):
        decide(broken)
    assert len(broken.bodies) == TRIES_FOR_A_COMPLETION
    answers = iter([{"choices": []}, {"choices": [{"message": "text"}]}, '{"chosen": 1, "rejected": 2}'])
    assert decide(Fake(lambda _: next(answers))).outcome is Outcome.PAIR
    empty = {"choices": [{"message": {"role": "assistant", "content": None}}]}
    assert decide(Fake(lambda _: empty)).outcome is Outcome.UNDECIDED


def test_fields_a_judge_does_not_know_are_left_out_from_then_on() -> None:
    def answer(body: dict[str, Any]) -> Any:
        for name in ("seed", "temperature"):
            if name in body:
                return RefusedError(f"unknown field {name}", 400)
        if "max_tokens" in body:
            return RefusedError("'max_tokens' is not supported, use 'max_completion_tokens'", 400)
        return '{"chosen": 1, "rejected": 2}'

    fake = Fake(answer)
    judge = judge_of(SETTINGS, fake)

    async def rows() -> None:
        await judge.decide(0, "Q?", CANDIDATES)
        await judge.decide(1, "Q?", CANDIDATES)

    asyncio.run(rows())
    assert len(fake.bodies) == 5
    assert fake.bodies[-1].keys() == {"model", "messages", "stream", "max_completion_tokens"}


def test_a_judge_with_little_room_is_asked_for_a_shorter_reply_row_by_row() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "long" in user_message(body) and body["max_tokens"] > 300:
            return RefusedError("800 tokens and 1024 are to be generated, but the model's context is 1024", 400)
        return '{"chosen": 1, "rejected": 2}'

    fake = Fake(answer)
    judge = judge_of(SETTINGS, fake)

    async def rows() -> list[Decision]:
        return [*await judge.decide(0, "a long one", CANDIDATES), *await judge.decide(1, "Q", CANDIDATES)]

    assert [decision.outcome for decision in asyncio.run(rows())] == [Outcome.PAIR, Outcome.PAIR]
    assert [body["max_tokens"] for body in fake.bodies] == [1024, 256, 1024]
    hopeless = Fake(lambda _: RefusedError("the model's context is 1024", 400))
    assert decide(hopeless).outcome is Outcome.UNDECIDED
    assert [body["max_tokens"] for body in hopeless.bodies] == [1024, 256, 64]


def test_a_row_that_speaks_of_fields_changes_nothing_for_others() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "seed" in user_message(body):
            return RefusedError("cannot judge 'which seed and temperature?'", 400)
        return '{"chosen": 1, "rejected": 2}'

    fake = Fake(answer)
    judge = judge_of(SETTINGS, fake)

    async def rows() -> list[Decision]:
        return [
            *await judge.decide(0, "which seed and temperature?", CANDIDATES),
            *await judge.decide(1, "Q", CANDIDATES),
        ]

    assert [decision.outcome for decision in asyncio.run(rows())] == [Outcome.UNDECIDED, Outcome.PAIR]
    assert {"seed", "temperature"} <= fake.bodies[-1].keys()


def test_concurrency_and_rate_hold_over_all_rows() -> None:
    fake = Fake(lambda _: '{"chosen": 1, "rejected": 2}')
    settings = JudgeSettings(seed=1, system_prompt="c", concurrency=3, rate=200.0)

    async def rows() -> float:
        judge = judge_of(settings, fake)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.gather(*(judge.decide(row, "Q?", CANDIDATES) for row in range(21)))
        assert judge.statistics()["calls"] == 21
        return loop.time() - begun

    assert asyncio.run(rows()) >= 20 / 200 - 0.01
    assert fake.most <= 3


def test_the_served_model_judges_itself_and_is_not_closed() -> None:
    fake = Fake(lambda _: '{"chosen": 1, "rejected": 2}')

    async def rows() -> Decision:
        async with await make_judge(SETTINGS, fake) as judge:
            assert judge.parameters()["judge models"] == "self"
            return (await judge.decide(0, "Q?", CANDIDATES))[0]

    assert asyncio.run(rows()).outcome is Outcome.PAIR
    assert fake.bodies[0]["model"] == "served"
    assert not fake.closed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"endpoints": ()}, "no judge is named"),
        ({"system_prompt": " "}, "system prompt"),
        ({"mode": "principle"}, "one comparison principle"),
        ({"mode": "vote"}, "modes constitution and principle"),
        ({"chain_of_thought": True}, "for principle mode"),
        ({"clamp": (0.6, 0.4)}, "cannot be clamped"),
        ({"comparisons_per_prompt": 0}, "at least 1"),
        ({"concurrency": 0}, "at least 1"),
        ({"rate": 0.0}, "more than 0"),
        ({"endpoints": (EndpointSettings("ftp://x", "m"),)}, "no http or https address"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], sentence: str) -> None:
    settings = {"seed": 1, "system_prompt": "c", "endpoints": (EndpointSettings("http://x", "m"),), **change}
    with pytest.raises(InputError, match=sentence):
        asyncio.run(make_judge(JudgeSettings(**settings)))


def test_parameters_and_printed_settings_tell_neither_keys_nor_addresses() -> None:
    endpoints = (EndpointSettings("http://secret.host", "m", "secret-key", "KEY_1"), EndpointSettings("http://b", "m"))

    async def made() -> str:
        settings = JudgeSettings(seed=1, system_prompt="c", endpoints=endpoints)
        async with await make_judge(settings) as judge:
            assert "secret-key" not in repr(settings)
            return json.dumps(judge.parameters())

    assert "secret" not in asyncio.run(made())


@pytest.mark.parametrize("url", ["http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/chat/completions"])
def test_an_address_may_be_given_in_part(url: str) -> None:
    assert chat_url(url) == "http://a:1/v1/chat/completions"


def test_an_address_keeps_its_own_path_and_query() -> None:
    whole = "https://a/openai/deployments/m/chat/completions?api-version=2"
    assert chat_url(whole) == whole
    assert chat_url("https://a/v1?x=/chat/completions") == "https://a/v1/chat/completions?x=/chat/completions"


def test_the_comparison_principles_shipped_are_those_of_the_critiques() -> None:
    found = read_comparison_principles(COMPARISON_PRINCIPLES)
    assert [principle.name for principle in found] == [principle.name for principle in read_principles(CRITIQUES)]
    assert all(principle.question.startswith("Which answer") for principle in found)
    assert len({principle.question for principle in found}) == len(found) >= 12


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": 5}', '{"a": " "}', '{"a": ["b"]}'])
def test_a_file_of_other_principles_is_refused_with_its_name(tmp_path, text: str) -> None:
    path = tmp_path / "principles.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"principles\.json"):
        read_comparison_principles(path)
