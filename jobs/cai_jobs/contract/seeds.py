"""What is drawn for a row follows from (seed, row) alone, so that batch size, order and interruptions change nothing.

A draw is the first eight bytes of sha256 over the canonical JSON of [seed, purpose, ...], big-endian.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

SAMPLING_SEED_BITS = 31

Item = TypeVar("Item")
# json.dumps with separators makes an encoder each time
_to_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def draw(seed: int, purpose: str, *parts: int | str | float) -> int:
    """A 64-bit number that depends on nothing but its arguments."""
    text = _to_json([seed, purpose, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sampling(seed: int, step: str, row: int) -> int:
    """The server's sampling seed for one sentence: 0 <= value < 2**31, which every server takes."""
    return draw(seed, "sampling", step, row) >> (64 - SAMPLING_SEED_BITS)


def order(count: int, seed: int, purpose: str, *parts: int | str) -> array[int]:
    """The places 0 to count-1 in an order fixed by the seed: sorted by a draw for each place."""
    ranks = array("Q", (draw(seed, purpose, *parts, place) for place in range(count)))
    return array("q", sorted(range(count), key=ranks.__getitem__))


def shuffled(items: Sequence[Item], seed: int, purpose: str, *parts: int | str) -> list[Item]:
    """The items in the `order` of the same arguments."""
    return [items[place] for place in order(len(items), seed, purpose, *parts)]


def digest(value: Any) -> str:
    """sha256, 16 hex digits, of a JSON value in canonical form."""
    return hashlib.sha256(_canonical(value)).hexdigest()[:16]


def digest_all(values: Iterable[Any]) -> str:
    """The `digest` of the list of these values, taken one by one."""
    found = hashlib.sha256(b"[")
    separator = b""
    for value in values:
        found.update(separator + _canonical(value))
        separator = b","
    found.update(b"]")
    return found.hexdigest()[:16]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
