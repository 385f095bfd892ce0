"""A model server that answers by a hash of all an answer may depend on, for tests of the inference client."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from tests.harness.http_server import Call, Reply, serving

from cai_jobs.clients.inference import InferenceServer, Refused, connect
from cai_jobs.formats.chat import ASSISTANT, EXTRA_ID, USER, Message

SEED = 7
GREEDY = {"greedy": True, "tokens_to_generate": 8}
SAMPLED = {"temperature": 1.0, "tokens_to_generate": 8}
TOO_LONG = "the prompt is too long"


def said(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


class Model:
    """A server that answers by a hash of all an answer may depend on.

    Args:
        speaks: megatron (the reference's: one seed a request), ours (also one a sentence) or openai.
        fault: what to reply instead, if anything.
        after: awaited before each answer.
    """

    def __init__(
        self,
        speaks: str,
        fault: Callable[[Call], Reply | None] = lambda _: None,
        after: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0),
    ) -> None:
        self.speaks, self.fault, self.after = speaks, fault, after
        self.calls: list[Call] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, call: Call) -> Reply:
        if call.method == "GET":
            known = {"megatron": (), "ours": ("/v1/models",), "openai": ("/v1/models",)}[self.speaks]
            if call.path in known:
                return Reply({"data": [{"id": "tuned"}]})
            return Reply("", 405 if call.path == "/generate" and self.speaks != "openai" else 404)
        self.calls.append(call)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.after()
        self.at_once -= 1
        return self.fault(call) or (self._generate(call.body) if call.path == "/generate" else self._complete(call))

    @property
    def sizes(self) -> list[int]:
        """Sentences a request."""
        return [len(texts_of(call)) for call in self.calls]

    def _generate(self, body: dict[str, Any]) -> Reply:
        texts = body["sentences"]
        if isinstance(texts[0], dict):
            assert all(len(turn["role"]) == len(texts[0]["role"]) for turn in texts)
            contents = [turn["content"] for turn in texts]
            texts = ["\n".join(turns) + "\n<extra_id_1>Assistant\n" for turns in zip(*contents, strict=True)]
        if any("too long" in text for text in texts):
            return Reply(TOO_LONG) if self.speaks == "megatron" else Reply({"error": {"message": TOO_LONG}}, 400)
        if body.get("greedy"):
            found = [said(text) for text in texts]
        elif "random_seeds" in body:
            assert self.speaks == "ours"
            found = [said(*pair, body["temperature"]) for pair in zip(texts, body["random_seeds"], strict=True)]
        else:
            found = [said(texts, place, body["random_seed"], body["temperature"]) for place in range(len(texts))]
        return Reply(
            {"sentences": [f"{text}{answer} \n<extra_id_1>" for text, answer in zip(texts, found, strict=True)]}
        )

    def _complete(self, call: Call) -> Reply:
        (text,) = texts_of(call)
        if "too long" in text:
            return Reply({"error": {"message": TOO_LONG}}, 400)
        answer = said(text, call.body["seed"], call.body["temperature"])
        choice = {"text": answer} if "prompt" in call.body else {"message": {"content": answer}}
        return Reply({"choices": [choice], "usage": {"completion_tokens": 3}})


def texts_of(call: Call) -> list[str]:
    if "prompt" in call.body:
        return [call.body["prompt"]]
    if "messages" in call.body:
        return ["\n".join(message["content"] for message in call.body["messages"])]
    sentences = call.body["sentences"]
    return sentences if isinstance(sentences[0], str) else sentences[-1]["content"]


def with_server(
    model: Model | Sequence[Model], use: Callable[[InferenceServer], Awaitable[Any]], **settings: Any
) -> Any:
    """Use a client of these replicas."""

    async def main() -> Any:
        async with AsyncExitStack() as stack:
            models = [model] if isinstance(model, Model) else model
            ports = [await stack.enter_async_context(serving(one)) for one in models]
            config = {"host": ",".join(f"127.0.0.1:{port}" for port in ports), **settings.pop("options", SAMPLED)}
            defaults = {"formatted": True, "seed": SEED, "batch_size": 8, "retry_budget_s": 60.0}
            async with await connect(config, EXTRA_ID, **{**defaults, **settings}) as server:
                return await use(server)

    return asyncio.run(main())


def question(text: str) -> list[Message]:
    return [{"role": USER, "content": text}]


def follow_up(dialogue: list[Message], answer: str) -> list[Message]:
    return [*dialogue, {"role": ASSISTANT, "content": answer}, {"role": USER, "content": "Why?"}]


async def one(server: InferenceServer, step: str, row: int, dialogue: list[Message], **more: Any) -> Any:
    (answer,) = await server.answers(step, [row], [dialogue], **more)
    return answer


async def converse(server: InferenceServer, rows: int) -> dict[tuple[int, str], Any]:
    """Every row asks three times, the last time at two temperatures at once; rows take their time."""
    found: dict[tuple[int, str], Any] = {}

    async def row(number: int) -> None:
        dialogue = question(f"q{number}" + " too long" * (number == 5))
        for step in ("response", "critique"):
            await asyncio.sleep(random.random() * 0.01)
            answer = found[number, step] = await one(server, step, number, dialogue)
            if isinstance(answer, Refused):
                return
            dialogue = follow_up(dialogue, answer)
        hot, cold = await asyncio.gather(*(one(server, "last", number, dialogue, temperature=t) for t in (1.5, 0.5)))
        found[number, "hot"], found[number, "cold"] = hot, cold

    await asyncio.gather(*map(row, range(rows)))
    return found
