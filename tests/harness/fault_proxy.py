"""A proxy between one operator and the API server that notes every request and can make any of them go wrong.

The operator's kubeconfig points at `FaultProxy.url` (plain HTTP on loopback). Its credentials are passed on, so the API
server sees the same user as without the proxy. Everything is switched on and off from the test's thread, while requests
run in the proxy's own:

    with FaultProxy(control_plane.url, control_plane.ca) as proxy:
        proxy.crash(operator.kill, before_write=17)      # SIGKILL before the 17th write goes to the API server
        proxy.answer(503, writes_of("jobs"), times=3)    # three writes of Jobs are refused
        proxy.swallow_events(lambda _, found: found["kind"] == "Pod")       # watches of pods stay open and say nothing
        proxy.serve_stale(proxy.recorded_lists())        # lists are answered from what was listed earlier
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?$"
)
_HOP_HEADERS = frozenset({"host", "connection", "transfer-encoding", "content-length", "content-encoding"})
_LARGEST_BODY = 16 * 2**20


@dataclass
class Request:
    """One request of the operator, in the API server's own words (as its audit log and its roles have them).

    Attributes:
        number: counts all requests from 1.
        write: counts the writes that are counted (`FaultProxy.counts`) from 1; 0 for the others.
        verb: get, list, watch, create, update, patch, delete or deletecollection; for paths outside the resources
            (`/apis`, `/version`) the HTTP method in lower case.
        status: of the answer given; None before there is one, or where the connection was cut.
        forwarded: whether it reached the API server.
    """

    number: int
    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    write: int = 0
    status: int | None = None
    forwarded: bool = False

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.method in ("POST", "PUT", "PATCH", "DELETE")

    @property
    def full_resource(self) -> str:
        """The resource as a role names it: `pods/log`, `jobs`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def __str__(self) -> str:
        return f"#{self.number} {self.verb} {self.full_resource} {self.namespace}/{self.name} -> {self.status}"


Matcher = Callable[[Request], bool]
EventMatcher = Callable[[str, Mapping[str, Any]], bool]


def writes_of(*resources: str) -> Matcher:
    """Writes of these resources (`jobs`, `caipipelines/status`)."""
    return lambda request: request.is_write and request.full_resource in resources


def reads_of(*resources: str) -> Matcher:
    """Gets, lists and watches of these resources (`pods`, `pods/log`)."""
    return lambda request: not request.is_write and request.full_resource in resources


def is_work(request: Request) -> bool:
    """A write that is about pipelines: all but the Lease, which is renewed by the clock."""
    return request.is_write and request.resource != "leases"


@dataclass
class _Rule:
    matches: Matcher
    act: Callable[[web.Request, Request], Any]
    times: int | None


@dataclass
class _Crash:
    kill: Callable[[], None]
    write: int
    before: bool
    done: threading.Event = field(default_factory=threading.Event)


class FaultProxy:
    """A context manager; `url` is where the operator is to be sent.

    Args:
        upstream: URL of the API server.
        ca: certificate that signed its own.
        counts: which requests are numbered as writes, for `crash`.
    """

    def __init__(self, upstream: str, ca: Path, counts: Matcher = is_work) -> None:
        self.upstream, self.counts = upstream.rstrip("/"), counts
        self.requests: list[Request] = []
        self.url = ""
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._swallowed: list[EventMatcher] = []
        self._crash: _Crash | None = None
        self._crashed = False
        self._lists: dict[str, bytes] = {}
        self._watches: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What was asked

    def writes(self) -> list[Request]:
        """The counted writes that reached the API server and were not refused, in order."""
        with self._lock:
            return [r for r in self.requests if r.write and r.forwarded and r.status is not None and r.status < 400]

    def rights_used(self) -> set[tuple[str, str, str]]:
        """(API group, resource, verb) of every request about resources, as a role's rules have them."""
        with self._lock:
            return {(r.group, r.full_resource, verb) for r in self.requests if r.resource for verb in _verbs(r)}

    def forget(self) -> None:
        """Start the record, and the numbering of writes, anew."""
        with self._lock:
            self.requests.clear()

    # What goes wrong

    def crash(self, kill: Callable[[], None], *, before_write: int = 0, after_write: int = 0) -> threading.Event:
        """Call `kill` once, right before or right after the write of that number is done by the API server.

        The operator gets no answer to it. What it sends while it dies is dropped; once it is dead, all is as before.

        Returns:
            An event that is set once `kill` has returned.
        """
        assert bool(before_write) != bool(after_write), "one of before_write and after_write is wanted"
        crash = _Crash(kill, before_write or after_write, bool(before_write))
        with self._lock:
            self._crash, self._crashed = crash, False
        return crash.done

    def answer(
        self,
        status: int,
        matches: Matcher,
        *,
        times: int | None = None,
        message: str = "",
        reason: str = "",
        text: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer requests in the API server's place, the next `times` of them or all until `mend`.

        The body is a Status object with `reason` and `message`, or `text` as it is.
        """
        failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        body = text if text is not None else json.dumps({**failure, "reason": reason, "message": message})
        form = "text/plain" if text is not None else "application/json"

        async def act(_: web.Request, request: Request) -> web.StreamResponse:
            request.status = status
            return web.Response(status=status, text=body, content_type=form, headers=headers)

        self._add(matches, act, times)

    def answer_where_allowed(self, text: str, matches: Matcher) -> None:
        """Answer requests that the API server does not forbid with `text`, as a kubelet would that it has not."""

        async def act(http: web.Request, request: Request) -> web.StreamResponse:
            response = await self._forward(http, request)
            if request.status == 403:
                return response
            request.status = 200
            return web.Response(text=text)

        self._add(matches, act, None)

    def cut(self, matches: Matcher, *, times: int | None = None) -> None:
        """Close the connection of matching requests without a word; they do not reach the API server."""

        async def act(http: web.Request, _: Request) -> web.StreamResponse:
            return _hang_up(http)

        self._add(matches, act, times)

    def lose_answers(self, matches: Matcher, *, times: int | None = None) -> None:
        """Let matching requests reach the API server, and close the connection instead of answering."""

        async def act(http: web.Request, request: Request) -> web.StreamResponse:
            await self._forward(http, request)
            return _hang_up(http)

        self._add(matches, act, times)

    def delay(self, seconds: float, matches: Matcher, *, times: int | None = None) -> None:
        """Let matching requests wait before they go on to the API server."""

        async def act(http: web.Request, request: Request) -> web.StreamResponse:
            await asyncio.sleep(seconds)
            return await self._forward(http, request)

        self._add(matches, act, times)

    def swallow_events(self, matches: EventMatcher) -> None:
        """Take matching events out of every watch, open ones included; the watch itself goes on. Until `mend`."""
        with self._lock:
            self._swallowed.append(matches)

    def cut_watches(self) -> None:
        """Close all watches that are open now."""
        self._loop.call_soon_threadsafe(self._cut_watches)

    def recorded_lists(self) -> dict[str, bytes]:
        """The newest answer to every list so far, by path and query: for `serve_stale` later on."""
        with self._lock:
            return dict(self._lists)

    def serve_stale(self, lists: Mapping[str, bytes], *, times: int = 1) -> None:
        """Answer lists from `lists`, each `times` times, as an API server does whose cache lags behind.

        A watch that starts from the old list's version gets all that happened since, from the true API server.
        """
        left = dict.fromkeys(lists, times)

        def matches(request: Request) -> bool:
            return request.verb == "list" and left.get(_list_key(request), 0) > 0

        async def act(_: web.Request, request: Request) -> web.StreamResponse:
            key = _list_key(request)
            left[key] -= 1
            request.status = 200
            return web.Response(body=lists[key], content_type="application/json")

        self._add(matches, act, None)

    def mend(self) -> None:
        """Let everything through again."""
        with self._lock:
            self._rules.clear()
            self._swallowed.clear()
            self._crash, self._crashed = None, False

    # How it is done

    def _add(self, matches: Matcher, act: Callable[[web.Request, Request], Any], times: int | None) -> None:
        with self._lock:
            self._rules.append(_Rule(matches, act, times))

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        # a watch lasts as long as it likes; a proxy that gave up on it would be a fault nobody asked for
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
        )
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        self._cut_watches()
        await self._runner.cleanup()
        await self._session.close()

    def _cut_watches(self) -> None:
        for task in self._watches:
            task.cancel()

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        request = await self._noted(http)
        crash = self._crash
        if self._crashed:
            return _hang_up(http)
        if crash is not None and request.write == crash.write:
            self._crashed = True
            if not crash.before:
                await self._forward(http, request)
            await self._loop.run_in_executor(None, crash.kill)
            self._crash, self._crashed = None, False
            crash.done.set()
            return _hang_up(http)
        with self._lock:
            rule = next((rule for rule in self._rules if rule.times != 0 and rule.matches(request)), None)
            if rule is not None and rule.times is not None:
                rule.times -= 1
        if rule is not None:
            response: web.StreamResponse = await rule.act(http, request)
            return response
        return await self._forward(http, request)

    async def _noted(self, http: web.Request) -> Request:
        raw = await http.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw
        with self._lock:
            request = _request(len(self.requests) + 1, http.method, http.path, dict(http.query), body)
            if self.counts(request):
                request.write = 1 + max((r.write for r in self.requests), default=0)
            self.requests.append(request)
        return request

    async def _forward(self, http: web.Request, request: Request) -> web.StreamResponse:
        headers = {name: value for name, value in http.headers.items() if name.lower() not in _HOP_HEADERS}
        request.forwarded = True
        try:
            async with self._session.request(
                http.method,
                self.upstream + http.path_qs,
                headers=headers,
                data=await http.read() or None,
                ssl=self._tls,
            ) as upstream:
                if request.verb == "watch" and upstream.status == 200:
                    request.status = upstream.status
                    return await self._stream(http, request, upstream)
                body = await upstream.read()
        except aiohttp.ClientConnectionError:  # an API server that is away looks the same through the proxy
            return _hang_up(http)
        if request.verb == "list" and upstream.status == 200:
            with self._lock:
                self._lists[_list_key(request)] = await _plain(body, upstream)
        request.status = upstream.status
        kept = {n: v for n, v in upstream.headers.items() if n.lower() not in _HOP_HEADERS - {"content-encoding"}}
        return web.Response(status=upstream.status, body=body, headers=kept)

    async def _stream(
        self, http: web.Request, request: Request, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(http)
        task = asyncio.create_task(self._copy_events(request, upstream, response))
        self._watches.add(task)
        try:
            await task
        except (asyncio.CancelledError, aiohttp.ClientError, ConnectionError):
            return _hang_up(http, response)
        finally:
            task.cancel()
            self._watches.discard(task)
        return response

    async def _copy_events(
        self, request: Request, upstream: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> None:
        async for line in _lines(upstream):
            event = json.loads(line)
            with self._lock:
                is_swallowed = any(matches(event["type"], event["object"]) for matches in self._swallowed)
            if not is_swallowed:
                await response.write(line + b"\n")


def _request(number: int, method: str, path: str, query: Mapping[str, str], body: Any) -> Request:
    found = _PATH.match(path)
    if found is None:
        return Request(number, method, path, query, body, verb=method.lower())
    parts = found.groupdict(default="")
    one = bool(parts["name"])
    reading = "get" if one else "watch" if query.get("watch") in ("1", "true") else "list"
    verb = {
        "POST": "create",
        "PUT": "update",
        "PATCH": "patch",
        "DELETE": "delete" if one else "deletecollection",
    }.get(method, reading)
    return Request(
        number,
        method,
        path,
        query,
        body,
        verb=verb,
        group=parts["group"],
        resource=parts["resource"],
        subresource=parts["subresource"],
        namespace=parts["namespace"],
        name=parts["name"],
    )


def _verbs(request: Request) -> tuple[str, ...]:
    # an apply of what is not there yet needs the right to create it as well
    return (request.verb, "create") if request.verb == "patch" and request.status == 201 else (request.verb,)


def _list_key(request: Request) -> str:
    # pages and versions differ from run to run; the collection and its selectors do not
    selectors = [
        f"{name}={request.query[name]}" for name in ("labelSelector", "fieldSelector") if name in request.query
    ]
    return "?".join([request.path, "&".join(selectors)])


def _hang_up(http: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if http.transport is not None:
        http.transport.abort()
    return response if response is not None else web.Response()


async def _plain(body: bytes, upstream: aiohttp.ClientResponse) -> bytes:
    if upstream.headers.get("Content-Encoding") != "gzip":
        return body
    import gzip

    return gzip.decompress(body)


async def _lines(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in upstream.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
