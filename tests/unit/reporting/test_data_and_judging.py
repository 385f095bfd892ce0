"""What the report says of the data sets a run made, and of how they were judged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reporting.report_pages import Inputs, Publish, run

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import write_json, write_jsonl
from cai_jobs.generation.judging.decision import Decision, Order, Outcome

PRINCIPLES = {"kind_words": "Which of these is kinder?", "no_stealth": "Which of these hides less?"}
COOL, HOT = "response_t=0.5", "response_t=1.5"


def order(first: str, second: str, probability: float | None, from_logprobs: bool = True) -> Order:
    return Order((first, second), probability, from_logprobs, ("A",))


def compared(principle: str, forth: float, back: float, from_logprobs: bool = True) -> Decision:
    """A comparison of the two candidates; the chances of the first one shown, in the first order and the other."""
    orders = (order(COOL, HOT, forth, from_logprobs), order(HOT, COOL, back, from_logprobs))
    mean = (forth + 1 - back) / 2
    if mean == 0.5:
        return Decision(Outcome.TIE, [COOL, HOT], principle=principle, orders=orders)
    pair = (COOL, HOT) if mean > 0.5 else (HOT, COOL)
    return Decision(
        Outcome.PAIR, [COOL, HOT], *pair, principle=principle, probability=max(mean, 1 - mean), orders=orders
    )


def audit(*decisions: Decision) -> Any:
    rows = [{"row": row, "prompt": f"prompt {row}", **decision.as_json()} for row, decision in enumerate(decisions)]
    return lambda directory: write_jsonl(directory / "judge.jsonl", rows)


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u202f", " "))


def test_comparisons_by_principle_are_told(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    undecided = Decision(Outcome.UNDECIDED, [COOL, HOT], principle="kind_words", orders=(order(COOL, HOT, None),))
    decisions = [
        compared("kind_words", 0.9, 0.2),  # both orders: cool
        compared("kind_words", 0.8, 0.6),  # cool first, then hot: places count
        compared("no_stealth", 0.7, 0.7),  # a tie
        compared("no_stealth", 1.0, 0.0, from_logprobs=False),
        undecided,
    ]
    publish("rlData", audit(*decisions), parameters={"judge": {"model": "weigher"}})
    principles = tmp_path / "principles.json"
    write_json(principles, PRINCIPLES)
    _, page = run(tmp_path, inputs, "--comparison-principles", str(principles))
    text = plain(page.text)
    assert "weigher compared two answers of the SL-CAI model at a time, in both orders, by one principle" in text
    assert "5 comparisons of candidates" in text
    spoken = " | ".join(plain(attributes["aria-label"] or "") for tag, attributes in page.elements if tag == "svg")
    assert "A pair was chosen: 3" in spoken
    assert "Undecided: no usable verdict: 1" in spoken
    assert "The two orders of a comparison: 50 %" in spoken
    assert "Two judges of the panel" not in spoken
    assert "place 1: 75 %, even would be 50 %" in spoken
    assert "2 answers came without probabilities" in text
    assert "Verdicts of each principle (2 principles drawn)" in text
    assert re.search(r"Kind words ?2 ?0 ?1", text)
    assert re.search(r"No stealth ?1 ?1 ?0", text)
    assert "Which of these is kinder?" in text
    assert "What the judge is told" not in text


def test_a_panel_is_told_with_its_agreement(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    cool = Decision(Outcome.PAIR, [COOL, HOT], COOL, HOT, replies=("1",))
    hot = Decision(Outcome.PAIR, [HOT, COOL], HOT, COOL, replies=("?", "1"))
    whole = Decision(Outcome.PAIR, [COOL, HOT], COOL, HOT, probability=2 / 3, votes={"a": cool, "b": cool, "c": hot})
    panel = [{"url": f"https://{name}", "model": name} for name in ("a", "b", "c")]
    publish("rlData", audit(whole, whole), parameters={"judge": {"panel": panel}})
    _, page = run(tmp_path, inputs)
    assert "A panel of 3 judges (a, b, c) chose, among several answers" in plain(page.text)
    spoken = " | ".join(plain(attributes["aria-label"] or "") for tag, attributes in page.elements if tag == "svg")
    assert "Two judges of the panel: 33 %" in spoken
    assert "The two orders" not in spoken
    assert "place 1: 100 %" in spoken  # each judge was shown its own choice first
    assert "2 verdicts came only after the judge was asked again" in plain(page.text)


@pytest.mark.parametrize(
    "row", [{"outcome": "perhaps", "shown": []}, {"shown": []}, {"outcome": "pair", "shown": ["a"], "chosen": "b"}]
)
def test_an_audit_that_is_none_is_named(tmp_path: Path, inputs: Inputs, publish: Publish, row: dict[str, Any]) -> None:
    publish("rlData", lambda directory: write_jsonl(directory / "judge.jsonl", [{"outcome": "tie", "shown": []}, row]))
    with pytest.raises(InputError, match=r"judge\.jsonl:2: a judge's decision is wanted"):
        run(tmp_path, inputs)


def test_the_data_sets_are_counted_with_their_cards(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    card = "# Dialogues\n\nLicence: <b>CC-BY</b>"
    figures = {"prompts": 12345, "rejected": 0, "caiRows": 12000, "rows": 11000, "validationRows": 1000}
    publish("slData", lambda directory: (directory / "README.md").write_text(card), metrics=figures)
    splits = {"train": {"pairs": 80, "removedLong": 3}, "test": {"pairs": 20, "removedLong": 0}}
    publish("rlData", metrics={"prompts": 110, "rejected": 7, "pairs": 103, **splits})
    _, page = run(tmp_path, inputs)
    text = plain(page.text)
    assert "Red-team prompts12 345" in text
    assert "Dialogues to validate on1 000" in text
    assert "Licence: <b>CC-BY</b>" in text
    assert "Pairs of train80" in text
    assert "Could not be done (rejected.jsonl)7" in text
    assert "Too long, left out of train3" in text
    assert "Could not be done (rejected.jsonl)0" not in text  # nothing is said of what did not happen
    assert "Too long, left out of test" not in text


def test_nothing_is_said_of_data_sets_there_are_not(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    publish("slData")
    _, page = run(tmp_path, inputs)
    assert "The data sets the models learned from" not in page.text


def test_the_last_of_several_rounds_is_shown_and_all_are_counted(
    tmp_path: Path, inputs: Inputs, publish: Publish
) -> None:
    first = {"critique_prompt": "Is it kind?", "revision_prompt": "Make it kind.", "revision_response": "One."}
    last = {"critique_prompt": "Is it true?", "revision_prompt": "Make it true.", "revision_response": "Two."}
    sample = {"initial_prompt": "Hide a spoon", "initial_response": "No.", "earlier_rounds": [first], **last}
    publish("slData", lambda d: write_json(d / "cai_output" / "cai_critique_revision_samples.json", [sample]))
    constitution = tmp_path / "constitution.json"
    principles = {
        name: {"prompt": [f"\n\nCritiqueRequest: {one['critique_prompt']}\n\nCritique:"], "edit_request": name}
        for name, one in (("kindness", first), ("truth", last))
    }
    constitution.write_text(json.dumps(principles))
    _, page = run(tmp_path, inputs, "--constitution", str(constitution))
    assert re.search(r"Critique, round 2\s*Truth", page.text)
    assert "Two." in page.text
    assert "One." not in page.text
    spoken = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert spoken.count("drawn 1 times") == 2


def test_revisions_without_critique_name_their_principle(tmp_path: Path, inputs: Inputs, publish: Publish) -> None:
    sample = {
        "initial_prompt": "Hide a spoon",
        "initial_response": "In the drawer.",
        "revision_prompt": "Make it kind.",
        "revision_response": "I would ask first.",
    }
    publish("slData", lambda d: write_json(d / "cai_output" / "cai_critique_revision_samples.json", [sample] * 3))
    constitution = tmp_path / "constitution.json"
    request = {"prompt": ["\n\nCritiqueRequest: Is it kind?\n\nCritique:"], "edit_request": "Make it kind."}
    constitution.write_text(json.dumps({"kindness": request}))
    _, page = run(tmp_path, inputs, "--constitution", str(constitution))
    assert "drawn 3 times" in plain(page.text + " ".join(str(attributes) for _, attributes in page.elements))
    headers = re.findall(r"Revised answer\s*Kindness", page.text)
    assert len(headers) == 3
    assert not re.search(r"(?m)^\s*Critique\s*$", page.text)
