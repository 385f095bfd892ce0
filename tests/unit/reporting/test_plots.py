"""The report's SVG plots and its time axis."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from cai_jobs.reporting import svg, timeline
from cai_jobs.reporting.svg import RateRow, Series

HOSTILE = '"><script>alert(1)</script>&'


def test_rate_marks_stand_where_the_rates_are() -> None:
    rows = [RateRow("base", "base", 0.0, (0.0, 0.1), "0 %"), RateRow("slCai", "SL-CAI", 1.0, (0.8, 1.0), "100 %")]
    image = ElementTree.fromstring(svg.rate_panel("Harmful", rows))
    circle, square = image.find("circle"), image.find("rect")
    assert circle is not None
    assert square is not None
    assert float(circle.attrib["cx"]) == svg.RATE_LEFT
    assert float(square.attrib["x"]) + 5 == svg.RATE_RIGHT
    intervals = [line for line in image.findall("line") if "interval" in line.attrib["class"]]
    tenth = (svg.RATE_RIGHT - svg.RATE_LEFT) / 10
    lengths = [float(line.attrib["x2"]) - float(line.attrib["x1"]) for line in intervals]
    assert lengths == pytest.approx([tenth, 2 * tenth], abs=0.15)
    assert image.attrib["aria-label"] == (
        "Harmful: base 0 % (95 % interval 0 to 10 %); SL-CAI 100 % (95 % interval 80 to 100 %)"
    )


def test_curves_span_the_plot_and_leave_out_what_is_not_finite() -> None:
    curve = Series("train", "train", [(1, 4.0), (2, float("nan")), (3, float("inf")), (5, 0.0)])
    image = ElementTree.fromstring(svg.line_chart("Loss", [curve]))
    polyline = image.find("polyline")
    assert polyline is not None
    bottom = svg.CHART_HEIGHT - svg.CHART_BOTTOM
    right = svg.CHART_WIDTH - svg.CHART_RIGHT
    assert polyline.attrib["points"] == f"{svg.CHART_LEFT}.0,{svg.CHART_TOP}.0 {right}.0,{bottom}.0"


@pytest.mark.parametrize("points", [[(7, 0.3)], [(1, 0.0), (2, 0.0)], [(1, -5.0), (2, -5.0)]])
def test_a_single_point_or_a_flat_curve_is_drawn(points: list[tuple[float, float]]) -> None:
    image = ElementTree.fromstring(svg.line_chart("KL", [Series("train", "train", points)]))
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in image.findall("circle")]
    assert len(places) == len(points)
    assert all(0 <= x <= svg.CHART_WIDTH and 0 <= y <= svg.CHART_HEIGHT for x, y in places)


def test_nothing_to_draw_is_no_plot() -> None:
    assert svg.line_chart("Loss", [Series("train", "train", [(1, float("nan"))])]) == ""


def test_a_long_curve_is_thinned_but_keeps_its_ends() -> None:
    points = [(float(step), float(step)) for step in range(10_001)]
    image = svg.line_chart("Loss", [Series("train", "train", points)])
    match = re.search(r'points="([^"]*)"', image)
    assert match is not None
    places = match[1].split()
    assert len(places) <= svg.MOST_POINTS + 1
    assert places[0].startswith(f"{svg.CHART_LEFT}.0,")
    assert places[-1].startswith(f"{svg.CHART_WIDTH - svg.CHART_RIGHT}.0,")


@pytest.mark.parametrize(
    "drawn",
    [
        svg.rate_panel(HOSTILE, [RateRow("base", HOSTILE, 0.5, (0.4, 0.6), HOSTILE)]),
        svg.line_chart(HOSTILE, [Series("train", HOSTILE, [(1, 2), (2, 3)])]),
        svg.bar(HOSTILE, [("span", 0, 1)]),
    ],
)
def test_text_in_plots_is_escaped(drawn: str) -> None:
    image = ElementTree.fromstring(drawn)
    assert HOSTILE in image.attrib["aria-label"]
    assert image.find(".//script") is None


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 1, 2, [0, 0.5, 1]),
        (0.13, 2.6, 4, [0, 1, 2, 3]),
        (-1.2, 0.9, 4, [-2, -1, 0, 1]),
        (0, 4000, 4, [0, 1000, 2000, 3000, 4000]),
        (3, 3, 2, [2.5, 3, 3.5]),
    ],
)
def test_ticks_are_round_and_enclose_the_data(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert svg.nice_ticks(low, high, count) == ticks


def test_axis_numbers_are_short() -> None:
    values = [0, 0.25, -1.5, 1200, 2_000_000, 0.00002, 0.30000000000000004]
    assert [svg.number(value) for value in values] == ["0", "0.25", "−1.5", "1200", "2e6", "2e-5", "0.3"]


def test_time_axis_without_gaps_is_to_scale() -> None:
    spans, busy, shortened = timeline.compress([(100, 150), (140, 180), (180, 200)])
    assert spans == [(0.0, 0.5), (0.4, 0.8), (0.8, 1.0)]
    assert (busy, shortened) == (100, 0)


def test_long_idle_stretches_are_shortened() -> None:
    week = 7 * 86_400
    spans, busy, shortened = timeline.compress([(week, week + 60), (0, 40)])
    assert (busy, shortened) == (100, 1)
    assert spans == [(pytest.approx(45 / 105), pytest.approx(1.0)), (0.0, pytest.approx(40 / 105))]


def test_stages_that_took_no_time_have_a_place() -> None:
    assert timeline.compress([(5, 5)]) == ([(0.0, 0.0)], 0, 0)
