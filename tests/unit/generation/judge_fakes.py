"""A judge within the test's own process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from cai_jobs.generation.judging.endpoint import Endpoint, Limits
from cai_jobs.generation.judging.judge import Judge, JudgeSettings

Answer = Callable[[dict[str, Any]], Any]


class Fake:
    """Answers each chat request by `answer(body)`: a text, a whole completion, or an exception to be raised."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.retries = 0
        self.now = self.most = 0
        self.closed = False

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        if method == "GET":
            return {"data": [{"id": "served"}]}
        self.bodies.append(body)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        found = self.answer(body)
        if isinstance(found, Exception):
            raise found
        return completion(found) if isinstance(found, str) else found

    async def close(self) -> None:
        self.closed = True


def completion(text: str, content: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A chat completion."""
    logprobs = None if content is None else {"content": content}
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": logprobs}]}


def token(text: str, **alternatives: float) -> dict[str, Any]:
    """A token with its alternatives' probabilities; underscores in their names stand for spaces."""
    logs = {name.replace("_", " "): math.log(value) for name, value in alternatives.items()}
    others = [{"token": name, "logprob": value} for name, value in logs.items()]
    return {"token": text, "logprob": logs.get(text, 0.0), "top_logprobs": others}


def letter(probability_of_a: float) -> dict[str, Any]:
    """A completion of one letter with its odds, 0 < probability < 1."""
    text = "A" if probability_of_a >= 0.5 else "B"
    return completion(text, [token(text, A=probability_of_a, B=1 - probability_of_a)])


def judge_of(settings: JudgeSettings, *fakes: Fake) -> Judge:
    """A judge, or a panel, of fakes."""
    endpoints = [
        Endpoint(f"judge {place}", fake, "/chat", f"model {place}", Limits(settings.concurrency, settings.rate))
        for place, fake in enumerate(fakes)
    ]
    return Judge(settings, endpoints)


def user_message(body: Mapping[str, Any]) -> str:
    """The first user message of a chat request."""
    return str(body["messages"][1]["content"])
