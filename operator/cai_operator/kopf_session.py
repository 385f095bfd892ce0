"""Kopf's own connection to the API server, with its requests counted: the lists and watches behind the indexes."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf

OnAnswer = Callable[[str, str, int | None, float, bool], None]
"""Told of every request: method, path, the answer's status (None: none), seconds until then, whether it is a watch."""


class CountedSession(kopf.AiohttpSession):
    """The session kopf would make of these credentials, traced.

    Two of the same credentials are equal, by which kopf knows that ones the API server refused are offered again. The
    session is made when kopf first asks for it: one that was refused needs none.
    """

    def __init__(self, info: kopf.ConnectionInfo, on_answer: OnAnswer) -> None:
        own = {"info": info, "on_answer": on_answer}
        shared = {name: getattr(info, name) for name in ("server", "priority", "default_namespace", "expiration")}
        for name, value in {**own, **shared}.items():
            object.__setattr__(self, name, value)

    @property
    def aiohttp_session(self) -> aiohttp.ClientSession:
        """A new session; kopf asks once, and closes it."""
        info: kopf.ConnectionInfo = self.info  # type: ignore[attr-defined]
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            proxy=info.proxy_url,
            trust_env=info.trust_env,
            trace_configs=[_trace(self.on_answer)],  # type: ignore[attr-defined]
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CountedSession) and self.info == other.info  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self.server)

    def __repr__(self) -> str:
        return f"CountedSession(server={self.server!r})"  # the credentials stay out of logs


def _trace(on_answer: OnAnswer) -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()

    async def begin(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
        context.begin = time.monotonic()

    async def end(_: aiohttp.ClientSession, context: SimpleNamespace, found: Any) -> None:
        response = getattr(found, "response", None)
        is_watch = found.url.query.get("watch") in ("1", "true")
        code = None if response is None else response.status
        on_answer(found.method, found.url.path, code, time.monotonic() - context.begin, is_watch)

    trace.on_request_start.append(begin)
    trace.on_request_end.append(end)
    trace.on_request_exception.append(end)
    return trace
