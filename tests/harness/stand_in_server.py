"""A stand-in for the model servers and the judge: as deterministic as a hash, as slow and as broken as it is told.

    python -m tests.harness.stand_in_server --port 5999 --speaks ours --engine continuous

It speaks like one of three servers:

- `megatron`, the reference's: `PUT /generate` alone, one `random_seed` a request, so that with sampling a sentence's
  answer depends on the sentences beside it; refuses with status 200 and a JSON string.
- `ours`: the same with `random_seeds`, one a sentence, and OpenAI's pages beside it.
- `openai`: OpenAI's pages alone.

`/v1/chat/completions` also stands in for the judge, wherever a chat lists numbered candidates (and takes then the time
of `--judge-s`). Faults hit requests at random and have nothing to do with what is answered. A process can ask to be
killed when so many more requests have come in (`PUT /stand-in/kill`); `GET /stand-in/statistics` says what was done.

Left out of `PUT /generate`'s answers are tokens, token_ids, offsets and logprob.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest
from tests.harness.stand_in_engines import Continuous, Desk, Engine, Instant, Locked
from tests.harness.stand_in_texts import Speaker, is_question_to_judge, judge

MODEL = "stand-in"
MOST_SENTENCES = 128
LARGEST_BODY = 2**28
VLLM_FIELDS = ("top_k", "min_tokens", "repetition_penalty")
FAULTS = ("503", "429", "torn", "text")


class RefusedError(Exception):
    """The request cannot be done."""


@dataclass
class Kill:
    """A process that wants to die `delay_s` after so many requests more have come in."""

    pid: int
    requests: int
    delay_s: float = 0.0


@dataclass
class StandIn:
    """The server.

    Attributes:
        faults: kind (of FAULTS) -> share of the requests it hits. 503 and 429 answer with that status, torn cuts the
            connection in the middle of the answer, text answers 200 with something that is no JSON.
        retry_after: the header sent with 429.
        refuse: prompts with this text are refused; "" for none.
        useless_share: of how many questions the judge's reply is of no use.
        plain: whether the fields vLLM adds to OpenAI's are refused.
    """

    speaks: str
    engine: Engine
    desk: Engine
    speaker: Speaker
    faults: Mapping[str, float]
    chance: random.Random
    retry_after: str
    refuse: str
    useless_share: float
    plain: bool
    counts: Counter[str] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        page = self._page(request.method, request.path)
        if page is None:
            return _json({"message": "not found"}, 405 if request.path == "/generate" and self._has_generate else 404)
        if request.method == "GET" or request.path.startswith("/stand-in/"):
            return _json(await page(await request.json() if request.can_read_body else None))
        return await self._work(request, page)

    @property
    def _has_generate(self) -> bool:
        return self.speaks != "openai"

    def _page(self, method: str, path: str) -> Callable[[Any], Awaitable[Any]] | None:
        pages: dict[tuple[str, str], Callable[[Any], Awaitable[Any]]] = {
            ("GET", "/stand-in/statistics"): self.statistics,
            ("PUT", "/stand-in/kill"): self.add_kill,
        }
        if self._has_generate:
            pages["PUT", "/generate"] = self.generate
        if self.speaks != "megatron":
            pages["GET", "/v1/models"] = self.models
            pages["POST", "/v1/completions"] = self.completions
        # the reference's server has no chats; this is the judge beside it
        pages["POST", "/v1/chat/completions"] = self.chat
        return pages.get((method, path))

    async def _work(self, request: BaseRequest, page: Callable[[Any], Awaitable[Any]]) -> web.StreamResponse:
        now = asyncio.get_running_loop().time()
        self.first = self.first or now
        self.counts["requests"] += 1
        body = json.loads(await request.read())
        self._strike()
        fault = self._fault()
        if fault in ("503", "429"):
            headers = {"Retry-After": self.retry_after} if fault == "429" else {}
            return _json({"error": {"message": "busy"}}, int(fault), headers)
        try:
            answer, status = await page(body), 200
        except RefusedError as problem:
            self.counts["refused"] += 1
            if request.path == "/generate" and self.speaks == "megatron":
                answer, status = str(problem), 200
            else:
                answer, status = {"error": {"message": str(problem)}}, 400
        self.last = asyncio.get_running_loop().time()
        if fault == "text":
            return web.Response(text="<html>upstream is gone</html>")
        return await _torn(request, answer) if fault == "torn" else _json(answer, status)

    def _fault(self) -> str | None:
        drawn = self.chance.random()
        for kind, share in self.faults.items():
            if drawn < share:
                self.counts[f"fault {kind}"] += 1
                return kind
            drawn -= share
        return None

    def _strike(self) -> None:
        for kill in self.kills:
            kill.requests -= 1
            if kill.requests == 0:
                asyncio.get_running_loop().call_later(kill.delay_s, _kill, kill.pid)
        self.kills = [kill for kill in self.kills if kill.requests > 0]

    async def add_kill(self, body: Any) -> Any:
        self.kills.append(Kill(**body))
        return {}

    async def statistics(self, _: Any) -> Any:
        """Counts; seconds for which engine and judge were busy; when the first request came and the last answer was
        ready, in seconds of a clock that all processes of a machine share."""
        busy = {"busy_s": self.engine.busy_s, "judge_busy_s": self.desk.busy_s}
        return {**self.counts, **busy, "first_s": self.first, "last_s": self.last}

    async def models(self, _: Any) -> Any:
        return {"object": "list", "data": [{"id": MODEL, "object": "model"}]}

    async def generate(self, body: Any) -> Any:
        """`PUT /generate`."""
        sentences = body["sentences"]
        texts = _laid_out(sentences) if isinstance(sentences[0], dict) else sentences
        if not 1 <= len(texts) <= MOST_SENTENCES:
            raise RefusedError(f"{len(texts)} sentences; 1 to {MOST_SENTENCES} are allowed")
        seeds: list[Any] = [None] * len(texts)
        if not body.get("greedy") and body.get("top_k") != 1:
            seeds = list(range(len(texts)))
            if self.speaks == "ours" and body.get("random_seeds"):
                seeds = body["random_seeds"]
                if len(seeds) != len(texts):
                    raise RefusedError(f"{len(seeds)} random_seeds for {len(texts)} sentences")
            else:
                batch = hashlib.sha256("\0".join([*texts, str(body.get("random_seed"))]).encode()).hexdigest()
                seeds = [f"{batch} {place}" for place in seeds]
        answers = await self._say(texts, seeds, body["temperature"], body["tokens_to_generate"])
        end = "\n" + body["end_strings"][0] if body.get("end_strings") else ""
        found = {"sentences": [f"{text}{answer}{end}" for text, answer in zip(texts, answers, strict=True)]}
        if self.speaks == "ours":
            found["completions"] = answers
        return found

    async def completions(self, body: Any) -> Any:
        """`POST /v1/completions`."""
        prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
        answers = await self._sample(prompts, body)
        choices = [{"index": place, "text": answer, "finish_reason": "stop"} for place, answer in enumerate(answers)]
        return {"object": "text_completion", "model": MODEL, "choices": choices, "usage": _usage(prompts, answers)}

    async def chat(self, body: Any) -> Any:
        """`POST /v1/chat/completions`, which the judge is asked by as well."""
        messages = body["messages"]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if is_question_to_judge(messages):
            self.counts["judged"] += 1
            await self.desk.serve([1])
            reply = judge(messages, self.useless_share)
            answer = reply.text
            if body.get("logprobs") and reply.options:
                choice["logprobs"] = {"content": [_logprobs(answer, reply.options)]}
        else:
            if self.speaks == "megatron":
                raise RefusedError("this server has no chats")
            text = _laid_out([{"role": [m["role"]], "content": [m["content"]]} for m in messages])
            [answer] = await self._sample(text, body)
        choice["message"] = {"role": "assistant", "content": answer}
        usage = _usage([str(message["content"]) for message in messages], [answer])
        return {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}

    async def _sample(self, prompts: Sequence[str], body: Any) -> list[str]:
        if self.plain and any(name in body for name in VLLM_FIELDS):
            raise RefusedError(f"unknown field {next(name for name in VLLM_FIELDS if name in body)}")
        greedy = not body.get("temperature", 1.0) or body.get("top_k") == 1
        seeds = [None if greedy else f"{body.get('seed')} {place}" for place in range(len(prompts))]
        return await self._say(prompts, seeds, body.get("temperature", 1.0), body.get("max_tokens") or 16)

    async def _say(self, texts: Sequence[str], seeds: Sequence[Any], temperature: float, most: int) -> list[str]:
        if self.refuse and any(self.refuse in text for text in texts):
            raise RefusedError("the prompt is too long")
        answers = [self.speaker.answer(*pair, temperature, most) for pair in zip(texts, seeds, strict=True)]
        await self.engine.serve([length for _, length in answers])
        self.counts["sentences"] += len(texts)
        self.counts["tokens"] += sum(length for _, length in answers)
        return [answer for answer, _ in answers]


def main() -> None:
    """Serve until killed."""
    args = build_parser().parse_args()
    engines: dict[str, Callable[[], Engine]] = {
        "instant": Instant,
        "locked": lambda: Locked(args.step_s),
        "continuous": lambda: Continuous(args.step_s, args.slots),
    }
    server = StandIn(
        args.speaks,
        engines[args.engine](),
        Desk(args.judge_s, args.judge_places) if args.judge_s else Instant(),
        Speaker(args.mean_tokens),
        json.loads(args.faults),
        random.Random(args.seed),
        args.retry_after,
        args.refuse,
        args.useless_share,
        args.plain,
    )
    if set(server.faults) - set(FAULTS):
        raise SystemExit(f"--faults {args.faults}: the kinds are {', '.join(FAULTS)}")
    asyncio.run(_serve(server, args.host, args.port))


def build_parser() -> argparse.ArgumentParser:
    """The program's flags; StandIn's attributes say what they mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--speaks", choices=["megatron", "ours", "openai"], default="ours")
    parser.add_argument("--engine", choices=["instant", "locked", "continuous"], default="instant")
    parser.add_argument("--step-s", type=float, default=0.002, help="one token of one sequence running alone")
    parser.add_argument("--slots", type=int, default=256, help="of the continuous engine")
    parser.add_argument("--mean-tokens", type=float, default=24.0, help="mean length of answers")
    parser.add_argument("--judge-s", type=float, default=0.0, help="how long one verdict takes")
    parser.add_argument("--judge-places", type=int, default=64, help="how many verdicts are worked on at a time")
    parser.add_argument("--faults", default="{}", help='JSON, such as {"503": 0.2, "torn": 0.05}')
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--retry-after", default="0")
    parser.add_argument("--refuse", default="")
    parser.add_argument("--useless-share", type=float, default=0.0)
    parser.add_argument("--plain", action="store_true")
    return parser


async def _serve(server: StandIn, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> BaseRequest:
        return BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LARGEST_BODY)

    runner = web.ServerRunner(web.Server(server.handle, request_factory=make_request, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=2048, reuse_address=True).start()
    print(f"listening on http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


def _laid_out(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Collated dialogues, each as the text this server's own chat template makes of it."""
    if len({(len(turn["role"]), len(turn["content"])) for turn in turns}) != 1:
        raise RefusedError("every dialogue of a request needs the same number of turns")
    rows = [list(zip(turn["role"], turn["content"], strict=True)) for turn in turns]
    return ["".join(f"[{role}] {text} " for role, text in row) + "[/INST]" for row in zip(*rows, strict=True)]


def _usage(prompts: Sequence[str], answers: Sequence[str]) -> dict[str, int]:
    before, after = (sum(text.count(" ") + 1 for text in texts) for texts in (prompts, answers))
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}


def _logprobs(token: str, options: Mapping[str, float]) -> dict[str, Any]:
    """One token of a reply as chat completions have it."""
    others = [{"token": other, "logprob": value} for other, value in options.items()]
    return {"token": token, "logprob": options[token], "top_logprobs": others}


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps(value).encode(), status=status, headers=headers, content_type="application/json"
    )


async def _torn(request: BaseRequest, answer: Any) -> web.StreamResponse:
    """Send the first half of an answer and cut the connection."""
    data = json.dumps(answer).encode()
    response = web.StreamResponse(headers={"Content-Length": str(len(data)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
