"""Which principles criticise a row: drawn for (seed, row, round) by weight, none twice while others are left."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats.constitution import Principle
from cai_jobs.formats.jsonl import read_json

FLAG = "--principle-weights"


def read_weights(given: str | None, principles: Sequence[Principle]) -> list[float]:
    """A weight a principle: how often it is drawn compared with the others.

    Args:
        given: a file or the text of a JSON object {"name": weight}; principles it does not name weigh 1, those of
            weight 0 are never drawn. None gives all of them 1.

    Raises:
        InputError: it is not such an object, names no principle, or leaves none to draw.
    """
    if given is None:
        return [1.0] * len(principles)
    where, value = FLAG, given
    if given.lstrip().startswith("{"):
        try:
            found = json.loads(value)
        except ValueError as problem:
            raise InputError(f"{FLAG}: {value[:80]!r} is not JSON ({problem})") from problem
    else:
        where, found = f"{FLAG} {given}", read_json(Path(given))
    if not isinstance(found, dict):
        raise InputError(f'{where}: an object {{"principle": weight, ...}} is wanted')
    names = [principle.name for principle in principles]
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(f"{where}: there is no principle {', '.join(unknown)}; there are {', '.join(names)}")
    weights = [_weight(found.get(name, 1.0), f"{where}: {name}") for name in names]
    if not any(weights):
        raise InputError(f"{where}: every principle weighs 0, so that none can be drawn")
    return weights


def draw(seed: int, row: int, rounds: int, weights: Sequence[float]) -> list[int]:
    """The index of a row's principle in each round.

    A round's principle is drawn by weight from those the rounds before have not had; once all have been had, from all
    again. It depends on seed, row, the round's number and the weights, but not on how many rounds follow.
    """
    drawn: list[int] = []
    left: list[int] = []
    for turn in range(rounds):
        left = left or [index for index, weight in enumerate(weights) if weight > 0]
        point = seeds.draw(seed, "principle", row, turn) / 2**64 * sum(weights[index] for index in left)
        for index in left:  # the last one has what rounding leaves over
            point -= weights[index]
            if point < 0:
                break
        drawn.append(index)
        left.remove(index)
    return drawn


def _weight(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{where}: the weight is {value!r}; a number of at least 0 is wanted")
    return float(value)
