"""Server-sent events for OpenAI's `stream`: text goes out as soon as no stop string can take it back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from cai_jobs.inference import openai_api
from cai_jobs.inference.engine import Engine
from cai_jobs.inference.openai_api import Job
from cai_jobs.inference.request import Answer, cut_at_stop


def settled(text: str, stop: tuple[str, ...]) -> str:
    """The part of a growing text that later tokens cannot change: no stop string begun, no character half there."""
    text, found = cut_at_stop(text, stop)
    if found is not None:
        return text
    text = text.rstrip("\ufffd")
    held = max((n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
    return text[: len(text) - held]


async def events(job: Job, engine: Engine, name: str) -> AsyncIterator[str]:
    """The event lines of a streamed answer. Closing the iterator gives the rows' places away."""
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[tuple[int, str | Answer | BaseException]] = asyncio.Queue()

    def tell(index: int, what: str | Answer | BaseException) -> None:
        loop.call_soon_threadsafe(news.put_nowait, (index, what))

    for index, row in enumerate(job.rows):
        row.on_text = partial(tell, index)
        row.future.add_done_callback(
            lambda f, i=index: None if f.cancelled() else tell(i, f.exception() or f.result())  # type: ignore[misc]
        )
    head = openai_api.header(job, name, chunk=True)
    sent = [""] * len(job.rows)
    answers: list[Answer] = []
    engine.submit(job.rows)
    try:
        if job.chat:
            for index in range(len(job.rows)):
                yield _event(head, _choice(job, index, {"role": "assistant", "content": ""}))
        elif job.echo:
            for index, row in enumerate(job.rows):
                yield _event(head, _choice(job, index, row.prompt))
        while len(answers) < len(job.rows):
            index, what = await news.get()
            if isinstance(what, BaseException):
                yield f"data: {json.dumps({'error': {'message': str(what), 'type': 'server_error'}})}\n\n"
                return
            text = settled(what, job.rows[index].sampling.stop) if isinstance(what, str) else what.text
            fresh = text[len(sent[index]) :]
            if fresh:
                sent[index] = text
                yield _event(head, _choice(job, index, {"content": fresh} if job.chat else fresh))
            if isinstance(what, Answer):
                answers.append(what)
                end = _choice(job, index, {} if job.chat else "")
                yield _event(head, {**end, "finish_reason": openai_api.finish_reason(what)})
        if (job.body.stream_options or {}).get("include_usage"):
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': openai_api.usage(job, answers)})}\n\n"
        yield "data: [DONE]\n\n"
    finally:
        for row in job.rows:
            row.future.cancel()


def _choice(job: Job, index: int, content: Any) -> dict[str, Any]:
    return {"index": index, "delta" if job.chat else "text": content, "logprobs": None, "finish_reason": None}


def _event(head: dict[str, Any], choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({**head, 'choices': [choice]}, ensure_ascii=False)}\n\n"
