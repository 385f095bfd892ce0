"""One thing that is wrong with a document, and how to do without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place.

    Attributes:
        path: the field, such as `spec.stages.sft.nodes`.
        found: what is there.
        allowed: what may be there instead.
    """

    path: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}; allowed: {self.allowed}"


def shown(value: Any) -> str:
    """A value as a complaint shows it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def drop(document: Any, location: Sequence[str | int]) -> bool:
    """Take away what is at a place of a document of JSON values; False where there is no such place."""
    try:
        for part in location[:-1]:
            document = document[part]
        del document[location[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True
