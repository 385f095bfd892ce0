"""What a generator is doing, told while it works: sentences, tokens and judge calls a second, and retries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from cai_jobs.contract.progress import LINE_INTERVAL_S, Progress

Statistics = Callable[[], Mapping[str, float]]


@asynccontextmanager
async def metered(bar: Progress, server: Statistics, judge: Statistics | None = None) -> AsyncIterator[None]:
    """Bring the bar up to date every second while the body runs, so that it moves and tells of retries though no row
    gets done for minutes.

    Args:
        server: the inference server's running totals: "tokens", where it tells them, and "retries".
        judge: the judge's: "calls" and "retries".
    """

    def show() -> None:
        of_server, of_judge = server(), judge() if judge is not None else {}
        counters = {"tokens": of_server["tokens"]} if of_server.get("tokens") else {}
        if judge is not None:
            counters["judge_calls"] = of_judge.get("calls", 0.0)
        bar.advance(0, {"retries": of_server.get("retries", 0.0) + of_judge.get("retries", 0.0)}, counters)

    async def tick() -> None:
        while True:
            await asyncio.sleep(LINE_INTERVAL_S)
            show()

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        show()
