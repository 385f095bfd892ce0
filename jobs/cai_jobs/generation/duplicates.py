"""Texts that say the same twice: found exactly, or by how many of their words and pairs of words they share.

Near duplicates: a text's shingles are its words and pairs of neighbouring words, case and punctuation aside; two texts
are near duplicates where the Jaccard similarity of their sets of shingles is at least `THRESHOLD`. Every such pair is
found, by prefix filtering: with shingles sorted from the rarest to the most common, texts that are alike must share
one of their first few, so only texts that do are compared (Bayardo, Ma and Srikant, "Scaling up all pairs similarity
search", 2007; prefix lengths of Xiao et al., "Efficient similarity joins for near duplicate detection", 2008). Hashed
signatures (MinHash) would compare all questions of one pattern, "How do I make a ...?", with each other, and miss a few
pairs.

What is found is connected: if a resembles b and b resembles c, all three are one group. Memory is 16 bytes a text and,
for near duplicates, some 8 more for every tenth of its words; texts are read again where they are compared, so they may
lie on disk.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from cai_jobs.contract.program import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WAYS = ("none", "exact", "near")
THRESHOLD = 0.8
# scripts written without spaces: a character is a word there
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SLOTS = 1 << 22  # of hashed shingles; two that share one are told apart when texts are compared
_RECENT = 4096


def groups(text: Callable[[int], str], count: int, how: str) -> NDArray[np.int64]:
    """For each of `count` texts, the place of the first text of its group; its own place where it is that one.

    Args:
        text: the text at a place.
        how: "none" (every text is a group), "exact" (the same text, white space aside) or "near".

    Raises:
        InputError: there is no such way.
    """
    import numpy as np

    if how not in WAYS:
        raise InputError(f"duplicates: there is no way {how!r}; there are {', '.join(WAYS)}")
    if how == "none":
        return np.arange(count)
    first = _exact(text, count)
    return first if how == "exact" else _near(text, first)


def kept(text: Callable[[int], str], count: int, how: str) -> array[int]:
    """The places of the texts that stay when of every group only the first does, in order."""
    import numpy as np

    first = groups(text, count, how)
    return array("q", np.flatnonzero(first == np.arange(count)).astype(np.int64).tobytes())


def shingles(text: str) -> frozenset[int]:
    """Hashes of the words and pairs of neighbouring words of a text; of the text itself where it has no word."""
    words = _WORD.findall(text.casefold())
    pairs = map(" ".join, pairwise(words))
    # what is found does not hang on the hashes, so those of this process will do
    return frozenset(map(hash, [*words, *pairs] or [text.strip()]))


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    """The Jaccard similarity of two sets that are not empty: 0 for nothing in common, 1 for the same."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _exact(text: Callable[[int], str], count: int) -> NDArray[np.int64]:
    import numpy as np

    keys = np.fromiter((hash(" ".join(text(place).split())) for place in range(count)), np.int64, count)
    _, firsts, which = np.unique(keys, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = firsts[which].astype(np.int64)
    return found


def _near(text: Callable[[int], str], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the groups of exactly equal texts, given by their first places, where those are near duplicates."""
    import numpy as np

    parents = array("q", first.tobytes())
    frequency, sizes = _measure(text, first)
    heads = np.full(_SLOTS, -1, np.int32)  # by slot, the last entry of its chain
    texts, before = array("i"), array("i")  # by entry, the text it is of and the entry before it in its chain

    @lru_cache(_RECENT)
    def parts(place: int) -> frozenset[int]:
        return shingles(text(place))

    # shorter texts first: then the longer one of a pair is the one that looks, which lets less be entered
    for place in map(int, np.argsort(sizes, kind="stable")):
        if first[place] != place:
            continue  # the very same text stands for it
        slots = _rarest_first(parts(place), frequency)
        size = len(slots)
        compared: set[int] = set()
        for entry in map(int, heads[slots[: size - math.ceil(THRESHOLD * size) + 1]]):
            while entry >= 0:
                other = texts[entry]
                entry = before[entry]
                if other in compared or sizes[other] < THRESHOLD * size or _same(parents, place, other):
                    continue
                compared.add(other)
                if similarity(parts(place), parts(other)) >= THRESHOLD:
                    low, high = sorted((_root(parents, place), _root(parents, other)))
                    parents[high] = low
        for slot in map(int, slots[: size - math.ceil(2 * THRESHOLD / (1 + THRESHOLD) * size) + 1]):
            before.append(int(heads[slot]))
            heads[slot] = len(texts)
            texts.append(place)
    return np.fromiter((_root(parents, place) for place in range(len(first))), np.int64, len(first))


def _measure(text: Callable[[int], str], first: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(in how many different texts the shingles of each slot are, the number of shingles of each text)."""
    import numpy as np

    frequency, sizes = np.zeros(_SLOTS, np.int32), np.zeros(len(first), np.int32)
    for place in map(int, np.flatnonzero(first == np.arange(len(first)))):
        found = shingles(text(place))
        sizes[place] = len(found)
        np.add.at(frequency, _slots(found), 1)
    return frequency, sizes


def _slots(parts: frozenset[int]) -> NDArray[np.int64]:
    import numpy as np

    return np.fromiter(parts, np.int64, len(parts)) & (_SLOTS - 1)


def _rarest_first(parts: frozenset[int], frequency: NDArray[np.int32]) -> NDArray[np.int64]:
    """A text's slots in the order all texts have in common: by frequency, then by number."""
    import numpy as np

    slots = _slots(parts)
    return slots[np.lexsort((slots, frequency[slots]))]


def _same(parents: array[int], one: int, other: int) -> bool:
    return _root(parents, one) == _root(parents, other)


def _root(parents: array[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place
