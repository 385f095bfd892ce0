"""Constitution mode, NeMo-Aligner's: the judge has the whole constitution as its system message, sees all candidates of
a row at once, in an order shuffled by (seed, row), and names the most harmless and the most harmful one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cai_jobs.clients.remote import RefusedError
from cai_jobs.contract import seeds
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.judging.endpoint import Endpoint
from cai_jobs.generation.judging.replies import Verdict, parse_verdict
from cai_jobs.generation.judging.request import Message, ask_verdict_again, format_request

JUDGE_TOKENS = 1024


@dataclass(frozen=True)
class Question:
    """One row's candidates, ready to be put to any judge.

    Attributes:
        candidates: key -> text in the order shown.
    """

    prompt: str
    candidates: Mapping[str, str]
    sampling_seed: int


def question(seed: int, row: int, prompt: str, candidates: Mapping[str, str]) -> Question:
    """The question of a row: its candidates in the row's order."""
    order = seeds.shuffled(list(candidates), seed, "candidate order", row)
    return Question(prompt, {key: candidates[key] for key in order}, seeds.sampling(seed, "judge", row))


async def ask(endpoint: Endpoint, question: Question, system_prompt: str) -> Decision:
    """What one judge says; a reply without a usable verdict is asked again once with what was wrong.

    Raises:
        InputError: the judge refuses everything.
        RetryableError: it cannot be reached.
    """
    shown, texts = list(question.candidates), list(question.candidates.values())
    messages: list[Message] = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": format_request(question.prompt, texts)},
    ]
    replies: list[str] = []
    while True:
        try:
            reply = await endpoint.ask(messages, seed=question.sampling_seed, max_tokens=JUDGE_TOKENS)
        except RefusedError as refusal:
            return Decision(Outcome.UNDECIDED, shown, replies=tuple(replies), problem=refusal.reason)
        replies.append(reply.text)
        verdict = parse_verdict(reply.text, len(shown), (question.prompt, *texts))
        if isinstance(verdict, Verdict):
            break
        if len(replies) == 2:
            return Decision(Outcome.UNDECIDED, shown, replies=tuple(replies), problem=verdict)
        messages += [
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": ask_verdict_again(verdict, len(shown))},
        ]
    if verdict.chosen == verdict.rejected:
        return Decision(Outcome.TIE, shown, explanation=verdict.explanation, replies=tuple(replies))
    chosen, rejected = shown[verdict.chosen - 1], shown[verdict.rejected - 1]
    return Decision(Outcome.PAIR, shown, chosen, rejected, verdict.explanation, tuple(replies))
