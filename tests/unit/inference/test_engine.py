"""The batching thread with a model that only counts: what is batched, dropped, stopped and reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, cast

import pytest

from cai_jobs.inference.engine import Engine, EngineStoppedError, GenerationError
from cai_jobs.inference.request import Answer, Row, Sampling


class CountingModel:
    """Answers every row with its batch's size, once `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.sizes: list[int] = []

    def generate(self, rows: Sequence[Row]) -> int:
        self.sizes.append(len(rows))
        self.entered.set()
        while not self.gate.is_set() and not all(row.future.cancelled() for row in rows):
            time.sleep(0.001)
        if any(row.prompt == "break" for row in rows):
            raise ValueError("broken row")
        for row in rows:
            row.finish(Answer(str(len(rows)), None, [1], True))
        return len(rows)


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def engine(model: CountingModel, lines: list[str]) -> Iterator[Engine]:
    engine = Engine(lambda: cast(Any, model), max_batch_size=4, window_s=0.1, report=lines.append)
    engine.start()
    yield engine
    model.gate.set()
    engine.stop()


def rows(count: int, prompt: str = "a") -> list[Row]:
    return [Row(prompt, [5, 6], Sampling()) for _ in range(count)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_rows_arriving_within_the_window_are_one_batch(engine: Engine, model: CountingModel, lines: list[str]) -> None:
    first, second = rows(2), rows(1)
    engine.submit(first)
    engine.submit(second)
    assert [row.future.result(20).text for row in first + second] == ["3", "3", "3"]
    wait_for(lambda: engine.counters.batches == 1)
    assert engine.metrics()["prompt_tokens"] == 6
    wait_for(lambda: bool(lines))
    assert lines[0].startswith("batch 1: 3 rows, 6 prompt tokens, 3 generated in ")


def test_a_full_batch_goes_at_once_and_the_rest_next(engine: Engine, model: CountingModel) -> None:
    many = rows(10)
    engine.submit(many)
    for row in many:
        row.future.result(20)
    assert model.sizes == [4, 4, 2]


def test_rows_of_clients_gone_are_dropped_from_the_queue(engine: Engine, model: CountingModel) -> None:
    model.gate.clear()
    running, waiting = rows(4), rows(3)
    engine.submit(running)
    assert model.entered.wait(20)
    engine.submit(waiting)
    waiting[0].future.cancel()
    assert engine.waiting() == 2
    model.gate.set()
    assert [row.future.result(20).text for row in waiting[1:]] == ["2", "2"]
    assert engine.counters.cancelled_rows == 1


def test_a_failing_batch_fails_its_rows_and_no_others(engine: Engine, lines: list[str]) -> None:
    broken, whole = rows(1, "break"), rows(1)
    engine.submit(broken)
    with pytest.raises(GenerationError, match="broken row"):
        broken[0].future.result(20)
    engine.submit(whole)
    assert whole[0].future.result(20).text == "1"
    assert "Traceback" in lines[0]


def test_stopping_cancels_what_runs_and_what_waits(engine: Engine, model: CountingModel) -> None:
    model.gate.clear()
    running, waiting = rows(4), rows(2)
    engine.submit(running)
    assert model.entered.wait(20)
    engine.submit(waiting)
    engine.stop()
    for row in running + waiting:
        with pytest.raises(CancelledError):
            row.future.result(0)
    assert not engine.ready
    with pytest.raises(EngineStoppedError):
        engine.submit(rows(1))


def test_a_model_that_fails_to_load_is_told() -> None:
    told = threading.Event()

    def load() -> Any:
        raise ValueError("no such thing")

    engine = Engine(load, 4, 0.0, on_failure=told.set)
    assert not engine.ready
    engine.start()
    assert told.wait(20)
    assert str(engine.problem) == "no such thing"
    engine.stop()
