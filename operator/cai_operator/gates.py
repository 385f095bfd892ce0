"""Gates: bounds the last model must keep before it is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai_operator.api import Gates
from cai_operator.stages import EVALUATED


def gate_problem(gates: Gates, node: str, metrics: Mapping[str, Any]) -> str | None:
    """Why the model a node evaluated does not pass, as a sentence; None where it does.

    A rate that was not measured does not pass.
    """
    bounds = (
        ("harmfulRate", gates.max_harmful_rate, "maxHarmfulRate", "above"),
        ("helpfulRate", gates.min_helpful_rate, "minHelpfulRate", "below"),
    )
    problems = []
    for metric, bound, gate, word in bounds:
        if bound is None:
            continue
        rate = metrics.get(metric)
        if not isinstance(rate, int | float):
            problems.append(f"{metric} of {EVALUATED[node]} was not measured, and gates.{gate} is {bound:g}")
        elif rate > bound if word == "above" else rate < bound:
            problems.append(f"{metric} of {EVALUATED[node]} is {rate:.3g}, {word} gates.{gate} {bound:g}")
    return "; ".join(problems) or None
