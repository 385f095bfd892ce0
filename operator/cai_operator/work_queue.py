"""A queue of keys to work on: each at most once at a time, however often it is added; late ones wait their time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A key added while it is worked on is handed out once more afterwards, never to two workers at a time.

    Delays are kept as the earliest moment asked for. Use from one event loop only, whose time it goes by.

    Args:
        waited: told how many seconds each key waited, from when it was ready until it was handed out.
    """

    def __init__(self, waited: Callable[[float], None] = lambda _: None) -> None:
        self._waited = waited
        self._ready: dict[K, float] = {}  # in the order they are handed out -> since when
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready) + len(self._again)

    def add(self, key: K) -> None:
        """Hand this key out as soon as a worker is free."""
        later = self._later.pop(key, None)
        if later is not None:
            later.cancel()
        if key in self._busy:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = _now()
            self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Hand this key out in so many seconds, or earlier if it was to be anyway."""
        if seconds <= 0:
            self.add(key)
            return
        if key in self._ready or key in self._again:
            return
        due = _now() + seconds
        later = self._later.get(key)
        if later is not None:
            if later.when() <= due:
                return
            later.cancel()
        self._later[key] = asyncio.get_running_loop().call_at(due, self.add, key)

    async def get(self) -> K:
        """The next key, once there is one; `done` must follow."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._ready))
        self._waited(_now() - self._ready.pop(key))
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        """The key is worked off; if it was added meanwhile it is ready again."""
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def oldest_wait(self) -> float:
        """Seconds the longest waiting ready key has waited."""
        return max((_now() - since for since in self._ready.values()), default=0.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
