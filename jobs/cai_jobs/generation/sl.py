"""Answer, criticise, revise: the supervised stage's samples, one chain of requests a row.

Constitutional AI, section 3.1 (Bai et al. 2022, arXiv:2212.08073). Each row is answered after the few-shot dialogues;
then, in every round, the answer is criticised by a principle of the row's own and revised; without critiques it is
revised at once. Rounds after the first take up the last revision. Rows do not depend on each other; as many are in work
at once as keep the server busy, and what a row has got is in the journal before it asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cai_jobs.clients.inference import InferenceServer, Refused
from cai_jobs.clients.pool import completed
from cai_jobs.contract.program import InputError
from cai_jobs.contract.progress import Progress
from cai_jobs.formats.chat import ASSISTANT, USER, Message
from cai_jobs.formats.constitution import Principle
from cai_jobs.generation.journal import Journal
from cai_jobs.generation.meter import metered
from cai_jobs.generation.rejected import RejectedRows

DATASET_NAME = "sl_cai_samples"
RESPONSE = "response"
ROUND_FIELDS = ("critique_prompt", "critique_response", "revision_prompt", "revision_response")
FEW_SHOT_TURNS = 6
Answer = str | Refused
Sample = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows of a run and where their finished steps are kept.

    Attributes:
        prompts: row -> prompt.
        few_shots: turns put before every prompt.
        rounds: row -> a principle a round.
        revisions: how many rounds there are.
        critique: whether answers are criticised before they are revised.
        journal: has the answers under "response", "critique 1", "revision 1", "critique 2", ...
    """

    prompts: Sequence[str]
    few_shots: Sequence[Message]
    rounds: Callable[[int], Sequence[Principle]]
    revisions: int
    critique: bool
    journal: Journal

    def finished(self, row: int) -> bool:
        """Whether a row has its last revision."""
        return (_revision(self.revisions), row) in self.journal

    def sample(self, row: int) -> Sample:
        """A finished row's sample.

        It is {"initial_prompt", "initial_response", "critique_prompt", "critique_response", "revision_prompt",
        "revision_response"} of the last round, with "earlier_rounds" where there were several; without critiques their
        texts are empty.
        """
        rounds = []
        for number, principle in enumerate(self.rounds(row), start=1):
            critique = (principle.critique_request, self.journal[_critique(number), row]) if self.critique else ("", "")
            fields = (*critique, principle.revision_request, self.journal[_revision(number), row])
            rounds.append(dict(zip(ROUND_FIELDS, fields, strict=True)))
        first = {"initial_prompt": self.prompts[row], "initial_response": self.journal[RESPONSE, row]}
        return {**first, **rounds[-1], **({"earlier_rounds": rounds[:-1]} if len(rounds) > 1 else {})}


async def generate(
    rows: Rows,
    chosen: Sequence[int],
    server: InferenceServer,
    *,
    rejected: RejectedRows | None = None,
    progress: str = "none",
) -> None:
    """Have the chosen rows answered, criticised and revised; what the journal has is not asked for again.

    Args:
        chosen: row numbers, in order.
        rejected: gets the rows the server refuses, which are left unfinished, and those whose last revision is empty,
            and has a say in how many may be; None: no row may be refused.

    Raises:
        InputError: the server refuses a row too many.
        RetryableError: it cannot be reached.
    """
    groups = (chosen[start : start + server.group] for start in range(0, len(chosen), server.group))
    unfinished = (group for group in groups if not all(map(rows.finished, group)))
    found = sum(map(rows.finished, chosen))

    async def work(group: Sequence[int]) -> None:
        fresh = sum(not rows.finished(row) for row in group)
        refused = await _Group(rows, group, server).run()
        for row, (step, reason) in refused.items():
            if rejected is None:
                raise InputError(f"row {row}, {step}: {reason}")
            rejected.add(row, rows.prompts[row], step, reason)
            rejected.check()
        for row in group:
            if rejected is not None and row not in refused:
                reject_empty(rows, row, rejected)
        bar.advance(fresh)

    # twice as many as the server takes at once, so that the next requests fill up while those are answered
    limit = max(2, -(-2 * server.capacity // server.group))
    with Progress(len(chosen), "rows", "critique and revision", progress, done=found) as bar:
        async with metered(bar, server.statistics):
            async for _ in completed(work, unfinished, limit):
                pass


def reject_empty(rows: Rows, row: int, rejected: RejectedRows) -> bool:
    """List a finished row if its last revision is empty; whether it is.

    Raises:
        InputError: that is a row too many.
    """
    if rows.journal[_revision(rows.revisions), row]:
        return False
    rejected.add(row, rows.prompts[row], _revision(rows.revisions), "the revision is empty")
    rejected.check()
    return True


class _Group:
    """Rows asked together, on their way through the steps; those refused stay behind."""

    def __init__(self, rows: Rows, numbers: Sequence[int], server: InferenceServer) -> None:
        self._rows, self._server = rows, server
        self._dialogues: dict[int, list[Message]] = {row: [] for row in numbers}
        self._refused: dict[int, tuple[str, str]] = {}

    async def run(self) -> dict[int, tuple[str, str]]:
        """Take all steps; (step, reason) of the rows refused."""
        rows = self._rows
        rounds = {row: rows.rounds(row) for row in self._dialogues}
        beginnings = {row: [*rows.few_shots, {"role": USER, "content": rows.prompts[row]}] for row in self._dialogues}
        self._dialogues = dict(beginnings)
        answers = await self._step(RESPONSE)
        for number in range(1, rows.revisions + 1):
            self._dialogues = {row: _answered(beginnings[row], answer) for row, answer in answers.items()}
            if rows.critique:
                self._ask({row: rounds[row][number - 1].critique_request for row in self._dialogues})
                critiques = await self._step(_critique(number))
                self._dialogues = {row: _answered(self._dialogues[row], text) for row, text in critiques.items()}
            self._ask({row: rounds[row][number - 1].revision_request for row in self._dialogues})
            answers = await self._step(_revision(number))
        return self._refused

    def _ask(self, requests: dict[int, str]) -> None:
        for row, request in requests.items():
            self._dialogues[row].append({"role": USER, "content": request})

    async def _step(self, step: str) -> dict[int, str]:
        """The answers to the dialogues as they stand, of the rows not refused."""
        numbers, journal = list(self._dialogues), self._rows.journal
        if not numbers:
            return {}
        if all((step, row) in journal for row in numbers):
            return {row: journal[step, row] for row in numbers}
        answers = await self._server.answers(step, numbers, list(self._dialogues.values()))
        found = {}
        for row, answer in zip(numbers, answers, strict=True):
            if isinstance(answer, Refused):  # not kept: once the server is mended, it is asked again
                self._refused[row] = step, answer.reason
            else:
                found[row] = answer
        if found:
            journal.add(step, list(found), list(found.values()))
        return found


def without_critiques(few_shots: Sequence[Message], where: str) -> list[Message]:
    """The few-shot dialogues with the request for a critique and the critique left out.

    Args:
        where: the file they are from, put before a complaint.

    Raises:
        InputError: they are not dialogues of six turns: prompt, answer, critique and revision with their requests.
    """
    if len(few_shots) % FEW_SHOT_TURNS:
        raise InputError(
            f"{where}: without critiques (--critique False) every sample must have {FEW_SHOT_TURNS} turns, of which "
            f"the third and fourth, the critique, are left out; there are {len(few_shots)} turns in all"
        )
    return [turn for place, turn in enumerate(few_shots) if place % FEW_SHOT_TURNS not in (2, 3)]


def sft_row(sample: Sample) -> dict[str, Any]:
    """A sample's prompt and revision as a row for supervised fine-tuning."""
    turns = ((USER, sample["initial_prompt"]), (ASSISTANT, sample["revision_response"]))
    return {
        "system": "",
        "conversations": [{"from": role, "value": text, "label": None} for role, text in turns],
        "mask": USER,
        "dataset": DATASET_NAME,
    }


def _critique(number: int) -> str:
    return f"critique {number}"


def _revision(number: int) -> str:
    return f"revision {number}"


def _answered(dialogue: list[Message], answer: str) -> list[Message]:
    return [*dialogue, {"role": ASSISTANT, "content": answer}]
