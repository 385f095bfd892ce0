"""The chart's table of values, from values.yaml and its comments."""

from __future__ import annotations

import pytest

from cai_operator.crd.chart_readme import BEGIN, END, rows_of, with_values

VALUES = """\
# Of the file, not of a value.

# Where images
# are.
image:
  # Its name.
  name: "a"
  # Its parts.
  parts: {tag: dev, digest: ""}

# CPU.
resources:
  requests: {cpu: 1}
"""


def test_every_value_has_its_row() -> None:
    assert list(rows_of(VALUES)) == [
        ("`image`", "", "Where images are."),
        ("`image.name`", '`"a"`', "Its name."),
        ("`image.parts`", '`{"tag": "dev", "digest": ""}`', "Its parts."),
        ("`resources`", '`{"requests": {"cpu": 1}}`', "CPU."),
    ]


def test_a_value_nobody_explained_is_named() -> None:
    with pytest.raises(ValueError, match=r"values\.yaml, line 4: image.tag has no comment above it"):
        list(rows_of("# Image.\nimage:\n\n  tag: a\n  # Its name.\n  name: b\n"))


def test_the_table_takes_the_place_between_its_marks() -> None:
    once = with_values(f"before\n{BEGIN}old\n{END}after\n", VALUES)
    assert once.startswith(f"before\n{BEGIN}| value |")
    assert once.endswith("| CPU. |\n" + END + "after\n")
    assert "old" not in once
    assert with_values(once, VALUES) == once


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"README.md has no <!-- values"):
        with_values("nothing\n", VALUES)
