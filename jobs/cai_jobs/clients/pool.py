"""Work in coroutines, with no more of it begun than is needed to keep the servers busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


async def completed(
    work: Callable[[Task], Awaitable[Result]], tasks: Iterable[Task], limit: int
) -> AsyncIterator[Result]:
    """Yield the results of `work(task)` as they come, in whatever order.

    At most `limit` tasks are begun and not yet yielded; tasks are taken from their iterable as others are yielded. The
    first exception cancels the rest and is raised; so does leaving the iteration (by `contextlib.aclosing`).
    """

    async def run(task: Task) -> Result:
        return await work(task)

    remaining = iter(tasks)
    exhausted = False
    running: set[asyncio.Task[Result]] = set()
    finished: asyncio.Queue[asyncio.Task[Result]] = asyncio.Queue()
    try:
        while True:
            while not exhausted and len(running) < limit:
                try:
                    begun = asyncio.create_task(run(next(remaining)))
                except StopIteration:
                    exhausted = True
                else:
                    begun.add_done_callback(finished.put_nowait)
                    running.add(begun)
            if not running:
                return
            done = await finished.get()
            running.discard(done)
            yield done.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
