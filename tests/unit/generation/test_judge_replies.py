"""What judges write, and what is read out of it; the replies are data, each with the verdict expected."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cai_jobs.generation.judging.replies import Option, Verdict, parse_option, parse_verdict

COUNT = 4
REPLIES = [json.loads(line) for line in Path(__file__).with_name("judge_replies.jsonl").read_text("utf-8").splitlines()]


def test_the_corpus_holds_every_kind_of_reply_for_both_modes() -> None:
    kinds = Counter((entry["mode"], entry["kind"]) for entry in REPLIES)
    assert len(REPLIES) >= 60
    for mode in ("constitution", "principle"):
        assert {kind for found, kind in kinds if found == mode} == {"good", "sloppy", "none", "hostile", "language"}
    assert len({(entry["mode"], entry["name"]) for entry in REPLIES}) == len(REPLIES)


@pytest.mark.parametrize("entry", REPLIES, ids=lambda entry: f"{entry['mode']}: {entry['kind']}: {entry['name']}")
def test_a_reply_is_read_as_a_person_reads_it(entry: dict[str, Any]) -> None:
    shown = entry.get("shown", ())
    if entry["mode"] == "constitution":
        verdict = parse_verdict(entry["reply"], COUNT, shown)
        found: Any = {"chosen": verdict.chosen, "rejected": verdict.rejected} if isinstance(verdict, Verdict) else None
        problem: Any = verdict
    else:
        problem = parse_option(entry["reply"], thought=entry.get("thought", False), shown=shown)
        found = problem.letter if isinstance(problem, Option) else None
        if found:
            assert entry["reply"][problem.position].upper() == found
    assert found == entry["expected"], problem
    assert found or (isinstance(problem, str) and problem)
