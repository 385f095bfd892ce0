"""OpenAI's completions and chat completions: request to rows, rows to answer, whole or streamed.

Beyond OpenAI's fields: top_k, repetition_penalty, min_tokens (vLLM's names). What a field asks for and this server
cannot give is refused, not ignored.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from cai_jobs.inference.request import GREEDY_BELOW, MAX_ROWS, Answer, RequestError, Row, Sampling
from cai_jobs.inference.validation import Body, parse

if TYPE_CHECKING:
    from cai_jobs.inference.model import Model

# only where the model's configuration names no context length
DEFAULT_CHAT_TOKENS = 1024
UNSUPPORTED = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "suffix": "",
    "best_of": 1,
    "tools": [],
    "functions": [],
    "audio": None,
    "response_format": {"type": "text"},
}


class CommonBody(Body):
    """What both OpenAI requests share."""

    model: str | None = Field(None, description="any text; the one model served answers")
    n: Annotated[int, Field(ge=1, le=MAX_ROWS)] = Field(1, description=f"an integer from 1 to {MAX_ROWS}")
    temperature: Annotated[float, Field(ge=0, le=100)] = Field(1.0, description="a number from 0 to 100; 0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="a number above 0 and at most 1")
    top_k: Annotated[int, Field(ge=-1)] = Field(0, description="an integer; 0 and -1 keep every token")
    repetition_penalty: Annotated[float, Field(ge=1)] = Field(1.0, description="a number of at least 1")
    min_tokens: Annotated[int, Field(ge=0)] = Field(0, description="an integer of at least 0")
    stop: str | list[str] | None = Field(None, description="a string, a list of strings, or null")
    seed: Annotated[int, Field(ge=0)] | None = Field(None, description="an integer of at least 0, or null")
    stream: bool = Field(False, description="true or false")
    stream_options: dict[str, Any] | None = Field(None, description="an object, or null")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: dict[str, Any]) -> dict[str, Any]:
        for name, neutral in UNSUPPORTED.items():
            if body.get(name) not in (None, neutral):
                raise ValueError(f"{name} is not supported by this server; leave it out")
        # null means "the default" wherever OpenAI has one
        return {name: value for name, value in body.items() if value is not None}


class CompletionBody(CommonBody):
    """The body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="a text, a list of texts, a list of token ids, or a list of such lists"
    )
    max_tokens: Annotated[int, Field(ge=1)] = Field(16, description="an integer above 0")
    echo: bool = Field(False, description="true or false")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="an integer from 0 to 20, or null")


class Message(Body):
    """One message of a chat."""

    role: str
    content: str | list[dict[str, Any]]


class ChatBody(CommonBody):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)] = Field(
        description='a list of objects {"role": text, "content": text}, one at least'
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="an integer above 0, or null")
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="an integer above 0, or null")
    logprobs: bool = Field(False, description="true or false")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = Field(0, description="an integer from 0 to 20")


@dataclass(frozen=True)
class Job:
    """A request understood: its rows (a prompt's n choices in turn) and how to answer.

    Attributes:
        prompts: distinct prompts, for counting their tokens once.
    """

    rows: list[Row]
    body: CommonBody
    prompts: int
    chat: bool

    @property
    def echo(self) -> bool:
        return isinstance(self.body, CompletionBody) and self.body.echo


def completion_job(raw: bytes, model: Model) -> Job:
    """Understand POST /v1/completions. Raises RequestError."""
    body = parse(CompletionBody, raw)
    prompts = _texts_or_ids(body.prompt)
    if len(prompts) * body.n > MAX_ROWS:
        raise RequestError(f"{len(prompts)} prompts times n={body.n} is above {MAX_ROWS} answers a request", "prompt")
    for prompt in prompts:
        if isinstance(prompt, list) and not all(0 <= token < model.vocabulary for token in prompt):
            raise RequestError(f"prompt: token ids of this model are 0 to {model.vocabulary - 1}", "prompt")
    texts = [model.decode(prompt) if isinstance(prompt, list) else prompt for prompt in prompts]
    ids = [prompt if isinstance(prompt, list) else model.encode([prompt], special_tokens=True)[0] for prompt in prompts]
    sampling = _sampling(body, body.max_tokens, body.logprobs is not None, body.logprobs or 0)
    rows = [row for text, prompt in zip(texts, ids, strict=True) for row in _choices(text, prompt, sampling, body)]
    model.check_length(rows, "max_tokens")
    return Job(rows, body, len(prompts), chat=False)


def chat_job(raw: bytes, model: Model) -> Job:
    """Understand POST /v1/chat/completions. Raises RequestError."""
    body = parse(ChatBody, raw)
    text = model.chat_prompt([{"role": m.role, "content": _text(m.content)} for m in body.messages])
    ids = model.encode([text])[0]
    room = DEFAULT_CHAT_TOKENS if model.context is None else max(1, model.context - len(ids))
    max_tokens = body.max_completion_tokens or body.max_tokens or room
    sampling = _sampling(body, max_tokens, body.logprobs, body.top_logprobs)
    rows = list(_choices(text, ids, sampling, body))
    model.check_length(rows, "max_tokens")
    return Job(rows, body, 1, chat=True)


def render(job: Job, answers: Sequence[Answer], model: Model, name: str) -> dict[str, Any]:
    """The whole answer's body."""
    choices = []
    for index, (row, answer) in enumerate(zip(job.rows, answers, strict=True)):
        choice: dict[str, Any] = {"index": index}
        if job.chat:
            choice["message"] = {"role": "assistant", "content": answer.text}
            choice["logprobs"] = {"content": chat_logprobs(row, answer, model)} if answer.scores else None
        else:
            choice["text"] = (row.prompt if job.echo else "") + answer.text
            choice["logprobs"] = completion_logprobs(row, answer, model, job.echo) if answer.scores else None
        choices.append({**choice, "finish_reason": finish_reason(answer)})
    return {**header(job, name), "choices": choices, "usage": usage(job, answers)}


def header(job: Job, name: str, *, chunk: bool = False) -> dict[str, Any]:
    """id, object, created (seconds since 1970) and model of an answer."""
    kind = "chat.completion" + (".chunk" if chunk else "") if job.chat else "text_completion"
    prefix = "chatcmpl" if job.chat else "cmpl"
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def usage(job: Job, answers: Sequence[Answer]) -> dict[str, int]:
    """Token counts; a prompt counts once however many choices it has."""
    prompt = sum(len(row.prompt_ids) for row in job.rows[:: job.body.n])
    completion = sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def finish_reason(answer: Answer) -> str:
    """`stop` if the answer ended by itself, else `length`."""
    return "stop" if answer.ended else "length"


def completion_logprobs(row: Row, answer: Answer, model: Model, echo: bool) -> dict[str, Any]:
    """The legacy form: parallel lists over tokens; offsets count characters of the choice's text."""
    assert answer.scores is not None
    ids = [*row.prompt_ids, *answer.token_ids]
    start = 0 if echo else len(row.prompt_ids)
    pieces = model.pieces(ids)
    values: list[float | None] = [None, *answer.scores.tokens]
    top: list[dict[str, float] | None] = [None]
    top += [
        dict(zip(model.pieces([t for t, _ in pairs]), (v for _, v in pairs), strict=True))
        for pairs in answer.scores.top
    ]
    offsets, position = [], 0
    for token, piece in zip(ids[start:], pieces[start:], strict=True):
        offsets.append(position)
        position += 0 if model.is_hidden(token) else len(piece)
    return {
        "tokens": pieces[start:],
        "token_logprobs": values[start:],
        "top_logprobs": top[start:] if row.sampling.top_logprobs else None,
        "text_offset": offsets,
    }


def chat_logprobs(row: Row, answer: Answer, model: Model) -> list[dict[str, Any]]:
    """The chat form: one object a completion token."""
    assert answer.scores is not None
    first = len(row.prompt_ids) - 1
    entries = []
    for place, (piece, value) in enumerate(
        zip(model.pieces(answer.token_ids), answer.scores.tokens[first:], strict=True)
    ):
        pairs = answer.scores.top[first + place] if answer.scores.top else []
        names = model.pieces([token for token, _ in pairs])
        alternatives = [_logprob(name, v) for name, (_, v) in zip(names, pairs, strict=True)]
        entries.append({**_logprob(piece, value), "top_logprobs": alternatives})
    return entries


def _logprob(piece: str, value: float) -> dict[str, Any]:
    return {"token": piece, "logprob": value, "bytes": list(piece.encode())}


def _sampling(body: CommonBody, max_tokens: int, logprobs: bool, top_logprobs: int) -> Sampling:
    if body.stream and logprobs:
        raise RequestError("logprobs cannot be streamed by this server; ask without stream", "logprobs")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        greedy=body.temperature < GREEDY_BELOW or body.top_k == 1,
        temperature=body.temperature,
        top_k=max(0, body.top_k),
        top_p=body.top_p,
        repetition_penalty=body.repetition_penalty,
        stop=tuple(string for string in stop if string),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
    )


def _choices(text: str, ids: list[int], sampling: Sampling, body: CommonBody) -> list[Row]:
    rows = [Row(text, ids, sampling, index=index) for index in range(body.n)]
    if body.seed is not None:
        for row in rows:
            row.seed = body.seed
    return rows


def _texts_or_ids(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    ids = [token for token in prompt if isinstance(token, int)]
    return [ids] if ids else [entry for entry in prompt if not isinstance(entry, int)]


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in content):
        raise RequestError("messages: only parts of type text are supported by this server", "messages")
    return "".join(part["text"] for part in content)
