"""Serve the pocket judge behind OpenAI's chat completions API.

    python -m cai_jobs.pocket_judge --port 5998

The request is what `generate_rl_cai_dataset` sends a judge (cai_jobs.generation.judging.request): a user message lists
a question and

- numbered answers (constitution mode): the reply is a verdict, `{"chosen": N, "rejected": M, "explanation": ...}`;
- a principle and answers (A) and (B) (principle mode): the reply is a letter, after a chain of thought where one is
  asked for, with the log-probabilities of both letters where `logprobs` asks for them.

Sampling settings, the constitution in the system message and the principle are accepted and move nothing. Routes:
`/v1/chat/completions`, `/v1/models`, `/health/live`, `/health/ready`. Needs no torch.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_jobs.contract import program
from cai_jobs.contract.program import Parser
from cai_jobs.generation.judging.request import Comparison, parse_comparison, parse_request
from cai_jobs.pocket.judge import Judge, load_judge, log_preferences, rank
from cai_jobs.pocket.paths import JUDGE_FILE
from cai_jobs.serve import bind

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

MODEL_NAME = "pocket-judge"
_REFERENCE_PROMPT = re.compile(r"FULL TEXT:(.*?)\n\s*#1:", re.DOTALL)
_REFERENCE_ANSWER = re.compile(r"\n\s*#(\d+):\s*\n(.*?)(?=\n\s*#\d+:\s*\n|\n\s*Now, choose|\Z)", re.DOTALL)


class RequestError(Exception):
    """The request cannot be answered; the sentence goes to the client with status 400."""


def build_parser() -> Parser:
    """The program's flags."""
    parser = Parser("pocket_judge", "Serve the pocket judge behind OpenAI's chat API.", artifact=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=5998, help="port to listen on")
    parser.add_argument(
        "--judge", type=Path, default=JUDGE_FILE, help="the judge's weights, as `make pocket-base` makes them"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        InputError: the judge's file is missing or no judge, or the port is taken.
    """
    options = build_parser().parse_args(argv)
    judge = load_judge(options.judge)
    import uvicorn

    with bind(options.host, options.port) as listener:
        server = uvicorn.Server(
            uvicorn.Config(build_app(judge), log_level="warning", access_log=False, timeout_graceful_shutdown=5)
        )
        # uvicorn raises the signal again once it has ended; for a server, being asked to stop is no failure
        signal.signal(signal.SIGTERM, server.handle_exit)
        signal.signal(signal.SIGINT, server.handle_exit)
        print(f"listening on http://{options.host}:{listener.getsockname()[1]}", flush=True)
        server.run(sockets=[listener])
    print("stopped", flush=True)


def build_app(judge: Judge) -> Starlette:
    """The server's ASGI application."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def chat_completions(request: Request) -> JSONResponse:
        try:
            return JSONResponse(completion(judge, await request.body()))
        except RequestError as problem:
            error = {"message": str(problem), "type": "invalid_request_error", "code": 400}
            return JSONResponse({"error": error}, status_code=400)

    async def models(_request: Request) -> JSONResponse:
        return JSONResponse(
            {"object": "list", "data": [{"id": MODEL_NAME, "object": "model", "owned_by": "cai-operator"}]}
        )

    async def healthy(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ready"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health/live", healthy),
            Route("/health/ready", healthy),
        ]
    )


@dataclass(frozen=True)
class Chat:
    """A request understood: what is to be judged, and how many log-probabilities a token are wanted, None for none."""

    asked: tuple[str, list[str]] | Comparison
    top_logprobs: int | None


def completion(judge: Judge, body: bytes) -> dict[str, Any]:
    """The chat completion that answers a request's body.

    Raises:
        RequestError: the body is no chat request, or its user messages list no question with two answers or more.
    """
    chat = read_request(body)
    if isinstance(chat.asked, Comparison):
        text, logprobs = _compare(judge, chat.asked, chat.top_logprobs)
    else:
        text, logprobs = _verdict(judge, *chat.asked), None
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": logprobs,
        "finish_reason": "stop",
    }
    return {
        "id": f"chatcmpl-{time.time_ns():x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL_NAME,
        "choices": [choice],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def read_request(body: bytes) -> Chat:
    """What a chat request's body asks, in our generator's forms or in the reference's.

    Raises:
        RequestError: it is not one; the sentence says what was expected.
    """
    try:
        value = json.loads(body)
    except ValueError as problem:
        raise RequestError(f"the body is not JSON: {problem}") from problem
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RequestError("`messages` must be a list of objects with role and content")
    if value.get("stream"):
        raise RequestError("`stream` is not offered by this judge")
    top_logprobs = value.get("top_logprobs") or 0
    if isinstance(top_logprobs, bool) or not isinstance(top_logprobs, int) or not 0 <= top_logprobs <= 20:
        raise RequestError(f"`top_logprobs` is {top_logprobs!r}; an integer from 0 to 20 is wanted")
    return Chat(_asked(messages), top_logprobs if value.get("logprobs") else None)


def _asked(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]] | Comparison:
    said = [message.get("content") for message in messages if message.get("role") == "user"]
    texts = [text for text in said if isinstance(text, str)]
    problems = []
    # a repeated request says what was wrong with the first reply in a further message: the list is in an earlier one
    for text in reversed(texts):
        for parse in (parse_comparison, parse_request):
            try:
                return parse(text)
            except ValueError as problem:
                problems.append(str(problem))
        reference = _REFERENCE_PROMPT.search(text)
        if reference:
            return reference[1].strip(), [answer.strip() for _, answer in _REFERENCE_ANSWER.findall(text)]
    raise RequestError(
        f"no user message lists a question and numbered answers, or answers (A) and (B) "
        f"({'; '.join(problems) or 'there is none'})"
    )


def _verdict(judge: Judge, prompt: str, answers: Sequence[str]) -> str:
    try:
        chosen, rejected, scores = rank(judge, prompt, answers)
    except ValueError as problem:
        raise RequestError(f"the last user message cannot be judged: {problem}") from problem
    explanation = _explain(judge, prompt, answers, chosen, rejected, scores)
    return json.dumps({"chosen": chosen + 1, "rejected": rejected + 1, "explanation": explanation})


def _compare(judge: Judge, asked: Comparison, top_logprobs: int | None) -> tuple[str, dict[str, Any] | None]:
    """(the reply, OpenAI's log-probabilities of its tokens: what comes before the letter, the letter, what follows)."""
    answers = (asked.first, asked.second)
    logs = dict(zip("AB", log_preferences(judge, asked.prompt, *answers), strict=True))
    letter = max(logs, key=lambda name: logs[name])
    before, after = "", ""
    if asked.chain_of_thought:
        chosen, rejected, scores = rank(judge, asked.prompt, answers)
        before = f"{_explain(judge, asked.prompt, answers, chosen, rejected, scores)}\nThe answer is: ("
        after = ")"
    if top_logprobs is None:
        return before + letter + after, None
    likeliest = sorted(logs, key=lambda name: -logs[name])[:top_logprobs]
    place = {**_token(letter, logs[letter]), "top_logprobs": [_token(name, logs[name]) for name in likeliest]}
    around = [{**_token(text, 0.0), "top_logprobs": [_token(text, 0.0)][:top_logprobs]} for text in (before, after)]
    content = [token for token in (around[0], place, around[1]) if token["token"]]
    return before + letter + after, {"content": content}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _explain(
    judge: Judge, prompt: str, answers: Sequence[str], chosen: int, rejected: int, scores: Sequence[float]
) -> str:
    if chosen == rejected:
        return f"All answers are equally harmless (score {scores[chosen]:.1f})."
    described = [
        f"answer {index + 1} reads as {judge.likeliest_manner(prompt, answers[index])} (score {scores[index]:.1f})"
        for index in (chosen, rejected)
    ]
    return f"{described[0].capitalize()}, {described[1]}."


if __name__ == "__main__":
    program.run(main)
