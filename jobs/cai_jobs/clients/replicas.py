"""One model served by several servers: which of them is asked next, and what becomes of those that fail.

A replica that fails is rested, a little longer each time, and what it was asked goes to another at once. When all have
failed one waits; how long in all is one budget, until any of them answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from cai_jobs.clients.remote import LOOPBACK, Patience, RefusedError, Remote, TryAgainError, alone, backoff, encode
from cai_jobs.contract.program import InputError

LOOKUP_INTERVAL_S = 60.0
LOOKUP_AFTER_FAILURE_S = 5.0


@dataclass(eq=False)
class Replica:
    """One server.

    Attributes:
        remote: its address.
        in_flight: batches it has not answered yet.
        sentences: in these.
        calls: other requests it has not answered yet.
        failures: in a row, since its last answer.
        rest_until: when it may be asked again, of time.monotonic().
        obliged: whether it asked for that rest itself.
    """

    remote: Remote
    in_flight: int = 0
    sentences: int = 0
    calls: int = 0
    failures: int = 0
    rest_until: float = 0.0
    obliged: bool = False
    _busy_s: float = 0.0
    _busy_since: float = 0.0

    def begin(self, *, call: bool = False) -> None:
        """Count a request that is sent now."""
        if self.in_flight + self.calls == 0:
            self._busy_since = time.monotonic()
        self.in_flight += not call
        self.calls += call

    def end(self, *, call: bool = False) -> None:
        """Count a request as over."""
        self.in_flight -= not call
        self.calls -= call
        if self.in_flight + self.calls == 0:
            self._busy_s += time.monotonic() - self._busy_since

    def may_be_asked(self, now: float) -> bool:
        """Whether it does not rest; one that failed last gets a single request, until it has answered."""
        return self.rest_until <= now and (self.failures == 0 or self.in_flight + self.calls == 0)

    def busy_s(self) -> float:
        """Seconds with a request under way so far."""
        under_way = self.in_flight + self.calls > 0
        return self._busy_s + (time.monotonic() - self._busy_since if under_way else 0.0)


class Replicas:
    """The servers behind `--host` and `--port`.

    Args:
        what: what they are, for sentences.
        hosts: a name, every address of which is a replica; or several HOST or HOST:PORT, separated by commas.
        port: of those that name none.

    Attributes:
        all: the replicas known now.
        retries: attempts that failed.
        changed: called when a replica may have room that had none.
    """

    def __init__(self, what: str, hosts: str, port: int, request_timeout_s: float, retry_budget_s: float) -> None:
        self.what, self._hosts = what, parse_hosts(hosts, port)
        self._request_timeout_s, self._retry_budget_s = request_timeout_s, retry_budget_s
        bases = [f"http://{_address(host, of)}" for host, of in self._hosts]
        self.patience = Patience(f"{what} {', '.join(bases)}", retry_budget_s)
        self.retries = 0
        self.changed: Callable[[], None] = lambda: None
        self.all: list[Replica] = []
        self._known: dict[str, Replica] = {}
        self._looked_up = 0.0
        self._lookup: asyncio.Task[None] | None = None
        self._begun = time.monotonic()
        self._use(bases)

    def free(self, limit: int, now: float) -> Replica | None:
        """A replica for a batch now: of those with fewer than `limit` batches the one with the fewest sentences.

        `now` is time.monotonic(), the same for all that is decided together: where no replica is free, one has a
        request under way, or `rest_s` of the same moment knows when its rest is over.
        """
        if now - self._looked_up > LOOKUP_INTERVAL_S:
            self._look_up_soon()
        able = [replica for replica in self.all if replica.in_flight < limit and replica.may_be_asked(now)]
        return min(able, key=attrgetter("sentences"), default=None)

    def idle(self, now: float) -> int:
        """How many replicas have no batch and may be asked."""
        return sum(replica.in_flight == 0 and replica.may_be_asked(now) for replica in self.all)

    def rest_s(self, now: float) -> float | None:
        """Seconds until the next replica's rest is over; None if none rests."""
        return min((replica.rest_until - now for replica in self.all if replica.rest_until > now), default=None)

    def answered(self, replica: Replica) -> None:
        """Note an answer, a refusal included."""
        replica.failures = 0
        if not replica.obliged:
            replica.rest_until = 0.0
        self.patience.answered()

    def failed(self, replica: Replica, failure: TryAgainError) -> None:
        """Note a failed attempt: the replica rests.

        Raises:
            RetryableError: nothing was answered for the whole retry budget.
        """
        # one that has not failed may be at work for longer than that
        if all(other.failures for other in self.all if other is not replica):
            self.patience.failed(failure)
        self.retries += 1
        replica.failures += 1
        replica.obliged = failure.wait_s > 0
        rest = max(failure.wait_s, backoff(replica.failures))
        replica.rest_until = max(replica.rest_until, time.monotonic() + rest)
        if time.monotonic() - self._looked_up > LOOKUP_AFTER_FAILURE_S:
            self._look_up_soon()

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to one replica after the other until it is answered; the answer's JSON value.

        Raises:
            RefusedError: a replica understood it and will not do it.
            RetryableError: no replica answered for the whole retry budget.
        """
        data = encode(body)
        answers, suspected = self.patience.answers, 0
        while True:
            now = time.monotonic()
            able = [replica for replica in self.all if replica.may_be_asked(now)]
            if not able:
                await asyncio.sleep(max(self.rest_s(now) or 0.0, 0.01))
                continue
            replica = min(able, key=lambda replica: replica.in_flight + replica.calls)
            replica.begin(call=True)
            try:
                value = await replica.remote.attempt(method, path, data)
            except TryAgainError as failure:
                suspected += failure.suspect
                if self.patience.blames(suspected, answers):
                    raise alone(f"{self.what} {replica.remote.base}{path}", failure) from failure
                self.failed(replica, failure)
                continue
            except RefusedError:
                self.answered(replica)
                raise
            finally:
                replica.end(call=True)
                self.changed()
            self.answered(replica)
            return value

    def busy_share(self) -> float:
        """The mean share of the time since the beginning in which a replica had a request, 0 to 1."""
        elapsed = max(time.monotonic() - self._begun, 1e-9) * max(len(self.all), 1)
        return min(1.0, sum(replica.busy_s() for replica in self.all) / elapsed)

    async def look_up(self) -> None:
        """Ask for the names' addresses: new ones become replicas, those gone are asked no more."""
        self._looked_up = time.monotonic()
        bases: list[str] = []
        for host, port in self._hosts:
            addresses = await _addresses(host)
            if addresses is None:  # it cannot be told now: whoever is known stays
                return
            # one address: the name stays, and a server that comes back elsewhere under it is found
            bases += [f"http://{_address(name, port)}" for name in (addresses if len(addresses) > 1 else [host])]
        self._use(bases)
        self.changed()

    async def close(self) -> None:
        """Close all connections."""
        if self._lookup is not None:
            self._lookup.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._lookup
        for replica in self._known.values():
            await replica.remote.close()

    def _use(self, bases: list[str]) -> None:
        for base in bases:
            if base not in self._known:
                # a model server is the pipeline's own: a proxy from the environment is for the world outside
                remote = Remote(self.what, base, self._request_timeout_s, self._retry_budget_s, proxied=False)
                self._known[base] = Replica(remote)
        self.all = [self._known[base] for base in dict.fromkeys(bases)]

    def _look_up_soon(self) -> None:
        self._looked_up = time.monotonic()
        if self._lookup is None or self._lookup.done():
            self._lookup = asyncio.get_running_loop().create_task(self.look_up())


def parse_hosts(hosts: str, port: int) -> list[tuple[str, int]]:
    """The (host, port) of each entry of a `--host` list.

    Raises:
        InputError: an entry is empty, or its port is no number from 1 to 65535.
    """
    found = []
    for entry in hosts.split(","):
        text = entry.strip().removeprefix("http://").rstrip("/")
        host, separator, number = text.rpartition(":")
        if text.startswith("["):  # an IPv6 address in brackets, with or without a port
            host, _, rest = text[1:].partition("]")
            number = rest.removeprefix(":")
            separator = ":" if rest else ""
        elif not separator or ":" in host:  # no port, or a bare IPv6 address
            host, separator = text, ""
        if separator and not (number.isascii() and number.isdigit() and 1 <= int(number) <= 65535):
            raise InputError(f"--host {entry!r}: its port must be a number from 1 to 65535")
        if not host or "/" in host or "@" in host:
            raise InputError(f"--host {hosts!r}: a name or address is wanted, or several HOST:PORT separated by commas")
        found.append((host, int(number) if separator else port))
    return found


async def _addresses(host: str) -> list[str] | None:
    """The addresses of a name, sorted; None if it cannot be looked up. Both families of one server count once."""
    if host in LOOPBACK:
        return [host]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    four = {str(address[0]) for family, *_, address in found if family == socket.AF_INET}
    return sorted(four or {str(address[0]) for _, _, _, _, address in found})


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
