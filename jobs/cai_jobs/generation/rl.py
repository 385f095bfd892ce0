"""Candidates at several temperatures and the judge's preferences among them: the reinforcement stage's pairs.

Constitutional AI, section 4.1 (Bai et al. 2022, arXiv:2212.08073): each prompt is answered at every temperature and the
candidates are judged. Rows do not depend on each other; as many are in work at once as keep both the inference server
and the judge busy, so that judging overlaps generation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cai_jobs.clients.inference import InferenceServer, Refused
from cai_jobs.clients.pool import completed
from cai_jobs.contract.progress import Progress
from cai_jobs.formats.chat import USER
from cai_jobs.generation.journal import Journal
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.judging.judge import Judge
from cai_jobs.generation.meter import metered
from cai_jobs.generation.rejected import RejectedRows

VERDICT, REJECTED = "verdict", "rejected"
FEWEST_CANDIDATES = 2
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rows:
    """The rows of a run and where their finished steps are kept.

    Attributes:
        prompts: row -> prompt.
        temperatures: a candidate each, all different.
        journal: has the candidates under `response_key(temperature)`, the list of decisions under VERDICT, and under
            REJECTED [step, reason] of rows that could not be done, null where a later try could.
    """

    prompts: Sequence[str]
    temperatures: Sequence[float]
    journal: Journal

    def __len__(self) -> int:
        return len(self.prompts)

    def sample(self, row: int) -> dict[str, str]:
        """{"prompt", "response_t=<temperature>": answer, ...} of a finished row, without the candidates refused."""
        answers = {key: _from_json(self.journal[key, row]) for key in map(response_key, self.temperatures)}
        return {"prompt": self.prompts[row], **_given(answers)}

    def decisions(self, row: int) -> list[Decision]:
        """What the judge decided of a finished row."""
        return [Decision.from_json(value) for value in self.journal[VERDICT, row]]

    def rejected(self) -> Iterator[tuple[int, str, str]]:
        """(row, step, reason) of the finished rows that could not be done."""
        for row in range(len(self)):
            if (REJECTED, row) in self.journal and (VERDICT, row) in self.journal:
                problem = self.journal[REJECTED, row]
                if problem is not None:
                    yield row, *problem


async def generate(
    rows: Rows,
    server: InferenceServer,
    judge: Judge | None,
    *,
    window: int,
    rejected: RejectedRows | None = None,
    progress: str = "none",
) -> None:
    """Have every row answered and judged; what the journal has is not asked for again, except rejected rows: what had
    them refused may have been mended.

    Args:
        judge: None stops at the candidates.
        window: most rows in work at once.
        rejected: gets the rows that could not be done and has a say in how many may be.

    Raises:
        InputError: the server or the judge refuses everything, or too many rows.
        RetryableError: one of them cannot be reached.
    """
    last = VERDICT if judge is not None else response_key(rows.temperatures[-1])
    again = frozenset(row for row, _, _ in rows.rejected())

    def is_done(row: int) -> bool:
        return (last, row) in rows.journal and row not in again

    groups = (range(start, min(start + server.group, len(rows))) for start in range(0, len(rows), server.group))
    unfinished = (group for group in groups if not all(map(is_done, group)))
    limit = max(2, -(-window // server.group))
    found = sum(map(is_done, range(len(rows))))
    judge_statistics = judge.statistics if judge is not None else None
    title = "candidates and preferences" if judge is not None else "candidates"

    def reject(problems: Iterable[tuple[int, str, str]]) -> None:
        if rejected is not None:
            for row, step, reason in problems:
                rejected.add(row, rows.prompts[row], step, reason)
            rejected.check()

    async def work(group: range) -> None:
        fresh = [row for row in group if not is_done(row)]
        missing = any(row in again for row in group)
        answers = await _together(
            [_answers(rows, server, temperature, group, missing) for temperature in rows.temperatures]
        )
        if judge is not None:
            by_row = zip(*answers, strict=True)
            keys = [response_key(temperature) for temperature in rows.temperatures]
            candidates = {row: dict(zip(keys, texts, strict=True)) for row, texts in zip(group, by_row, strict=True)}
            problems = await _together([_judge(rows, judge, row, candidates[row]) for row in fresh])
            reject((row, *problem) for row, problem in zip(fresh, problems, strict=True) if problem is not None)
        bar.advance(len(fresh))

    with Progress(len(rows), "rows", title, progress, done=found) as bar:
        async with metered(bar, server.statistics, judge_statistics):
            async for _ in completed(work, unfinished, limit):
                pass


def response_key(temperature: float) -> str:
    """The key of a temperature's candidate."""
    return f"response_t={temperature}"


def preference(sample: Mapping[str, Any], decision: Decision) -> dict[str, Any] | None:
    """The preference sample of a decision, or None where it is no pair.

    `raw` has the reference's fields and, where a judge gave them, "principle", the name of the one compared by, and
    "probability", the judge's that the chosen answer is the better one.
    """
    if decision.outcome is not Outcome.PAIR or decision.chosen is None or decision.rejected is None:
        return None
    raw = {
        "chosen_response_key": decision.chosen,
        "rejected_response_key": decision.rejected,
        "explanation": decision.explanation,
        "all_responses": {key: sample[key] for key in sorted(sample) if key.startswith("response")},
    }
    more = {"principle": decision.principle, "probability": decision.probability}
    return {
        "prompt": sample["prompt"],
        "chosen": sample[decision.chosen],
        "rejected": sample[decision.rejected],
        "raw": raw | {name: value for name, value in more.items() if value is not None},
    }


async def _answers(
    rows: Rows, server: InferenceServer, temperature: float, group: range, anew: bool
) -> list[str | Refused]:
    """A temperature's candidates of a group of rows, whole groups at a time as the server wants them."""
    step = response_key(temperature)
    if not anew and all((step, row) in rows.journal for row in group):
        return [_from_json(rows.journal[step, row]) for row in group]
    dialogues = [[{"role": USER, "content": rows.prompts[row]}] for row in group]
    answers = await server.answers(step, group, dialogues, temperature)
    rows.journal.add(step, group, [_to_json(answer) for answer in answers])
    return answers


async def _judge(rows: Rows, judge: Judge, row: int, candidates: Mapping[str, str | Refused]) -> tuple[str, str] | None:
    """Have one row judged; (step, reason) where it could not be done."""
    decisions = await judge.decide(row, rows.prompts[row], _given(candidates))
    problem = _problem(candidates, decisions)
    if problem is not None or (REJECTED, row) in rows.journal:  # before the verdict, with which the row is finished
        rows.journal.add(REJECTED, [row], [problem])
    rows.journal.add(VERDICT, [row], [[decision.as_json() for decision in decisions]])
    return problem


def _problem(candidates: Mapping[str, str | Refused], decisions: Sequence[Decision]) -> tuple[str, str] | None:
    """Why a row could not be done: the server refused its candidates, or the judge refused it."""
    refused = [(key, answer.reason) for key, answer in candidates.items() if isinstance(answer, Refused)]
    if refused and len(candidates) - len(refused) < FEWEST_CANDIDATES:
        return refused[0]
    if decisions and all(_unanswered(decision) for decision in decisions):
        return VERDICT, decisions[0].problem or "the judge does not answer"
    return None


def _unanswered(decision: Decision) -> bool:
    """Whether no judge gave as much as a reply: it refused the request."""
    replies = (single.replies or any(order.replies for order in single.orders) for single in decision.singles())
    return decision.outcome is Outcome.UNDECIDED and not any(replies)


def _to_json(answer: str | Refused) -> Any:
    return {"refused": answer.reason} if isinstance(answer, Refused) else answer


def _from_json(value: Any) -> str | Refused:
    return Refused(value["refused"]) if isinstance(value, dict) else str(value)


def _given(candidates: Mapping[str, str | Refused]) -> dict[str, str]:
    return {key: answer for key, answer in candidates.items() if not isinstance(answer, Refused)}


async def _together(coroutines: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of all, in order; the first exception ends the others before it is raised."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
