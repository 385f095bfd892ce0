"""A small evaluator of PromQL, enough for alerts: what Prometheus' own unit tests of rules do, without Prometheus.

    store = Series()
    store.add("cai_leader", {"pod": "a"}, {0: 1, 60: 0})          # seconds -> value
    evaluate("max by (job) (cai_leader) == 0", store, at=120)     # {frozenset(): 0.0}

As Prometheus' documentation has it ("Expression language"), but for what alerts do not need: `increase` and `rate` take
the samples as they are, without extrapolation to the ends of the range; matching is one to one.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import promql_parser as promql

LOOKBACK_S = 300.0
Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Samples = list[tuple[float, float]]

ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b if b else float("nan"),
}
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
AGGREGATES: Mapping[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min, "count": len}


@dataclass
class Series:
    """Samples by name and labels."""

    found: dict[Labels, Samples] = field(default_factory=dict)

    def add(self, name: str, labels: Mapping[str, str], samples: Mapping[float, float]) -> None:
        """Add a series, or samples to one; `samples` has seconds -> value."""
        key = frozenset({**labels, "__name__": name}.items())
        self.found.setdefault(key, []).extend(sorted(samples.items()))

    def select(self, selector: promql.VectorSelector) -> Iterator[tuple[Labels, Samples]]:
        """The series a selector means."""
        for key, samples in self.found.items():
            labels = dict(key)
            if labels["__name__"] == selector.name and all(_matches(one, labels) for one in selector.matchers.matchers):
                yield key, samples


def evaluate(expression: str | promql.Expr, series: Series, at: float) -> Vector | float:
    """The value of an expression at a moment: a number, or values by their labels."""
    found = promql.parse(expression) if isinstance(expression, str) else expression
    if isinstance(found, promql.NumberLiteral):
        return float(found.val)
    if isinstance(found, promql.ParenExpr):
        return evaluate(found.expr, series, at)
    if isinstance(found, promql.VectorSelector):
        newest = {key: [v for t, v in samples if at - LOOKBACK_S < t <= at] for key, samples in series.select(found)}
        return {key: values[-1] for key, values in newest.items() if values}
    if isinstance(found, promql.Call):
        return _call(found, series, at)
    if isinstance(found, promql.AggregateExpr):
        return _aggregate(found, evaluate(found.expr, series, at))
    if isinstance(found, promql.BinaryExpr):
        return _binary(found, evaluate(found.lhs, series, at), evaluate(found.rhs, series, at))
    raise NotImplementedError(f"{type(found).__name__}: {found}")


def firing(
    rule: Mapping[str, Any], series: Series, at: float, every: float = 60.0, begin: float = 0.0
) -> list[dict[str, str]]:
    """The labels under which an alerting rule fires at a moment, looked at every minute from `begin` on."""
    wanted = promql.parse_duration(rule["for"]).total_seconds() if "for" in rule else 0.0
    since: dict[Labels, float] = {}
    moment = begin
    while moment <= at:
        vector = evaluate(rule["expr"], series, moment)
        assert isinstance(vector, dict), "an alert's expression is a vector"
        names = [frozenset(pair for pair in key if pair[0] != "__name__") for key in vector]
        since = {name: since.get(name, moment) for name in names}
        moment += every
    return [dict(key) for key, start in since.items() if moment - every - start >= wanted]


def selectors(expression: promql.Expr) -> Iterator[promql.VectorSelector]:
    """Every selector in an expression."""
    if isinstance(expression, promql.VectorSelector):
        yield expression
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        child = getattr(expression, part, None)
        if child is not None:
            yield from selectors(child)
    for argument in getattr(expression, "args", None) or ():
        yield from selectors(argument)


def labels_used(expression: promql.Expr) -> set[str]:
    """Labels an expression groups or matches series by."""
    found: set[str] = set()
    modifier = getattr(expression, "modifier", None)
    if isinstance(expression, promql.AggregateExpr) and modifier is not None:
        found |= set(modifier.labels)
    if isinstance(expression, promql.BinaryExpr) and modifier is not None and modifier.matching is not None:
        found |= set(modifier.matching.labels)
    for part in ("expr", "lhs", "rhs"):
        child = getattr(expression, part, None)
        if child is not None:
            found |= labels_used(child)
    for argument in getattr(expression, "args", None) or ():
        found |= labels_used(argument)
    return found


def _matches(matcher: Any, labels: Mapping[str, str]) -> bool:
    value = labels.get(matcher.name, "")
    if matcher.op == promql.MatchOp.Equal:
        return bool(value == matcher.value)
    if matcher.op == promql.MatchOp.NotEqual:
        return bool(value != matcher.value)
    fits = re.fullmatch(matcher.value, value) is not None
    return fits if matcher.op == promql.MatchOp.Re else not fits


def _call(call: promql.Call, series: Series, at: float) -> Vector | float:
    name = call.func.name
    if name == "time":
        return at
    if name == "absent":
        found = evaluate(call.args[0], series, at)
        return {} if found else {frozenset(): 1.0}
    [matrix] = call.args
    seconds = matrix.range.total_seconds()
    result: Vector = {}
    for key, samples in series.select(matrix.vector_selector):
        values = [value for moment, value in samples if at - seconds < moment <= at]
        steps = list(pairwise(values))
        bare = frozenset(pair for pair in key if pair[0] != "__name__")
        if name == "changes" and values:
            result[bare] = float(sum(a != b for a, b in steps))
        elif name in ("increase", "rate") and steps:
            grown = sum(b - a if b >= a else b for a, b in steps)  # a counter that fell began anew at 0
            result[bare] = grown if name == "increase" else grown / seconds
        elif name not in ("changes", "increase", "rate"):
            raise NotImplementedError(name)
    return result


def _aggregate(expression: promql.AggregateExpr, vector: Vector | float) -> Vector:
    assert isinstance(vector, dict)
    modifier = expression.modifier
    assert modifier is None or modifier.type == promql.AggModifierType.By
    kept = set(modifier.labels) if modifier is not None else set()
    groups: dict[Labels, list[float]] = {}
    for key, value in vector.items():
        groups.setdefault(frozenset(pair for pair in key if pair[0] in kept), []).append(value)
    return {key: float(AGGREGATES[str(expression.op)](values)) for key, values in groups.items()}


def _binary(expression: promql.BinaryExpr, left: Vector | float, right: Vector | float) -> Vector | float:
    sign, modifier = str(expression.op), expression.modifier
    matching = modifier.matching if modifier is not None else None
    assert matching is None, "matching by chosen labels is not done here"
    if sign in ("and", "unless"):
        assert isinstance(left, dict)
        assert isinstance(right, dict)
        there = {_bare(key) for key in right}
        return {key: value for key, value in left.items() if (_bare(key) in there) == (sign == "and")}
    if isinstance(left, float) and isinstance(right, float):
        return ARITHMETIC[sign](left, right)
    result: Vector = {}
    for key, a, b in _pairs(left, right):
        if sign in COMPARISONS:
            if COMPARISONS[sign](a, b):
                result[key] = a if isinstance(left, dict) else b
        else:
            result[_bare(key)] = ARITHMETIC[sign](a, b)
    return result


def _pairs(left: Vector | float, right: Vector | float) -> Iterator[tuple[Labels, float, float]]:
    if isinstance(left, dict) and isinstance(right, dict):
        others = {_bare(key): value for key, value in right.items()}
        for key, value in left.items():
            if _bare(key) in others:
                yield key, value, others[_bare(key)]
    elif isinstance(left, dict):
        assert isinstance(right, float)
        yield from ((key, value, right) for key, value in left.items())
    elif isinstance(right, dict):
        yield from ((key, left, value) for key, value in right.items())


def _bare(key: Labels) -> Labels:
    return frozenset(pair for pair in key if pair[0] != "__name__")
