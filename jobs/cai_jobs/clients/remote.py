"""JSON over HTTP with patience: retries with jittered back-off while a server is away or busy, up to a time budget.

The budget belongs to the server, not to a request: it begins with the first failure after an answer and ends with the
next answer, so that a server that restarts for minutes is waited for, however many requests wait. A request that fails
again and again by itself (500, 504, time-outs) while others are answered is refused in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import itertools
import random
import socket
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.formats import quick_json

BACKOFF_FIRST_S, BACKOFF_LIMIT_S = 0.25, 30.0
RETRY_BUDGET_S = 900.0
CONNECT_TIMEOUT_S = 10.0
# below uvicorn's 5 s, so that a connection is not used in the moment the server closes it
KEEPALIVE_S = 4.0
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
SUSPECT_STATUS = frozenset({500, 504})
SUSPECT_FAILURES = 10
SHORTEST_SECRET = 8
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class RefusedError(InputError):
    """The server understood the request and will not do it: asking again cannot help.

    Attributes:
        status: the HTTP status.
        reason: what the server said, without its address; for records that must not depend on who answered.
    """

    def __init__(self, message: str, status: int, reason: str | None = None) -> None:
        super().__init__(message)
        self.status, self.reason = status, message if reason is None else reason


class TryAgainError(Exception):
    """One attempt failed and another may not.

    Attributes:
        wait_s: how long the server asked to be left alone (`Retry-After`), seconds.
        suspect: whether the request itself may be what the server fails on.
    """

    def __init__(self, problem: str, wait_s: float = 0.0, suspect: bool = False) -> None:
        super().__init__(problem)
        self.wait_s, self.suspect = wait_s, suspect


@dataclass
class Patience:
    """How long a server has failed, against the budget.

    Attributes:
        who: what does not answer, for the sentence: "judge https://…".
        budget_s: from the first failure after an answer.
        answers: how many there were so far.
    """

    who: str
    budget_s: float
    answers: int = 0
    _failures: int = 0
    _since: float = 0.0

    def answered(self) -> None:
        """Note an answer, a refusal included."""
        self.answers += 1
        self._failures = 0

    def blames(self, suspected: int, answers: int) -> bool:
        """Whether a request with so many suspect failures fails by itself: others were answered since `answers`."""
        return suspected >= SUSPECT_FAILURES and self.answers > answers

    def failed(self, failure: TryAgainError) -> None:
        """Note a failed attempt.

        Raises:
            RetryableError: the budget is spent, or the server wants to be left alone for longer than what is left.
        """
        now = time.monotonic()
        if self._failures == 0:
            self._since = now
        self._failures += 1
        spent = now - self._since
        if spent >= self.budget_s or spent + failure.wait_s > self.budget_s:
            asks = f"; it asks for {failure.wait_s:.0f} s of rest" if failure.wait_s else ""
            raise RetryableError(
                f"{self.who} unreachable: {failure}{asks}; {self._failures} attempts in {spent:.0f} s, the retry "
                f"budget is {self.budget_s:.0f} s. See that it runs and that its address is right, then run the same "
                "command again"
            ) from failure


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, up to 30 s, and jittered."""
    return min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)


def alone(where: str, failure: TryAgainError) -> RefusedError:
    """The refusal of a request that is to blame for its failures."""
    reason = f"fails on this request alone: {failure}"
    return RefusedError(f"{where} {reason}", 500, reason)


def encode(body: Any) -> bytes | None:
    """A request's body; None for none."""
    return None if body is None else quick_json.dump(body)


@dataclass(eq=False)
class Remote:
    """One HTTP server, for any number of coroutines of one event loop.

    Attributes:
        what: what it is, for sentences ("inference server").
        base: scheme, host and port; paths are appended.
        request_timeout_s: how long one request may take.
        retry_budget_s: how long to go on trying from a first failure to the server's next answer.
        headers: sent with every request; never printed, and taken out of what comes back: a server that refuses a key
            may quote it.
        proxied: whether a proxy the environment names is used; never for this machine's own addresses.
        retries: attempts beyond each call's first.
    """

    what: str
    base: str
    request_timeout_s: float = 3600.0
    retry_budget_s: float = RETRY_BUDGET_S
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxied: bool = True
    retries: int = field(default=0, init=False)
    _session: aiohttp.ClientSession | None = field(default=None, init=False, repr=False)
    _rest_until: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise InputError(f"{self.what}: {self.base!r} is no http or https address")
        self._patience = Patience(f"{self.what} {self.base}", self.retry_budget_s)
        self._secrets = _secrets(self.headers)
        self._proxy = _proxy(parts.scheme, parts.hostname or "") if self.proxied else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request until it is answered; the answer's JSON value.

        Raises:
            RefusedError: a status below 500 that is not worth a retry, or a failure only this request meets.
            RetryableError: no answer, 429 or 5xx, until the retry budget was spent.
        """
        data = encode(body)
        answers, suspected = self._patience.answers, 0
        for failures in itertools.count(1):
            while (rest := self._rest_until - time.monotonic()) > 0:
                await asyncio.sleep(rest + random.uniform(0, 0.1 * rest))
            try:
                value = await self.attempt(method, path, data)
            except TryAgainError as failure:
                suspected += failure.suspect
                if self._patience.blames(suspected, answers):
                    raise alone(f"{self.what} {self.base}{path}", failure) from failure
                self._patience.failed(failure)
                if failure.wait_s:
                    self._rest_until = max(self._rest_until, time.monotonic() + failure.wait_s)
                self.retries += 1
                await asyncio.sleep(backoff(failures) if not failure.wait_s else 0)
            except RefusedError:
                self._patience.answered()
                raise
            else:
                self._patience.answered()
                return value
        raise AssertionError("unreachable")

    async def attempt(self, method: str, path: str, data: bytes | None = None) -> Any:
        """Send a request once; the answer's JSON value.

        Raises:
            TryAgainError: no answer, or one that may be another next time.
            RefusedError: the server will not do it.
            InputError: its certificate is not to be trusted.
        """
        url = self.base + path
        try:
            async with self._open().request(method, url, data=data, proxy=self._proxy, allow_redirects=False) as answer:
                content = self._without_secrets(await answer.read())
        except aiohttp.ClientConnectorCertificateError as problem:
            raise InputError(f"{self.what} {self.base}: its certificate is not to be trusted: {problem}") from problem
        except aiohttp.ServerTimeoutError as problem:
            raise TryAgainError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from problem
        except TimeoutError as problem:
            raise TryAgainError(f"no answer within {self.request_timeout_s:g} s", suspect=True) from problem
        except (aiohttp.ClientError, OSError) as problem:
            raise TryAgainError(f"{type(problem).__name__} {problem}".strip()) from problem
        except ValueError as problem:
            raise InputError(f"{self.what} {self.base}: the request cannot be written: {problem}") from problem
        if answer.status >= 300:
            self._complain(answer, content, path)
        try:
            return quick_json.load(content)
        except ValueError as problem:
            raise TryAgainError(f"its answer is not JSON: {_excerpt(content)!r}", suspect=True) from problem

    def _without_secrets(self, content: bytes) -> bytes:
        for secret in self._secrets:
            content = content.replace(secret, b"***")
        return content

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, socket_factory=_socket),
                timeout=aiohttp.ClientTimeout(total=self.request_timeout_s, sock_connect=CONNECT_TIMEOUT_S),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **self.headers},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _complain(self, answer: aiohttp.ClientResponse, content: bytes, path: str) -> None:
        sentence = _sentence(content)
        if answer.status in RETRIED_STATUS:
            raise TryAgainError(
                f"status {answer.status} {sentence}".strip(), _retry_after(answer), answer.status in SUSPECT_STATUS
            )
        if answer.status < 400:
            moved = answer.headers.get("Location", "another address").encode()
            sentence = f"it has moved to {self._without_secrets(moved).decode()}; give that address"
        reason = f"refused ({answer.status}): {sentence}"
        raise RefusedError(f"{self.what} {self.base}{path} {reason}", answer.status, reason)


def _secrets(headers: Mapping[str, str]) -> tuple[bytes, ...]:
    """What may not come back: the credentials of an Authorization header, unless they are as short as any word."""
    credentials = headers.get("Authorization", "").rpartition(" ")[2]
    return (credentials.encode(),) if len(credentials) >= SHORTEST_SECRET else ()


def _socket(address: Any) -> socket.socket:
    """A socket that notices within two minutes that the other machine is gone, whatever a request may take."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    with contextlib.suppress(OSError, AttributeError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    return made


def _proxy(scheme: str, host: str) -> str | None:
    # asked once: aiohttp's trust_env reads the environment again for every request
    if host in LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(scheme) or proxies.get("all")


def _excerpt(content: bytes) -> str:
    return content.decode(errors="replace").strip()[:300]


def _sentence(content: bytes) -> str:
    """The server's own words: a JSON string, or the usual fields of a JSON object, or the start of the text."""
    try:
        value = quick_json.load(content)
    except ValueError:
        return _excerpt(content)
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    return str(value)[:300]


def _retry_after(answer: aiohttp.ClientResponse) -> float:
    text = answer.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
