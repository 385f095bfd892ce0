"""Progress lines the operator reads."""

import json

import pytest

from cai_jobs.contract.progress import Progress


class Clock:
    """A clock the test winds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]


def test_first_and_last_are_always_printed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "rows", "answers", "json") as progress:
        for _ in range(10):
            progress.advance(metrics={"loss": 0.25})
    first, last = lines(capsys)
    assert first == {"done": 0, "total": 10, "unit": "rows", "eta_s": None, "metrics": {}}
    assert (last["done"], last["metrics"], last["eta_s"]) == (10, {"loss": 0.25}, 0.0)


def test_at_most_one_line_a_second(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "rows", "answers", "json") as progress:
        for _ in range(50):
            clock.now += 0.1
            progress.advance()
    assert 5 <= len(lines(capsys)) <= 7


def test_resumed_work_does_not_flatter_the_eta(clock: Clock) -> None:
    progress = Progress(100, "rows", "answers", "none", done=50)
    for _ in range(10):
        clock.now += 1.0
        progress.advance()
    assert progress.eta_seconds() == pytest.approx(40.0)


def test_one_row_of_many_at_once_tells_no_eta(clock: Clock) -> None:
    """512 rows, 128 in work at a time, 30 s each: after the first there are not four hours left."""
    progress = Progress(512, "rows", "answers", "none")
    clock.now += 30
    etas = []
    for done in range(512):
        if done and done % 128 == 0:
            clock.now += 25
        clock.now += 5 / 128
        progress.advance()
        etas.append((progress.eta_seconds(), (512 - done - 1) / 128 * 30))
    assert [eta for eta, _ in etas[:128]] == [None] * 128
    told = [(eta, truth) for eta, truth in etas if eta is not None and truth > 5]
    assert len(told) > 200
    for eta, truth in told:
        assert truth / 2.5 < eta < truth * 2.5


@pytest.mark.parametrize(("total", "silent"), [(10, 2), (1000, 9)])
def test_no_eta_before_three_units_and_one_percent(clock: Clock, total: int, silent: int) -> None:
    progress = Progress(total, "steps", "training", "none")
    for _ in range(silent):
        clock.now += 1.0
        progress.advance()
        assert progress.eta_seconds() is None
    clock.now += 1.0
    progress.advance()
    assert progress.eta_seconds() == pytest.approx(total - silent - 1)


def test_a_slow_first_step_does_not_count_for_the_others(clock: Clock) -> None:
    progress = Progress(1000, "steps", "training", "none")
    clock.now += 60
    progress.advance()
    for _ in range(610):
        clock.now += 0.1
        progress.advance()
    assert progress.eta_seconds() == pytest.approx(38.9, rel=0.01)


def test_unknown_total_has_no_eta(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, "rows", "answers", "json") as progress:
        for _ in range(5):
            clock.now += 1.0
            progress.advance()
    assert {line["eta_s"] for line in lines(capsys)} == {None}


def test_rates_are_those_of_the_last_half_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1000, "rows", "answers", "json", done=400) as progress:
        for second in range(1, 121):
            clock.now += 1.0
            progress.advance(1 if second <= 60 else 4, {"retries": 2}, {"tokens": 50 * second, "judge_calls": second})
    found = lines(capsys)
    assert found[1]["metrics"] == {"rows_per_s": 1.0, "tokens_per_s": 50.0, "judge_calls_per_s": 1.0, "retries": 2.0}
    assert found[60]["metrics"]["rows_per_s"] == 1.0
    assert 1.0 < found[75]["metrics"]["rows_per_s"] < 4.0
    assert found[-1]["metrics"]["rows_per_s"] == 4.0


def test_rates_fall_while_nothing_gets_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "rows", "answers", "json") as progress:
        for _ in range(10):
            clock.now += 1.0
            progress.advance()
        for _ in range(40):
            clock.now += 1.0
            progress.advance(0)
    assert lines(capsys)[-1]["metrics"] == {"rows_per_s": 0.0}


def test_many_reports_a_second_cost_no_memory(clock: Clock) -> None:
    progress = Progress(100_000, "rows", "answers", "none")
    for _ in range(100_000):
        clock.now += 0.01
        progress.advance()
    assert len(progress._samples) < 40
    assert progress.rates()["rows_per_s"] == pytest.approx(100, rel=0.01)


def test_none_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, "rows", "answers", "none") as progress:
        progress.advance(3)
    assert capsys.readouterr().out == ""


def test_a_bar_has_the_rates_beside_it_also_while_nothing_gets_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(10, "rows", "answers", "bar") as progress:
        for tokens in (100, 200):
            clock.now += 2.0
            progress.advance(0, {"retries": 3}, {"tokens": tokens})
        shown = capsys.readouterr().err
    assert "answers" in shown
    assert "tokens_per_s=50, retries=3" in shown
    assert "rows_per_s" not in shown
