"""Numbers, durations and sentences of the report."""

from typing import Any

import pytest

from cai_jobs.reporting import words


def plain(text: str) -> str:
    return text.replace(words.THIN_SPACE, " ")


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, "0 %"), (0.004, "0.4 %"), (0.184, "18 %"), (0.996, "99.6 %"), (1.0, "100 %"), (None, "–")],
)
def test_percent(share: float | None, said: str) -> None:
    assert plain(words.percent(share)) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (192, "3 min 12 s"), (5 * 3600 + 130, "5 h 02 min"), (187_300, "2 d 4 h")],
)
def test_duration(seconds: float, said: str) -> None:
    assert plain(words.duration(seconds)) == said


@pytest.mark.parametrize(("count", "said"), [(812, "812 B"), (4_240_000, "4.2 MB"), (3e15, "3000.0 TB")])
def test_size(count: float, said: str) -> None:
    assert plain(words.size(count)) == said


def rated(**rates: float) -> dict[str, dict[str, Any]]:
    return {
        name: {"harmfulRate": rate, "intervals": {"harmfulRate": [max(0, rate - 0.1), min(1, rate + 0.1)]}}
        for name, rate in rates.items()
    }


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, "No model of this run has been evaluated yet."),
        (rated(base=0.9), "90 % of base’s answers to red-team prompts are harmful."),
        (
            rated(base=0.9, slCai=0.2, rlCai=0.05),
            "Harmful answers fell from 90 % to 20 % after SL-CAI and 5 % after RL-CAI.",
        ),
        (rated(base=0.1, rlCai=0.3), "Harmful answers rose from 10 % to 30 % after RL-CAI."),
        (rated(base=0.1, slCai=0.1), "Harmful answers stayed where they were: 10 % before, 10 % after SL-CAI."),
    ],
)
def test_headline_says_what_changed(metrics: dict[str, dict[str, Any]], said: str) -> None:
    assert plain(words.headline(metrics)) == said


def test_overlapping_intervals_are_pointed_out() -> None:
    assert words.caution(rated(base=0.9, slCai=0.2)) == ""
    assert "cannot tell the two apart" in words.caution(rated(base=0.5, slCai=0.1, rlCai=0.4))
    assert words.caution(rated(base=0.5)) == ""


def test_nested_parameters_become_dotted_names() -> None:
    nested = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": True}], "f": None, "g": {}, "h": []}
    assert words.flatten(nested) == [
        ("a.b", "1"), ("a.c", "1, 2"), ("d[0].e", "True"), ("f", "–"), ("g", "–"), ("h", "–"),
    ]  # fmt: skip
