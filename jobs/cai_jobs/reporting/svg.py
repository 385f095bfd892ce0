"""The report's plots as SVG text, drawn at the size of a phone's column and coloured by the page's CSS classes. Pure.

Every text that comes from outside is escaped. Lengths are SVG user units, about CSS pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

RATE_WIDTH, RATE_ROW, RATE_FOOT = 320, 34, 20
RATE_LEFT, RATE_RIGHT = 66, 262
CHART_WIDTH, CHART_HEIGHT = 340, 200
CHART_LEFT, CHART_RIGHT, CHART_TOP, CHART_BOTTOM = 46, 10, 10, 26
MOST_POINTS = 400


@dataclass(frozen=True)
class RateRow:
    """One model's rate: its CSS class and name, the share, the interval's bounds, and the share in words."""

    css: str
    name: str
    share: float
    bounds: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class Series:
    """One curve: its CSS class and name, and its points (x, y), x ascending."""

    css: str
    name: str
    points: Sequence[tuple[float, float]]


def rate_panel(title: str, rows: Sequence[RateRow]) -> Markup:
    """Models below one another, each with a mark at its rate and a bar over its interval, on an axis to 100 %."""
    height = RATE_ROW * len(rows) + RATE_FOOT
    bottom = height - RATE_FOOT
    parts: list[Markup] = []
    for share, label in ((0.0, "0"), (0.5, "50"), (1.0, "100 %")):
        x = _rate_x(share)
        parts.append(Markup('<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{y}"/>').format(x=x, y=bottom))
        parts.append(_text(x, height - 5, label, "tick", "middle"))
    for number, row in enumerate(rows):
        y = number * RATE_ROW + RATE_ROW // 2 + 2
        parts.append(_text(0, y + 4, row.name, f"name {row.css}", "start"))
        parts.append(
            Markup('<line class="interval {css}" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/>').format(
                css=row.css, x1=_rate_x(row.bounds[0]), x2=_rate_x(row.bounds[1]), y=y
            )
        )
        parts.append(_mark(row.css, _rate_x(row.share), y))
        parts.append(_text(RATE_WIDTH, y + 4, row.text, "value", "end"))
    spoken = "; ".join(
        f"{row.name} {row.text} (95 % interval {100 * row.bounds[0]:.0f} to {100 * row.bounds[1]:.0f} %)"
        for row in rows
    )
    return _svg(RATE_WIDTH, height, f"{title}: {spoken}", parts)


def line_chart(title: str, series: Sequence[Series], *, share: bool = False) -> Markup:
    """Curves over training steps. Points that are not finite are left out; long curves are thinned for drawing.

    Args:
        share: the values are shares; the axis then shows all of 0 to 1.
    """
    drawn = [Series(curve.css, curve.name, _drawable(curve.points)) for curve in series]
    points = [point for curve in drawn for point in curve.points]
    if not points:
        return Markup("")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if share else nice_ticks(min(ys), max(ys), 4)
    x_ticks = [tick for tick in nice_ticks(min(xs), max(xs), 4) if min(xs) <= tick <= max(xs)]
    low, high = min(*y_ticks, *ys), max(*y_ticks, *ys)
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    width, height = CHART_WIDTH - CHART_LEFT - CHART_RIGHT, CHART_HEIGHT - CHART_TOP - CHART_BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(CHART_LEFT + (x - left) / (right - left) * width, 1),
            round(CHART_TOP + (high - y) / (high - low) * height, 1),
        )

    parts: list[Markup] = []
    for tick in y_ticks:
        _, y = place(left, tick)
        parts.append(
            Markup('<line class="grid" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/>').format(
                x1=CHART_LEFT, x2=CHART_WIDTH - CHART_RIGHT, y=y
            )
        )
        parts.append(_text(CHART_LEFT - 6, y + 4, number(tick), "tick", "end"))
    for tick in x_ticks:
        x, _ = place(tick, low)
        anchor = "end" if x > CHART_WIDTH - 24 else "middle"
        parts.append(_text(x, CHART_HEIGHT - 6, number(tick), "tick", anchor))
    for curve in drawn:
        parts += _curve(curve.css, [place(x, y) for x, y in curve.points])
    spoken = "; ".join(_spoken(curve) for curve in drawn if curve.points)
    return _svg(CHART_WIDTH, CHART_HEIGHT, f"{title} over training steps: {spoken}", parts)


def bar(title: str, spans: Iterable[tuple[str, float, float]]) -> Markup:
    """A strip of the page's full width with bars in it: (CSS class, from, to), both as shares of the width."""
    parts = [
        Markup('<rect class="{css}" x="{x}" y="0" width="{width}" height="10" rx="2"/>').format(
            css=css, x=round(1000 * start, 1), width=round(max(3.0, 1000 * (end - start)), 1)
        )
        for css, start, end in spans
    ]
    return Markup(
        '<svg class="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{title}">'
        "<title>{title}</title>{parts}</svg>"
    ).format(title=title, parts=Markup("").join(parts))


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` + 1 round numbers (1, 2 or 5 times a power of ten apart) that enclose low to high."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def number(value: float) -> str:
    """A number for an axis: at most three significant digits, no exponent for everyday sizes."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.10g}".replace("-", "−") if abs(value) >= 100 else f"{value:.3g}".replace("-", "−")


def _drawable(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stride = math.ceil(len(finite) / MOST_POINTS) or 1
    thinned = finite[::stride]
    return thinned if not finite or thinned[-1] == finite[-1] else [*thinned, finite[-1]]


def _curve(css: str, places: Sequence[tuple[float, float]]) -> list[Markup]:
    path = " ".join(f"{x},{y}" for x, y in places)
    parts = (
        [Markup('<polyline class="curve {css}" points="{path}"/>').format(css=css, path=path)]
        if len(places) > 1
        else []
    )
    if len(places) <= 12:
        dot = Markup('<circle class="dot {css}" cx="{x}" cy="{y}" r="2.6"/>')
        parts += [dot.format(css=css, x=x, y=y) for x, y in places]
    return parts


def _spoken(curve: Series) -> str:
    (first_x, first_y), (last_x, last_y) = curve.points[0], curve.points[-1]
    return f"{curve.name} from {first_y:.3g} at step {first_x:g} to {last_y:.3g} at step {last_x:g}"


def _rate_x(share: float) -> float:
    return round(RATE_LEFT + share * (RATE_RIGHT - RATE_LEFT), 1)


def _mark(css: str, x: float, y: float) -> Markup:
    # each model has a shape of its own, for eyes that do not tell the colours apart
    if css == "slCai":
        return Markup('<rect class="mark {css}" x="{x}" y="{y}" width="10" height="10" rx="1"/>').format(
            css=css, x=round(x - 5, 1), y=y - 5
        )
    if css == "rlCai":
        corners = f"{x},{y - 7} {x + 7:.1f},{y} {x},{y + 7} {x - 7:.1f},{y}"
        return Markup('<polygon class="mark {css}" points="{corners}"/>').format(css=css, corners=corners)
    return Markup('<circle class="mark {css}" cx="{x}" cy="{y}" r="5.5"/>').format(css=css, x=x, y=y)


def _text(x: float, y: float, text: str, css: str, anchor: str) -> Markup:
    return Markup('<text class="{css}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>').format(
        css=css, x=x, y=y, anchor=anchor, text=text
    )


def _svg(width: int, height: int, title: str, parts: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}"><title>{title}</title>{parts}</svg>'
    ).format(width=width, height=height, title=escape(title), parts=Markup("").join(parts))
