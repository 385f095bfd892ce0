"""Comparisons files are read pair by pair, and what would shift the pairs is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats.comparisons import read_pairs


def test_pairs_come_in_the_files_order(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c\\u2028d"}\n{"text": "é"}')
    assert list(read_pairs(path)) == [("a", "b"), ("c\u2028d", "é")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file is empty"),
        ('{"text": "a"}\n', "c.jsonl:1: the chosen text of this last line has no rejected one"),
        ('{"text": "a"}\n\n{"text": "b"}\n', "c.jsonl:2: a blank line"),
        ('{"text": "a"}\n{"text": "b"}\n\n', "c.jsonl:3: a blank line"),
        ('{"text": "a"}\n{"text": \n', "c.jsonl:2: not JSON"),
        ('{"text": "a"}\n["b"]\n', "c.jsonl:2: a JSON object is wanted"),
        ('{"text": "a"}\n{"text": ""}\n', 'c.jsonl:2: the field "text" is empty'),
    ],
)
def test_bad_files(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as problem:
        list(read_pairs(path))
    assert complaint in str(problem.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_pairs(tmp_path / "missing.jsonl"))
