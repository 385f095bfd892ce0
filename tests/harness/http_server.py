"""An HTTP server in the test's own event loop, that answers as the test says."""

from __future__ import annotations

import inspect
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Call:
    """A request that came in."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What it is answered: `value` as JSON, or `text` as it is; `torn` breaks the connection in the middle."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] | None = None
    text: str | None = None
    torn: bool = False


Answer = Callable[[Call], Reply | Awaitable[Reply]]


@asynccontextmanager
async def serving(
    answer: Answer, host: str = "127.0.0.1", port: int = 0, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve while the block lasts; its port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        content = await request.read()
        body = json.loads(content) if content else None
        found = answer(Call(request.method, request.path_qs, body, dict(request.headers)))
        reply = await found if inspect.isawaitable(found) else found
        text = json.dumps(reply.value) if reply.text is None else reply.text
        if reply.torn:
            response = web.StreamResponse(status=reply.status, headers={"Content-Length": str(len(text) + 10)})
            await response.prepare(request)
            await response.write(text.encode())
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(status=reply.status, text=text, headers=reply.headers)

    server = web.Server(handle)
    runner = web.ServerRunner(server, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, host, port, reuse_address=True, ssl_context=ssl_context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
