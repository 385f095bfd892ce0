"""Rows of the reinforcement stage against a server and a judge that are functions, and the files made of them."""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cai_jobs.clients.inference import Refused
from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.formats.chat import EXTRA_ID
from cai_jobs.generation import rl, rl_outputs
from cai_jobs.generation.journal import Journal
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.rejected import RejectedRows
from cai_jobs.generation.rl import Rows

TEMPERATURES = [0.5, 1.0, 1.5]
KEYS = [rl.response_key(temperature) for temperature in TEMPERATURES]


class Server:
    """Answers "<prompt> at <temperature>" after a moment."""

    def __init__(self, group: int = 1, refuse: str | None = None) -> None:
        self.group, self.refuse = group, refuse
        self.asked: list[tuple[str, list[int]]] = []
        self.at_once = self.most_at_once = 0

    async def answers(
        self, step: str, rows: Sequence[int], dialogues: Sequence[list[dict]], temperature: float | None = None
    ) -> list[str | Refused]:
        self.asked.append((step, list(rows)))
        self.at_once += len(rows)
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(random.uniform(0, 0.002))
        self.at_once -= len(rows)
        texts = [dialogue[-1]["content"] for dialogue in dialogues]
        return [Refused("too long") if text == self.refuse else f"{text} at {temperature}" for text in texts]

    def statistics(self) -> dict[str, float]:
        return {"retries": 0, "tokens": 10}


class Judge:
    """Prefers the first shown key to the last; `fail` is the row at which it is gone, `deaf` the one it refuses."""

    def __init__(self, fail: int | None = None, deaf: int | None = None, decisions: int = 1) -> None:
        self.fail, self.deaf, self.decisions = fail, deaf, decisions
        self.asked: list[int] = []

    async def decide(self, row: int, prompt: str, candidates: Mapping[str, str]) -> list[Decision]:
        shown = list(candidates)
        if len(shown) < 2:
            return [Decision(Outcome.TOO_FEW, shown)]
        self.asked.append(row)
        await asyncio.sleep(random.uniform(0, 0.002))
        if row == self.fail:
            raise RetryableError("the judge is gone")
        if row == self.deaf:
            return [Decision(Outcome.UNDECIDED, shown, problem="not a question for me")]
        probability = None if self.decisions == 1 else 0.75
        pairs = [(shown[0], shown[-1]), (shown[-1], shown[0])][: self.decisions]
        return [Decision(Outcome.PAIR, shown, one, two, probability=probability) for one, two in pairs]

    def statistics(self) -> dict[str, float]:
        return {"calls": len(self.asked), "retries": 0}


def fill(
    journal: Journal, server: Server, judge: Judge | None, count: int = 10, window: int = 4, most: float = 1.0
) -> tuple[Rows, RejectedRows]:
    rows = Rows([f"q{row}" for row in range(count)], TEMPERATURES, journal)
    rejected = RejectedRows(count, most)
    asyncio.run(rl.generate(rows, server, judge, window=window, rejected=rejected))  # type: ignore[arg-type]
    return rows, rejected


@pytest.mark.parametrize("group", [1, 4])
def test_every_row_is_answered_at_every_temperature_and_judged_once(group: int) -> None:
    server, judge = Server(group), Judge()
    with Journal(None, {}) as journal:
        rows, rejected = fill(journal, server, judge)
        assert rows.sample(7) == {"prompt": "q7", **{rl.response_key(t): f"q7 at {t}" for t in TEMPERATURES}}
        assert rows.decisions(7)[0].chosen == KEYS[0]
    assert sorted(judge.asked) == list(range(10))
    asked = sorted((step, row) for step, rows_asked in server.asked for row in rows_asked)
    assert asked == sorted((key, row) for key in KEYS for row in range(10))
    assert {len(rows_asked) for _, rows_asked in server.asked} == ({1} if group == 1 else {4, 2})
    assert not len(rejected)


def test_no_more_rows_are_begun_than_the_window_holds() -> None:
    server = Server()
    with Journal(None, {}) as journal:
        fill(journal, server, Judge(), count=60, window=5)
    assert len(TEMPERATURES) < server.most_at_once <= 5 * len(TEMPERATURES)


def test_without_a_judge_there_are_only_candidates() -> None:
    with Journal(None, {}) as journal:
        rows, _ = fill(journal, Server(), None)
        assert [list(rows.sample(row)) for row in range(10)] == [["prompt", *KEYS]] * 10
        assert journal.count(rl.VERDICT) == 0


@pytest.mark.parametrize("group", [1, 4])
def test_what_is_finished_is_not_asked_again_after_a_failure(tmp_path: Path, group: int) -> None:
    path = tmp_path / "journal"
    with pytest.raises(RetryableError, match="gone"), Journal(path, {}) as journal:
        fill(journal, Server(group), Judge(fail=8))
    server, judge = Server(group), Judge()
    with Journal(path, {}) as journal:
        candidates = {(key, row) for key in KEYS for row in range(10) if (key, row) in journal}
        judged = {row for row in range(10) if (rl.VERDICT, row) in journal}
        assert judged
        assert 8 not in judged
        rows, _ = fill(journal, server, judge)
        assert [rows.decisions(row)[0].outcome for row in range(10)] == [Outcome.PAIR] * 10
    assert sorted(judge.asked) == sorted(set(range(10)) - judged)
    assert not candidates & {(step, row) for step, rows_asked in server.asked for row in rows_asked}


def test_a_failure_ends_the_rows_under_way(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", {}) as journal:
        with pytest.raises(RetryableError):
            fill(journal, Server(), Judge(fail=0), count=100, window=50)
        assert journal.count(rl.VERDICT) < 100


def test_refused_rows_are_listed_with_their_step_and_asked_again_by_a_later_run(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", {}) as journal:
        rows, rejected = fill(journal, Server(refuse="q3"), Judge(deaf=5))
        rejected.write(tmp_path / "first.jsonl")
        assert rows.sample(3) == {"prompt": "q3"}
        assert rows.decisions(3)[0].outcome == Outcome.TOO_FEW
    with Journal(tmp_path / "journal", {}) as journal:
        server = Server(refuse="q3")
        _, rejected = fill(journal, server, Judge(deaf=5))
        rejected.write(tmp_path / "second.jsonl")
    assert {row for _, rows_asked in server.asked for row in rows_asked} == {3, 5}
    found = [json.loads(line) for line in (tmp_path / "first.jsonl").read_text().splitlines()]
    assert found == [
        {"row": 3, "prompt": "q3", "step": "response_t=0.5", "reason": "too long"},
        {"row": 5, "prompt": "q5", "step": "verdict", "reason": "not a question for me"},
    ]
    assert (tmp_path / "second.jsonl").read_text() == (tmp_path / "first.jsonl").read_text()
    for server in (Server(), Server()):  # both are mended, and then there is nothing left to ask
        with Journal(tmp_path / "journal", {}) as journal:
            rows, rejected = fill(journal, server, Judge())
            assert not len(rejected)
            assert rows.decisions(3)[0].outcome == rows.decisions(5)[0].outcome == Outcome.PAIR
    assert not server.asked


def test_too_many_refused_rows_end_the_run() -> None:
    with Journal(None, {}) as journal, pytest.raises(InputError, match="too long"):
        fill(journal, Server(refuse="q3"), Judge(), most=0.05)


def outputs(tmp_path: Path, judge: Judge, **settings: object) -> dict:
    with Journal(None, {}) as journal:
        rows, _ = fill(journal, Server(), judge)
        shares = {"train": 0.8, "test": 0.2}
        plan = rl_outputs.Plan(tmp_path, "p", EXTRA_ID, shares, True, 1, **settings)  # type: ignore[arg-type]
        return rl_outputs.write_outputs(rows, plan)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_judge_without_probabilities_leaves_no_soft_labels(tmp_path: Path) -> None:
    figures = outputs(tmp_path, Judge())
    assert figures["pairs"] == 10
    assert figures["train"] == {"pairs": 8, "removedLong": 0}
    assert not list(tmp_path.glob("*soft_labels*"))
    assert not list(tmp_path.glob("*.new"))
    raw = json.loads((tmp_path / rl_outputs.PREFERENCES).read_text())[0]["raw"]
    assert set(raw) == {"chosen_response_key", "rejected_response_key", "explanation", "all_responses"}


def test_soft_labels_stand_in_the_order_of_the_comparisons_and_a_row_has_one_prompt(tmp_path: Path) -> None:
    figures = outputs(tmp_path, Judge(decisions=2))
    assert (figures["train"]["pairs"], figures["test"]["pairs"]) == (16, 4)
    labels = lines(tmp_path / "p_train_comparisons_soft_labels.jsonl")
    comparisons = lines(tmp_path / "p_train_comparisons_with_chat_prompt.jsonl")
    prompts = lines(tmp_path / "p_train_prompts_with_chat_prompt.jsonl")
    assert (len(labels), len(comparisons), len(prompts)) == (16, 32, 8)
    for number, label in enumerate(labels):
        assert label["probability"] == 0.75
        assert f"User\nq{label['row']}\n" in comparisons[2 * number]["text"]
        assert f"User\nq{label['row']}\n" in comparisons[2 * number + 1]["text"]
    assert [row["text"] for row in prompts] == list(dict.fromkeys(EXTRA_ID.prompt(f"q{n['row']}") for n in labels))
    assert json.loads((tmp_path / rl_outputs.PREFERENCES).read_text())[0]["raw"]["probability"] == 0.75
    assert len(lines(tmp_path / rl_outputs.AUDIT)) == 20


def test_long_pairs_are_left_out_of_the_splits_and_counted(tmp_path: Path) -> None:
    figures = outputs(tmp_path, Judge(), count=lambda text: 100 if "q3" in text else 1, limit=10)
    assert sum(figures[split]["pairs"] for split in ("train", "test")) == 9
    assert sum(figures[split]["removedLong"] for split in ("train", "test")) == 1


def test_without_a_pair_there_is_a_sentence_with_the_reason(tmp_path: Path) -> None:
    class Undecided(Judge):
        async def decide(self, row: int, prompt: str, candidates: Mapping[str, str]) -> list[Decision]:
            return [Decision(Outcome.UNDECIDED, list(candidates), replies=("?",), problem=f"no verdict {row}")]

    with pytest.raises(InputError, match=r"10 prompts; no verdict 0; no verdict 1; no verdict 2\. .*judge"):
        outputs(tmp_path, Undecided())
