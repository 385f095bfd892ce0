"""The built-in constitution: complete, in the reference's file formats, and one text throughout its three files."""

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

ROLES = ["User", "Assistant"] * 3


def _text(name: str) -> str:
    return (files("cai_jobs") / "data" / "constitution" / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def principles() -> dict[str, dict[str, object]]:
    return dict(json.loads(_text("critique_revision_instructions.json")))


@pytest.fixture(scope="module")
def dialogues() -> list[list[dict[str, str]]]:
    return list(json.loads(_text("few_shot_samples.json"))["samples"])


def _stripped(principle: dict[str, object]) -> tuple[str, str]:
    critique, revision = principle["prompt"], principle["edit_request"]
    assert isinstance(critique, list)
    assert len(critique) == 1
    wrapped_critique = re.fullmatch(r"\n\nCritiqueRequest: (\S.*\S)\n\nCritique:", critique[0])
    wrapped_revision = re.fullmatch(r"\n\nRevisionRequest: (\S.*\S)\n\nRevision:", str(revision))
    assert wrapped_critique, critique[0]
    assert wrapped_revision, revision
    return wrapped_critique[1], wrapped_revision[1]


def test_there_are_at_least_sixteen_principles_each_with_critique_and_revision_request(
    principles: dict[str, dict[str, object]],
) -> None:
    assert len(principles) >= 16
    for name, principle in principles.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert set(principle) == {"prompt", "edit_request"}
        critique, revision = _stripped(principle)
        assert critique != revision


def test_no_request_stands_twice(principles: dict[str, dict[str, object]]) -> None:
    requests = [request for principle in principles.values() for request in _stripped(principle)]
    sentences = [sentence for request in requests for sentence in re.split(r"(?<=[.?!]) ", request)]
    assert [text for text, count in Counter(sentences).items() if count > 1] == []


def test_few_shot_dialogues_have_six_turns_and_use_the_constitutions_own_requests(
    principles: dict[str, dict[str, object]], dialogues: list[list[dict[str, str]]]
) -> None:
    assert 3 <= len(dialogues) <= 4
    pairs = [_stripped(principle) for principle in principles.values()]
    for dialogue in dialogues:
        assert [turn["role"] for turn in dialogue] == ROLES
        assert all(turn["content"].strip() == turn["content"] != "" for turn in dialogue)
        assert (dialogue[2]["content"], dialogue[4]["content"]) in pairs


def test_few_shot_dialogues_differ_in_prompt_and_principle(dialogues: list[list[dict[str, str]]]) -> None:
    for turn in (0, 1, 2, 3, 5):
        assert len({dialogue[turn]["content"] for dialogue in dialogues}) == len(dialogues)


def test_judge_prompt_holds_a_numbered_sentence_for_every_principle(principles: dict[str, dict[str, object]]) -> None:
    numbered = re.findall(r"^(\d+)\. (\S.*)$", _text("judge_system_prompt.txt"), flags=re.MULTILINE)
    assert [int(number) for number, _ in numbered] == list(range(1, len(principles) + 1))
    assert len({sentence for _, sentence in numbered}) == len(principles)


def test_judge_prompt_shows_the_verdict_it_asks_for() -> None:
    text = _text("judge_system_prompt.txt")
    verdict = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert set(verdict) == {"chosen", "rejected", "explanation"}
    assert verdict["chosen"] != verdict["rejected"]
