"""How long a stand-in server takes: service times that have the shape of real ones, in whatever unit is asked for.

A step of the model gives every running sequence one token. It takes `step_s` for one sequence and grows with their
number, as reading the weights is shared and the rest is not: step_s * (1 + running / DOUBLED_AT).

- `Locked`: the reference's server. One request at a time, the others wait at a lock; all sequences of a request run
  until the longest has ended.
- `Continuous`: a server with so many slots. A sequence takes a slot as soon as one is free and leaves it when it ends.
- `Desk`: a judge with so many places, each of which takes the same time for every request.

`busy_s` is how long the server was in use, slots not in use counting for nothing: over the time of a run it is the
share of the server's strength that was used.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from typing import Protocol

DOUBLED_AT = 256


class Engine(Protocol):
    """Something that takes its time."""

    busy_s: float

    async def serve(self, lengths: Sequence[int]) -> None:
        """Return once sequences of these many tokens would be done."""


class Instant:
    """Takes no time."""

    busy_s = 0.0

    async def serve(self, lengths: Sequence[int]) -> None:
        """Return at once."""


class Locked:
    """One request at a time, as long as its longest sequence."""

    def __init__(self, step_s: float) -> None:
        self.busy_s = 0.0
        self._step_s = step_s
        self._lock = asyncio.Lock()

    async def serve(self, lengths: Sequence[int]) -> None:
        async with self._lock:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.sleep(max(lengths) * self._step_s * (1 + len(lengths) / DOUBLED_AT))
            self.busy_s += loop.time() - began


class Continuous:
    """Slots that are filled again as they become free.

    All running sequences go on at the same speed, so it is enough to count how many tokens a sequence that had run all
    the time would have by now: a sequence ends when that count has grown by its length.
    """

    def __init__(self, step_s: float, slots: int) -> None:
        self.busy_s = 0.0
        self._step_s, self._slots = step_s, slots
        self._tokens, self._time = 0.0, 0.0
        self._running: list[tuple[float, int, asyncio.Future[None]]] = []
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self, lengths: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        ends: list[asyncio.Future[None]] = [loop.create_future() for _ in lengths]
        self._waiting.extend(zip(lengths, ends, strict=True))
        self._settle()
        for end in ends:
            await end

    def _settle(self) -> None:
        """Bring everything up to now: who has ended leaves, who waits comes in."""
        loop = asyncio.get_running_loop()
        now, running = loop.time(), len(self._running)
        if running:
            self._tokens += (now - self._time) / self._step_now()
            self.busy_s += (now - self._time) * running / self._slots
        self._time = now
        while self._running and self._running[0][0] <= self._tokens + 1e-6:
            _, _, end = heapq.heappop(self._running)
            if not end.done():
                end.set_result(None)
        while self._waiting and len(self._running) < self._slots:
            length, end = self._waiting.popleft()
            if not end.done():  # a client that has gone away gives its place to the next
                heapq.heappush(self._running, (self._tokens + length, next(self._numbers), end))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            left = self._running[0][0] - self._tokens
            self._timer = loop.call_later(left * self._step_now(), self._settle)

    def _step_now(self) -> float:
        return self._step_s * (1 + len(self._running) / DOUBLED_AT)


class Desk:
    """So many places, each of which takes `seconds` for a request."""

    def __init__(self, seconds: float, places: int) -> None:
        self.busy_s = 0.0
        self._seconds, self._places = seconds, places
        self._free = asyncio.Semaphore(places)

    async def serve(self, lengths: Sequence[int]) -> None:
        async with self._free:
            await asyncio.sleep(self._seconds)
            self.busy_s += self._seconds / self._places
