"""Stages on a common time axis from which long idle stretches are cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_GAP = 0.05
"""An idle stretch is drawn at most this share of the time in which something ran."""


def compress(spans: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], float, int]:
    """Place spans of seconds on an axis from 0 to 1, with idle stretches shortened.

    A run that found last week's artifacts would else show a dot at each end of a week.

    Args:
        spans: (start, end) of each stage, in any order, end >= start.

    Returns:
        the spans as shares of the axis in the order given, the seconds in which at least one stage ran, and how many
        idle stretches were shortened.
    """
    blocks: list[list[float]] = []
    for start, end in sorted(spans):
        if blocks and start <= blocks[-1][1]:
            blocks[-1][1] = max(blocks[-1][1], end)
        else:
            blocks.append([start, end])
    busy = sum(end - start for start, end in blocks)
    longest = LONGEST_GAP * busy
    offsets, place, shortened = [], 0.0, 0
    for number, (start, end) in enumerate(blocks):
        if number:
            gap = start - blocks[number - 1][1]
            shortened += gap > longest
            place += min(gap, longest)
        offsets.append(place)
        place += end - start
    whole = place or 1.0

    def share(time: float) -> float:
        block = max((number for number, (start, _) in enumerate(blocks) if start <= time), default=0)
        return (offsets[block] + time - blocks[block][0]) / whole

    return [(share(start), share(end)) for start, end in spans], busy, shortened
