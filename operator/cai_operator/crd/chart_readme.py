"""The table of values in the chart's README.md: a row for every value, from values.yaml and its comments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import yaml

from cai_operator.made_part import with_part

BEGIN, END = "<!-- values: made by `make manifests` from values.yaml -->\n", "<!-- end of values -->\n"


def with_values(readme: str, values: str) -> str:
    """The README with the table between its two marks made anew from the text of values.yaml.

    Raises:
        ValueError: the README has no marks, or a value has no comment; the message names it.
    """
    rows = "".join(f"| {path} | {default} | {words} |\n" for path, default, words in rows_of(values))
    return with_part("the chart's README.md", readme, BEGIN, END, f"| value | default | |\n|---|---|---|\n{rows}")


def rows_of(values: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and comment of every value, as cells of a table; sections have no default.

    A mapping in flow style is one value, one in block style a section, unless none of its fields has a comment.

    Raises:
        ValueError: a value has no comment.
    """
    yield from _rows(yaml.compose(values, Loader=yaml.SafeLoader), values.splitlines(), "")


def _rows(mapping: yaml.Node | None, lines: Sequence[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    assert isinstance(mapping, yaml.MappingNode)
    for key, value in mapping.value:
        path = f"{prefix}{key.value}"
        words = _comment_above(lines, key.start_mark.line)
        if not words:
            raise ValueError(f"values.yaml, line {key.start_mark.line + 1}: {path} has no comment above it")
        if _is_section(value, lines):
            yield f"`{path}`", "", words
            yield from _rows(value, lines, f"{path}.")
        else:
            default = yaml.safe_load(yaml.serialize(value))
            yield f"`{path}`", f"`{json.dumps(default, ensure_ascii=False)}`", words


def _is_section(node: yaml.Node, lines: Sequence[str]) -> bool:
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return False
    return any(_comment_above(lines, key.start_mark.line) for key, _ in node.value)


def _comment_above(lines: Sequence[str], line: int) -> str:
    indentation = len(lines[line]) - len(lines[line].lstrip())
    words: list[str] = []
    for above in reversed(lines[:line]):
        if not above.startswith(" " * indentation + "# "):
            break
        words.insert(0, above.strip().removeprefix("# "))
    return " ".join(words)
