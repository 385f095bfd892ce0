"""Principle mode: which of two candidates agrees better with one principle, as probabilities.

Constitutional AI, section 4.1 (Bai et al. 2022, arXiv:2212.08073): a principle is drawn for each comparison, the judge
is shown the two candidates as options (A) and (B), and the label is the log-probability of naming either option,
normalised over the two. With a chain of thought the probabilities come out close to 0 and 1 and are clamped, to 0.4 and
0.6 in the paper. Beyond the paper, both orders are asked and averaged, so that a liking for a place cancels out.

Judges that give no log-probabilities count as sure of the option they name.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from cai_jobs.clients.remote import RefusedError
from cai_jobs.contract import seeds
from cai_jobs.formats.constitution import ComparisonPrinciple
from cai_jobs.generation.judging.decision import Decision, Order, Outcome
from cai_jobs.generation.judging.endpoint import Endpoint, Reply, Token
from cai_jobs.generation.judging.replies import Option, parse_option
from cai_jobs.generation.judging.request import (
    COMPARISON_SYSTEM,
    Comparison,
    Message,
    ask_option_again,
    format_comparison,
)

OPTION_TOKENS, THOUGHT_TOKENS = 32, 1024
EQUAL_WITHIN = 1e-9
_MARKS = str.maketrans("▁ĠĊ", "  \n")
_AROUND = " \t\r\n▁ĠĊ()[]{}*_\"'`“”.:,;"


@dataclass(frozen=True)
class Question:
    """One comparison, ready to be put to any judge.

    Attributes:
        first, second: the candidates' keys, in the order in which they are shown first.
        sampling_seeds: one each order.
    """

    prompt: str
    principle: ComparisonPrinciple
    first: str
    second: str
    texts: Mapping[str, str]
    sampling_seeds: tuple[int, int]


def questions(
    seed: int,
    row: int,
    prompt: str,
    candidates: Mapping[str, str],
    principles: Sequence[ComparisonPrinciple],
    count: int | None,
) -> list[Question]:
    """The comparisons of a row: pairs, their principles and orders, all drawn by (seed, row).

    Args:
        candidates: key -> text, two at least.
        count: how many pairs; None for all there are. More comparisons keep those that fewer have.
    """
    pairs = seeds.shuffled(list(combinations(candidates, 2)), seed, "comparison", row)[:count]
    found = []
    for place, pair in enumerate(pairs):
        first, second = seeds.shuffled(pair, seed, "comparison order", row, place)
        principle = principles[seeds.draw(seed, "comparison principle", row, place) % len(principles)]
        drawn = [seeds.sampling(seed, f"judge {place} {order}", row) for order in ("first", "second")]
        found.append(Question(prompt, principle, first, second, candidates, (drawn[0], drawn[1])))
    return found


async def ask(
    endpoint: Endpoint, question: Question, *, chain_of_thought: bool, clamp: tuple[float, float]
) -> Decision:
    """What one judge says of a comparison, both orders averaged. One order without a verdict leaves it undecided.

    Args:
        clamp: the lowest and the highest probability after a chain of thought.

    Raises:
        InputError: the judge refuses everything.
        RetryableError: it cannot be reached.
    """
    first, second = question.first, question.second
    orders = await asyncio.gather(
        *(
            _ask_in_order(endpoint, question, shown, sampling_seed, chain_of_thought, clamp)
            for shown, sampling_seed in zip(((first, second), (second, first)), question.sampling_seeds, strict=True)
        )
    )
    undecided = Decision(
        Outcome.UNDECIDED, [first, second], principle=question.principle.name, orders=(orders[0], orders[1])
    )
    return average(undecided, orders[0], orders[1], chain_of_thought)


def average(undecided: Decision, order: Order, swapped: Order, chain_of_thought: bool) -> Decision:
    """The decision that the two orders of one comparison make."""
    if order.probability is None or swapped.probability is None:
        problem = order.problem if order.probability is None else swapped.problem
        return replace(undecided, problem=problem)
    probability = (order.probability + 1 - swapped.probability) / 2
    if abs(probability - 0.5) < EQUAL_WITHIN:
        return replace(undecided, outcome=Outcome.TIE)
    chosen, rejected = order.shown if probability > 0.5 else swapped.shown
    return replace(
        undecided,
        outcome=Outcome.PAIR,
        chosen=chosen,
        rejected=rejected,
        explanation=order.replies[-1] if chain_of_thought else "",
        probability=max(probability, 1 - probability),
    )


def probability_of_first(reply: Reply, option: Option | str, thought: bool) -> tuple[float | None, bool]:
    """(probability that option A is the better or None where that cannot be told, whether log-probabilities told it).

    Where the reply names an option, its token's alternatives count; where it names none and was not to think first,
    those of its first token, if both letters are among them.
    """
    letters = _letters_at(reply, option) if isinstance(option, Option) or not thought else None
    probability: float | None = None
    if letters:
        likely = {name: sum(math.exp(value) for value in values) for name, values in letters.items()}
        if sum(likely.values()) > 0:
            probability = likely["A"] / (likely["A"] + likely["B"])
    from_logprobs = probability is not None
    if probability is None and isinstance(option, Option):
        probability = float(option.letter == "A")
    return probability, from_logprobs


async def _ask_in_order(
    endpoint: Endpoint,
    question: Question,
    shown: tuple[str, str],
    sampling_seed: int,
    chain_of_thought: bool,
    clamp: tuple[float, float],
) -> Order:
    first, second = (question.texts[key] for key in shown)
    request = Comparison(question.prompt, question.principle.question, first, second, chain_of_thought)
    messages: list[Message] = [
        {"role": "system", "content": COMPARISON_SYSTEM},
        {"role": "user", "content": format_comparison(request)},
    ]
    replies: list[str] = []
    thought = chain_of_thought
    while True:
        tokens = THOUGHT_TOKENS if thought else OPTION_TOKENS
        try:
            reply = await endpoint.ask(messages, seed=sampling_seed, max_tokens=tokens, logprobs=True)
        except RefusedError as refusal:
            return Order(shown, None, False, tuple(replies), refusal.reason)
        replies.append(reply.text)
        option = parse_option(
            reply.text, thought=thought, shown=(question.prompt, question.principle.question, first, second)
        )
        probability, from_logprobs = probability_of_first(reply, option, thought)
        if probability is not None:
            if chain_of_thought:
                probability = min(max(probability, clamp[0]), clamp[1])
            return Order(shown, probability, from_logprobs, tuple(replies))
        problem = str(option)
        if len(replies) == 2:
            return Order(shown, None, False, tuple(replies), problem)
        thought = False
        messages += [
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": ask_option_again(problem)},
        ]


def _letters_at(reply: Reply, option: Option | str) -> dict[str, list[float]] | None:
    """Option -> the log-probabilities of the tokens that name it, at the place where the reply decides."""
    if isinstance(option, Option):
        token = _token_at(reply, option)
        lower = token is not None and reply.text[option.position].islower()
    else:
        token, lower = next((token for token in reply.tokens if token.text.strip(_AROUND)), None), False
    if token is None or len(token.alternatives) < 2:
        return None
    found: dict[str, list[float]] = {"A": [], "B": []}
    for text, logprob in token.alternatives.items():
        name = text.strip(_AROUND)
        name = name.upper() if lower else name
        if name in found:
            found[name].append(logprob)
    return found if isinstance(option, Option) or all(found.values()) else None


def _token_at(reply: Reply, option: Option) -> Token | None:
    """The token that holds the option's letter: by its place in the text; else, where tokens do not join to the text,
    the first one that is the letter and little else."""
    # some servers give a vocabulary's own marks for spaces and line breaks
    begin = "".join(token.text for token in reply.tokens).translate(_MARKS).find(reply.text)
    if begin >= 0:
        end = 0
        for token in reply.tokens:
            end += len(token.text)
            if end > begin + option.position:
                return token if token.text.strip(_AROUND).upper() == option.letter else None
        return None
    named = [token for token in reply.tokens if token.text.strip(_AROUND).upper() == option.letter]
    return named[0] if len(named) == 1 else None
