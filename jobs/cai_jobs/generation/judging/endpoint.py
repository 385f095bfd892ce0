"""A judge behind OpenAI's chat completions: one question at a time to it, within its concurrency and rate."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cai_jobs.clients.remote import RefusedError, backoff
from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.generation.judging.request import Message

# 500: what Remote says of a request that fails again and again while others are answered
ROW_REFUSALS = frozenset({400, 413, 422, 500})
REFUSALS_BEFORE_GIVING_UP = 20
TRIES_FOR_A_COMPLETION = 6
TOP_LOGPROBS = 20
LEAST_REPLY_TOKENS = 64
# of a request whose text and reply together are too long for the judge
_TOO_LONG = re.compile(r"max_(completion_)?tokens|context", re.IGNORECASE)
# what a judge may refuse by name, and what it is asked with instead; None: without the field
_INSTEAD: dict[str, dict[str, Any]] = {
    "top_logprobs": {"top_logprobs": 5},
    "logprobs": {"logprobs": None, "top_logprobs": None},
    "seed": {"seed": None},
    "temperature": {"temperature": None},
}


class Caller(Protocol):
    """What sends requests: generation.remote.Remote, or several of them as one."""

    retries: int

    async def call(self, method: str, path: str, body: Any = None) -> Any: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Token:
    """A token of a reply: its text, and the log-probabilities of the likeliest tokens at its place by their text."""

    text: str
    alternatives: dict[str, float]


@dataclass(frozen=True)
class Reply:
    """A judge's reply, and its tokens where log-probabilities were asked for and given."""

    text: str
    tokens: tuple[Token, ...] = ()


class Limits:
    """At most `concurrency` requests at a time and `rate` a second, whoever asks."""

    def __init__(self, concurrency: int, rate: float | None) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._rate = rate
        self._next = 0.0

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        if self._rate is not None:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + 1 / self._rate
            try:
                await asyncio.sleep(begin - now)
            except asyncio.CancelledError:
                self._slots.release()
                raise

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()


@dataclass
class Endpoint:
    """One judge.

    Attributes:
        name: what it is called in votes and figures.
        caller, path: where requests go.
        model: the model's name there.
        hint: what to see to where the judge refuses the key, for a sentence.
        owned: whether `caller` is to be closed with the judge.
        calls: requests answered so far.
        repeated: requests sent again because what came was no chat completion.
    """

    name: str
    caller: Caller
    path: str
    model: str
    limits: Limits
    hint: str = ""
    owned: bool = True
    calls: int = 0
    repeated: int = 0
    _instead: dict[str, Any] = field(default_factory=dict)
    _refused: int = 0

    async def ask(self, messages: Sequence[Message], *, seed: int, max_tokens: int, logprobs: bool = False) -> Reply:
        """Have messages answered, as surely the same way each time as the judge can.

        Raises:
            RefusedError: the judge refuses these messages, by their length for example.
            InputError: it refuses everything: a wrong key, model or address.
            RetryableError: it cannot be reached, or its answers are no chat completions.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "temperature": 0.0,
            "max_tokens": max_tokens,
            "seed": seed,
            "stream": False,
        }
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        for tries in range(1, TRIES_FOR_A_COMPLETION + 1):
            async with self.limits:
                answer = await self._answer(body)
            reply = _reply(answer)
            if reply is not None:
                self.calls += 1
                return reply
            self.repeated += 1
            await asyncio.sleep(backoff(tries))
        raise RetryableError(
            f"judge {self.name}: {TRIES_FOR_A_COMPLETION} times its answer was no chat completion, the last one "
            f"{str(answer)[:120]!r}; see that its address is that of an OpenAI-compatible server"
        )

    async def _answer(self, body: dict[str, Any]) -> Any:
        tried: dict[str, Any] = {}
        while True:
            try:
                answer = await self.caller.call("POST", self.path, _sent(body, {**self._instead, **tried}))
            except RefusedError as refusal:
                other = _other_fields(refusal, _sent(body, {**self._instead, **tried}))
                if other is None:
                    self._give_up_where_hopeless(refusal)
                    raise
                tried |= other
            else:
                # kept only now: what a refusal names may come from the text of a row
                self._instead |= {name: value for name, value in tried.items() if name != "max_tokens"}
                return answer

    def _give_up_where_hopeless(self, refusal: RefusedError) -> None:
        self._refused += 1
        hopeless = self._refused >= REFUSALS_BEFORE_GIVING_UP and not self.calls
        if refusal.status not in ROW_REFUSALS or hopeless:
            hint = f"; {self.hint}" if self.hint and refusal.status in (401, 403) else ""
            raise InputError(f"{refusal}{hint}") from refusal


def _sent(body: dict[str, Any], instead: dict[str, Any]) -> dict[str, Any]:
    changed = {**body, **{name: value for name, value in instead.items() if name in body}}
    if "max_completion_tokens" in instead:
        changed["max_completion_tokens"] = changed.pop("max_tokens")
    return {name: value for name, value in changed.items() if value is not None}


def _reply_length(sent: dict[str, Any]) -> int:
    return int(sent.get("max_tokens") or sent["max_completion_tokens"])


def _other_fields(refusal: RefusedError, sent: dict[str, Any]) -> dict[str, Any] | None:
    """What to send instead of a field the refusal names; None where it names none."""
    if refusal.status not in (400, 422):
        return None
    words = str(refusal)
    if "max_completion_tokens" in words and "max_tokens" in sent:
        return {"max_completion_tokens": True}
    for name, other in _INSTEAD.items():
        if name in words and name in sent and any(sent.get(key) != value for key, value in other.items()):
            return other
    if _TOO_LONG.search(words) and _reply_length(sent) > LEAST_REPLY_TOKENS:
        return {"max_tokens": max(LEAST_REPLY_TOKENS, _reply_length(sent) // 4)}
    return None


def _reply(answer: Any) -> Reply | None:
    """The reply a chat completion holds; None where it is none. A reply without text is an empty one."""
    try:
        choice = answer["choices"][0]
        content = choice["message"].get("content")
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    return Reply(content if isinstance(content, str) else "", _tokens(choice.get("logprobs")))


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    try:
        return tuple(
            Token(
                entry["token"],
                {other["token"]: float(other["logprob"]) for other in (*(entry.get("top_logprobs") or ()), entry)},
            )
            for entry in logprobs["content"]
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        return ()
