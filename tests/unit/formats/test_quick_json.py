"""JSON made and read quickly says what the standard library's says."""

import json
import math
from typing import Any

import pytest

from cai_jobs.formats import quick_json

VALUES = [
    {"step": "response", "rows": [0, 12], "values": ['a\n"b"', "é 漢 \U0001f600 \u2028"]},
    [None, True, False, 0, -1, 2**53, 1.5, 1e300, ""],
    {"half": "\ud800", "text": "é"},
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_and_is_one_line_of_json(value: Any) -> None:
    text = quick_json.dump(value)
    assert quick_json.load(text) == json.loads(text) == value
    assert b"\n" not in text


def test_what_only_python_takes_is_taken() -> None:
    assert quick_json.load(b'["\\ud800"]') == ["\ud800"]
    assert math.isnan(quick_json.load(b"NaN"))
    assert quick_json.dump([math.nan]) == b"[null]"


@pytest.mark.parametrize("text", [b"", b'{"a": ', b"\xff", b"{'a': 1}", b'["\xff"]', b"\0" * 8])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each codec has its own sentence
        quick_json.load(text)
