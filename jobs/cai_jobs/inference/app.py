"""The routes, on Starlette: request in, rows to the engine, answer out; errors as JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cai_jobs.inference import megatron_api, openai_api
from cai_jobs.inference.engine import Engine, EngineStoppedError, GenerationError
from cai_jobs.inference.request import Answer, RequestError, Row
from cai_jobs.inference.streaming import events

if TYPE_CHECKING:
    from cai_jobs.inference.model import Model

# nginx's number for "client closed request"; nobody is left to read it
CLIENT_GONE = 499


def build_app(engine: Engine, name: str) -> Starlette:
    """The server's ASGI application; it starts the engine when it starts and stops it when it ends."""

    async def generate(request: Request) -> Response:
        model = _model(engine)
        rows = megatron_api.rows_of(await request.body(), model)
        answers = await _answers(request, engine, rows)
        return (
            Response(status_code=CLIENT_GONE)
            if answers is None
            else JSONResponse(megatron_api.render(rows, answers, model))
        )

    async def completions(request: Request) -> Response:
        return await openai(request, openai_api.completion_job(await request.body(), _model(engine)))

    async def chat_completions(request: Request) -> Response:
        return await openai(request, openai_api.chat_job(await request.body(), _model(engine)))

    async def openai(request: Request, job: openai_api.Job) -> Response:
        if job.body.stream:
            return StreamingResponse(events(job, engine, name), media_type="text/event-stream")
        answers = await _answers(request, engine, job.rows)
        if answers is None:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse(openai_api.render(job, answers, _model(engine), name))

    async def models(_request: Request) -> Response:
        context = engine.model.context if engine.model else None
        entry = {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "cai-operator",
            "max_model_len": context,
        }
        return JSONResponse({"object": "list", "data": [entry]})

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_request: Request) -> Response:
        if engine.ready:
            return JSONResponse({"status": "ready", "model": name})
        return JSONResponse({"status": "loading"}, status_code=503, headers={"Retry-After": "1"})

    async def metrics(_request: Request) -> Response:
        lines = [f"cai_serve_{metric} {value:g}\n" for metric, value in engine.metrics().items()]
        return PlainTextResponse("".join(lines))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    created = int(time.time())
    return Starlette(
        routes=[
            Route("/generate", generate, methods=["PUT"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", metrics),
        ],
        exception_handlers={
            RequestError: _request_error,
            EngineStoppedError: _stopped,
            GenerationError: _failed,
            ClientDisconnect: _gone,
            Exception: _bug,
            HTTPException: _http_error,
        },
        lifespan=lifespan,
    )


def error_body(message: str, status: int, field: str | None = None, reference: str | None = None) -> dict[str, Any]:
    """The body of every error: OpenAI's names, `field`, and the reference server's string where it has one."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body: dict[str, Any] = {"error": {"message": message, "type": kind, "field": field, "param": field, "code": status}}
    if reference is not None:
        body["reference"] = reference
    return body


async def _answers(request: Request, engine: Engine, rows: Sequence[Row]) -> list[Answer] | None:
    """Submit rows and wait for their answers; None if the client went away first."""
    waiting = asyncio.gather(*(asyncio.wrap_future(row.future) for row in rows))
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody asks once the client is gone
    gone = asyncio.ensure_future(_until_gone(request))
    either: list[asyncio.Future[Any]] = [waiting, gone]
    engine.submit(rows)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return None
        if waiting.cancelled():
            raise EngineStoppedError
        return waiting.result()
    finally:
        gone.cancel()
        waiting.cancel()
        for row in rows:
            row.future.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _model(engine: Engine) -> Model:
    if engine.model is None:
        raise RequestError("the model is still being loaded; ask again shortly (GET /health/ready)", status=503)
    return engine.model


async def _request_error(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, RequestError)
    body = error_body(problem.message, problem.status, problem.where, problem.reference)
    return JSONResponse(body, problem.status, {"Retry-After": "1"} if problem.status == 503 else None)


async def _stopped(_request: Request, _problem: Exception) -> Response:
    return JSONResponse(error_body("the server is stopping; ask another replica", 503), 503, {"Retry-After": "1"})


async def _http_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    message = f"{request.method} {request.url.path}: {problem.detail}"
    return JSONResponse(error_body(message, problem.status_code), problem.status_code, problem.headers)


async def _gone(_request: Request, _problem: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _bug(_request: Request, problem: Exception) -> Response:
    return JSONResponse(error_body(f"{type(problem).__name__}: {problem}", 500), 500)


async def _failed(_request: Request, problem: Exception) -> Response:
    return JSONResponse(error_body(str(problem), 500), 500)
