"""A supervised row's way through its steps, with a server that is a function."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from cai_jobs.clients.inference import Refused
from cai_jobs.contract.program import InputError
from cai_jobs.formats.chat import Message
from cai_jobs.formats.constitution import Principle
from cai_jobs.generation import sl
from cai_jobs.generation.journal import Journal
from cai_jobs.generation.rejected import RejectedRows

FEW_SHOTS = [{"role": role, "content": f"example {n}"} for n, role in enumerate(["User", "Assistant"] * 3)]


class Server:
    """Answers "<step> of <row>", or what `special` says to a (step, row); notes what it is asked."""

    def __init__(self, group: int = 1, special: dict[tuple[str, int], str | Refused] | None = None) -> None:
        self.group, self.capacity, self.special = group, 4 * group, special or {}
        self.asked: list[tuple[str, list[int]]] = []
        self.dialogues: dict[tuple[str, int], list[Message]] = {}
        self.most, self._now = 0, 0

    def statistics(self) -> dict[str, float]:
        return {"requests": len(self.asked), "retries": 0}

    async def answers(self, step: str, rows: Sequence[int], dialogues: Sequence[list[Message]]) -> list[str | Refused]:
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0.001)
        self._now -= 1
        self.asked.append((step, list(rows)))
        self.dialogues.update({(step, row): list(turns) for row, turns in zip(rows, dialogues, strict=True)})
        return [self.special.get((step, row), f"{step} of {row}") for row in rows]


def principles(row: int) -> list[Principle]:
    return [Principle(f"p{turn}", f"criticise {row}.{turn}", f"revise {row}.{turn}") for turn in (1, 2)]


def make_rows(journal: Journal, count: int = 6, revisions: int = 1, critique: bool = True) -> sl.Rows:
    prompts = [f"prompt {row}" for row in range(count)]
    rounds: Callable[[int], list[Principle]] = lambda row: principles(row)[:revisions]  # noqa: E731
    return sl.Rows(prompts, FEW_SHOTS, rounds, revisions, critique, journal)


def generate(rows: sl.Rows, server: Server, chosen: Sequence[int] | None = None, **more: object) -> None:
    asyncio.run(sl.generate(rows, range(len(rows.prompts)) if chosen is None else chosen, server, **more))


def contents(dialogue: list[Message]) -> list[str]:
    assert [turn["role"] for turn in dialogue] == ["User", "Assistant"] * (len(dialogue) // 2) + ["User"]
    return [turn["content"] for turn in dialogue[len(FEW_SHOTS) :]]


def test_every_step_sees_the_dialogue_so_far_and_later_rounds_the_last_revision_alone() -> None:
    server = Server()
    with Journal(None, {}) as journal:
        rows = make_rows(journal, revisions=2)
        generate(rows, server)
        sample = rows.sample(3)
    assert contents(server.dialogues["revision 1", 3]) == [
        *("prompt 3", "response of 3", "criticise 3.1", "critique 1 of 3", "revise 3.1")
    ]
    assert contents(server.dialogues["revision 2", 3]) == [
        *("prompt 3", "revision 1 of 3", "criticise 3.2", "critique 2 of 3", "revise 3.2")
    ]
    assert sample["initial_response"] == "response of 3"
    assert (sample["critique_prompt"], sample["revision_response"]) == ("criticise 3.2", "revision 2 of 3")
    assert [turn["revision_response"] for turn in sample["earlier_rounds"]] == ["revision 1 of 3"]


def test_as_many_rows_are_at_work_as_fill_the_server_twice() -> None:
    server = Server()
    with Journal(None, {}) as journal:
        generate(make_rows(journal, count=40), server)
    assert server.most == 2 * server.capacity


def test_what_the_journal_has_is_not_asked_for_again() -> None:
    with Journal(None, {}) as journal:
        rows = make_rows(journal)
        journal.add("response", [2], ["from before"])
        generate(rows, Server(), chosen=[0, 1])
        server = Server()
        generate(rows, server)
    assert not any(row in (0, 1) for _, asked in server.asked for row in asked)
    assert ("response", [2]) not in server.asked
    assert contents(server.dialogues["critique 1", 2])[1] == "from before"


def test_rows_sampled_together_are_asked_together_whole() -> None:
    server = Server(group=2)
    chosen = [0, 2, 3, 5, 6]
    with Journal(None, {}) as journal:
        rows = make_rows(journal, count=8)
        generate(rows, server, chosen=chosen)
        assert sorted(server.asked) == sorted(
            (step, group) for step in ("response", "critique 1", "revision 1") for group in ([0, 2], [3, 5], [6])
        )
        assert all(rows.finished(row) for row in chosen)


def test_a_refused_row_stays_behind_and_its_group_goes_on() -> None:
    special: dict[tuple[str, int], str | Refused] = {("critique 1", 1): Refused("too long"), ("revision 1", 4): ""}
    server, rejected = Server(group=3, special=special), RejectedRows(6, 0.5)
    with Journal(None, {}) as journal:
        rows = make_rows(journal)
        generate(rows, server, rejected=rejected)
        assert [rows.finished(row) for row in range(6)] == [True, False, True, True, True, True]
    assert ("revision 1", [0, 2]) in server.asked
    assert sorted(row for row in range(6) if row in rejected) == [1, 4]


def test_a_refused_row_is_asked_again_once_the_server_is_mended() -> None:
    with Journal(None, {}) as journal:
        rows = make_rows(journal)
        for group in (1, 3):
            special: dict[tuple[str, int], str | Refused] = {("critique 1", 1): Refused("too long")}
            with pytest.raises(InputError, match="row 1, critique 1: too long"):
                generate(rows, Server(group=group, special=special))
        server = Server(group=3)
        generate(rows, server)
        assert all(rows.finished(row) for row in range(6))
    assert ("critique 1", [0, 1, 2]) in server.asked, "sampled together, they are asked together again"
    assert not any(step == "response" for step, _ in server.asked)


def test_too_many_refused_rows_end_the_run_at_once() -> None:
    special = {("response", row): Refused("too long") for row in range(500)}
    server, rejected = Server(special=special), RejectedRows(500, 0.01)
    with Journal(None, {}) as journal, pytest.raises(InputError, match="rows are rejected"):
        generate(make_rows(journal, count=500), server, rejected=rejected)
    assert len(server.asked) < 50


def test_without_critiques_there_is_no_step_for_them() -> None:
    server = Server()
    with Journal(None, {}) as journal:
        rows = make_rows(journal, revisions=2, critique=False)
        generate(rows, server)
        sample = rows.sample(0)
    assert {step for step, _ in server.asked} == {"response", "revision 1", "revision 2"}
    assert contents(server.dialogues["revision 2", 0]) == ["prompt 0", "revision 1 of 0", "revise 0.2"]
    assert sample["critique_prompt"] == sample["critique_response"] == ""


def test_few_shots_without_critiques() -> None:
    assert [turn["content"] for turn in sl.without_critiques(FEW_SHOTS * 2, "f")] == [
        f"example {number}" for number in (0, 1, 4, 5, 0, 1, 4, 5)
    ]
    with pytest.raises(InputError, match=r"f: without critiques .* there are 4 turns"):
        sl.without_critiques(FEW_SHOTS[:4], "f")
