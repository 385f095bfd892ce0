"""Rows in work: no more than wanted, each once, and all ended by the first failure."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from cai_jobs.clients.pool import completed


async def drain(results: AsyncIterator[int]) -> None:
    async for _ in results:
        pass


def test_every_task_is_done_once_and_no_more_are_taken_than_wanted() -> None:
    taken: list[int] = []
    yielded: list[int] = []
    at_once = 0

    def tasks() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    async def work(number: int) -> int:
        nonlocal at_once
        at_once = max(at_once, len(taken) - len(yielded))
        await asyncio.sleep(0.001 * (number * 7 % 5))
        return number

    async def main() -> None:
        async for result in completed(work, tasks(), 6):
            yielded.append(result)
            assert len(taken) - len(yielded) < 6

    asyncio.run(main())
    assert sorted(yielded) == list(range(50))
    assert at_once == 6


def test_without_tasks_there_is_nothing_to_yield() -> None:
    async def work(number: int) -> int:
        return number

    async def main() -> None:
        assert [result async for result in completed(work, [], 3)] == []

    asyncio.run(main())


def test_the_first_failure_cancels_what_runs_and_is_raised() -> None:
    ended: list[int] = []

    async def work(number: int) -> int:
        try:
            if number == 2:
                raise ValueError("row 2")
            await asyncio.sleep(60 if number else 0)
            return number
        finally:
            ended.append(number)

    async def main() -> None:
        with pytest.raises(ValueError, match="row 2"):
            await drain(completed(work, range(100), 4))

    asyncio.run(main())
    assert set(ended) <= {0, 1, 2, 3, 4}
    assert {0, 1, 2, 3} <= set(ended)


def test_a_failing_source_of_tasks_ends_the_work() -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    async def work(number: int) -> int:
        await asyncio.sleep(60)
        return number

    async def main() -> None:
        with pytest.raises(OSError, match="disk"):
            await drain(completed(work, tasks(), 4))

    asyncio.run(main())


def test_leaving_the_iteration_cancels_what_runs() -> None:
    cancelled = []

    async def work(number: int) -> int:
        try:
            await asyncio.sleep(60 if number else 0)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    async def main() -> None:
        async with aclosing(completed(work, range(3), 3)) as results:
            async for _ in results:
                break
        assert sorted(cancelled) == [1, 2]

    asyncio.run(main())
