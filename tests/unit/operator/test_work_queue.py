"""The work queue, in an event loop whose time passes only while everybody waits, and then at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cai_operator.work_queue import WorkQueue


class _LeapingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Instead of waiting for the next timer it sets the time forward to it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        assert found or timeout is not None, "everybody waits, for nothing"
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop of its own time."""

    def __init__(self) -> None:
        self._leaping = _LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


def run(scenario: Callable[[WorkQueue[str]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await scenario(WorkQueue())

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


async def is_idle(queue: WorkQueue[str], seconds: float) -> bool:
    """Whether nothing is handed out for so long."""
    try:
        key = await asyncio.wait_for(queue.get(), seconds)
    except TimeoutError:
        return True
    queue.done(key)
    return False


def test_keys_come_in_the_order_they_were_added_and_once_each():
    async def scenario(queue: WorkQueue[str]) -> None:
        for key in "abcab":
            queue.add(key)
        assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]
        assert await is_idle(queue, 100)

    run(scenario)


def test_it_tells_how_long_each_key_waited_for_a_worker():
    async def main() -> None:
        waits: list[float] = []
        queue: WorkQueue[str] = WorkQueue(waits.append)
        queue.add("a")
        queue.add_after("b", 10)
        await asyncio.sleep(12)
        assert queue.oldest_wait() == 12
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        assert waits == [12, 2]  # the delay that was asked for is no waiting
        queue.add("a")
        await asyncio.sleep(5)
        queue.done("a")
        await queue.get()
        assert waits == [12, 2, 0]

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(main())


def test_a_key_added_while_it_is_worked_on_comes_once_more_and_only_afterwards():
    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert len(queue) == 1
        assert await is_idle(queue, 100)
        queue.done("a")
        assert await queue.get() == "a"
        queue.done("a")
        assert await is_idle(queue, 100)

    run(scenario)


def test_one_key_does_not_keep_a_free_worker_from_the_others():
    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await queue.get()
        queue.add("a")
        queue.add("b")
        assert await queue.get() == "b"

    run(scenario)


def test_the_earliest_of_several_delays_counts():
    async def scenario(queue: WorkQueue[str]) -> None:
        for seconds in (30, 10, 20):
            queue.add_after("a", seconds)
        assert await queue.get() == "a"
        assert now() == 10
        queue.done("a")
        assert await is_idle(queue, 100)

    run(scenario)


def test_adding_a_delayed_key_takes_its_delay_away():
    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add_after("a", 10)
        queue.add("a")
        assert (await queue.get(), now()) == ("a", 0)
        queue.done("a")
        assert await is_idle(queue, 100)

    run(scenario)


def test_no_delay_or_less_is_now():
    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add_after("a", 0)
        queue.add_after("b", -1)
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        assert now() == 0

    run(scenario)


def test_a_delay_asked_for_while_the_key_is_worked_on_counts_from_then_on():
    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await queue.get()
        queue.add_after("a", 10)
        await asyncio.sleep(4)
        queue.done("a")
        assert (await queue.get(), now()) == ("a", 10)

    run(scenario)


def test_a_delay_that_ends_while_the_key_is_worked_on_waits_for_the_worker():
    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await queue.get()
        queue.add_after("a", 10)
        assert await is_idle(queue, 25)
        queue.done("a")
        assert (await queue.get(), now()) == ("a", 25)

    run(scenario)


def test_a_delay_asked_for_a_key_that_comes_again_anyway_is_no_further_turn():
    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await queue.get()
        queue.add("a")
        queue.add_after("a", 10)
        queue.done("a")
        assert (await queue.get(), now()) == ("a", 0)
        queue.done("a")
        assert await is_idle(queue, 100)

    run(scenario)


def test_a_second_delayed_key_finds_the_worker_that_is_still_free():
    """However the requests interleave: the worker that slept before there was any delay must wake for the second."""

    async def scenario(queue: WorkQueue[str]) -> None:
        loop = asyncio.get_running_loop()
        workers = [loop.create_task(queue.get())]
        loop.call_soon(queue.add_after, "first", 10)
        loop.call_soon(queue.add_after, "second", 20)
        workers.append(loop.create_task(queue.get()))
        assert sorted(await asyncio.wait_for(asyncio.gather(*workers), 100)) == ["first", "second"]
        assert now() == 20

    run(scenario)


@pytest.mark.parametrize("worker_count", [1, 3])
def test_workers_share_what_comes_and_never_one_key(worker_count):
    async def scenario(queue: WorkQueue[str]) -> None:
        at_work: list[str] = []
        looks: dict[str, int] = {}

        async def work() -> None:
            while True:
                key = await queue.get()
                assert key not in at_work
                at_work.append(key)
                looks[key] = looks.get(key, 0) + 1
                await asyncio.sleep(3)
                at_work.remove(key)
                queue.done(key)

        workers = [asyncio.create_task(work()) for _ in range(worker_count)]
        for _ in range(10):
            for key in "abcde":
                queue.add(key)
            await asyncio.sleep(1)
        await asyncio.sleep(100)
        assert set(looks) == set("abcde")
        assert len(queue) == 0
        assert at_work == []
        for worker in workers:
            assert not worker.done()
            worker.cancel()

    run(scenario)


def test_the_oldest_wait_is_that_of_keys_that_could_be_worked_on():
    async def scenario(queue: WorkQueue[str]) -> None:
        assert queue.oldest_wait() == 0
        queue.add("a")
        queue.add_after("b", 10)
        await asyncio.sleep(15)
        assert queue.oldest_wait() == 15
        queue.add("a")
        assert queue.oldest_wait() == 15
        await queue.get()
        assert queue.oldest_wait() == 5

    run(scenario)


def test_a_worker_that_is_cancelled_takes_no_key_with_it():
    async def scenario(queue: WorkQueue[str]) -> None:
        first, second = (asyncio.create_task(queue.get()) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        queue.add("a")
        assert await second == "a"

    run(scenario)
