"""What a row of a request asks for and what it gets back: the vocabulary of the server's parts. No torch here."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

MAX_ROWS = 128
# below this a division of float32 logits may overflow; the likeliest token has all the mass long before
GREEDY_BELOW = 1e-6


class RequestError(Exception):
    """A request that cannot be served as it is.

    Attributes:
        message: what was found and what is allowed.
        where: the field that is wrong, or None.
        status: HTTP status.
        reference: the string megatron_gpt_eval.py answers in this case, or None.
    """

    def __init__(
        self, message: str, where: str | None = None, *, status: int = 400, reference: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.where, self.status, self.reference = message, where, status, reference


@dataclass(frozen=True)
class Sampling:
    """How one row is generated.

    Attributes:
        max_tokens, min_tokens: tokens to generate, at most and at least (end-of-sequence is barred before that).
        temperature: divides the logits; unused if `greedy`.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens up to this mass; 1 keeps all.
        repetition_penalty: on tokens of prompt and completion (Keskar et al. 2019, section 4.1); 1 is none.
        stop: strings any of which ends the row.
        logprobs: give every token's log-probability, with `top_logprobs` likeliest alternatives or `all_logprobs`.
    """

    max_tokens: int = 64
    min_tokens: int = 0
    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    all_logprobs: bool = False


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of a row's tokens, prompt and completion, each given the tokens before it.

    Attributes:
        tokens: [length - 1] floats: the second token's on (nothing precedes the first).
        top: [length - 1] lists of (token id, log-probability), likeliest first.
        full: [length - 1, vocabulary] floats, or None.
    """

    tokens: list[float]
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    full: list[list[float]] | None = None


@dataclass(frozen=True)
class Answer:
    """A finished row.

    Attributes:
        text: the completion up to where a stop string begins.
        stopped_by: that stop string, or None.
        token_ids: every token generated, a closing end-of-sequence included.
        ended: it ended by itself (end-of-sequence or stop string), not for want of tokens.
    """

    text: str
    stopped_by: str | None
    token_ids: list[int]
    ended: bool
    scores: Scores | None = None


@dataclass(eq=False)
class Row:
    """One prompt on its way through the engine.

    The sampled answer depends on `prompt_ids`, `sampling`, `seed` and `index` alone, not on what shares its batch.
    Cancelling `future` gives the row's place away, queued or running.

    Attributes:
        seed, index: seed and the row's place among those that share the seed; together they fix its random numbers.
        on_text: called from the engine's thread with the completion's text so far, after every token.
    """

    prompt: str
    prompt_ids: list[int]
    sampling: Sampling
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    index: int = 0
    on_text: Callable[[str], None] | None = None
    future: Future[Answer] = field(default_factory=Future)

    def finish(self, answer: Answer) -> None:
        """Hand the answer over, unless the client has gone."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def fail(self, problem: BaseException) -> None:
        """Hand a failure over, unless the row is done or its client gone."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(problem)


def cut_at_stop(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """The text before the earliest stop string in it, and that string (the longest of several there), or None."""
    found = [(text.find(string), -len(string), string) for string in stop if string and string in text]
    if not found:
        return text, None
    position, _, string = min(found)
    return text[:position], string
