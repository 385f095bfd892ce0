"""The evaluator of PromQL does what Prometheus does, in what alerts use of it."""

from __future__ import annotations

import pytest
from tests.harness.promql import Series, evaluate, firing


@pytest.fixture
def series() -> Series:
    found = Series()
    found.add("requests_total", {"code": "200", "pod": "a"}, {0: 10, 60: 20, 120: 5, 180: 15})
    found.add("requests_total", {"code": "503", "pod": "a"}, {0: 0, 60: 0, 120: 1, 180: 1})
    found.add("up", {"pod": "a"}, {0: 1, 60: 0})
    return found


def values(expression: str, series: Series, at: float = 180) -> dict[tuple[tuple[str, str], ...], float]:
    found = evaluate(expression, series, at)
    assert isinstance(found, dict)
    return {tuple(sorted(key)): value for key, value in found.items()}


def test_a_counter_that_fell_began_anew(series: Series) -> None:
    assert values("increase(requests_total{code='200'}[5m])", series) == {(("code", "200"), ("pod", "a")): 10 + 5 + 10}
    assert values("changes(requests_total{code='503'}[5m])", series) == {(("code", "503"), ("pod", "a")): 1}


def test_a_sample_is_stale_after_five_minutes(series: Series) -> None:
    assert values("up == 0", series, at=359) == {(("__name__", "up"), ("pod", "a")): 0}
    assert values("up", series, at=361) == {}
    assert values("absent(up)", series, at=359) == {}
    assert values("absent(up)", series, at=361) == {(): 1}


def test_matching_and_sets(series: Series) -> None:
    errors = "sum by (pod) (requests_total{code=~'5..'})"
    assert values(f"{errors} / sum by (pod) (requests_total) > 0.05", series) == {(("pod", "a"),): 1 / 16}
    assert values(f"{errors} / sum by (pod) (requests_total) > 0.5", series) == {}
    assert values("up and on_nothing", series) == {}
    assert len(values("requests_total unless up", series)) == 2
    assert values("time() - up", series) == {(("pod", "a"),): 180}


def test_an_alert_waits_its_time_and_begins_anew_after_a_gap() -> None:
    rule = {"expr": "queue > 5", "for": "3m"}
    found = Series()
    found.add("queue", {}, {0: 9, 60: 9, 120: 1, 180: 9, 240: 9, 300: 9, 360: 9})
    assert [bool(firing(rule, found, at)) for at in (120, 300, 360)] == [False, False, True]
