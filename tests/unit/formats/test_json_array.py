"""Arrays are read item by item: the same items and complaints whatever pieces the file comes in."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats import json_array
from cai_jobs.formats.json_array import begins_array, read_array

ITEMS: list[Any] = [{"a": "x\n\\ü😀 ]"}, [], 12, -1.5e3, True, None, "", "long " * 50, {"deep": [{"b": [1, 2]}]}, 7]


@pytest.fixture(params=[1, 2, 3, 7, 1 << 16])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_array, "CHUNK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("items", [ITEMS, [], [5], [[]]])
def test_items_are_those_of_the_array(tmp_path: Path, items: list[Any]) -> None:
    for number, text in enumerate(
        [json.dumps(items), "\n " + json.dumps(items, indent=3, ensure_ascii=False) + "\r\n"]
    ):
        (tmp_path / f"{number}.json").write_text(text)
        (tmp_path / f"{number}.json.gz").write_bytes(gzip.compress(text.encode()))
    for path in sorted(tmp_path.iterdir()):
        assert begins_array(path)
        assert list(read_array(path)) == items, path.name


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', "(line 3: Expecting value)"),
        ('[\n{"a": 1}\n{"a": 2}]', "(line 3: Expecting ',' delimiter)"),
        ('[{"a": 1}', "(line 1: Expecting ',' delimiter)"),
        ('[{"a": 1},\n\n', "(line 3: Expecting value)"),
        ('[\n"a', "(line 2: Unterminated string starting at)"),
        ("[1, 2]\n[3]", "(line 2: Extra data)"),
        ('["a\\q"]', "(line 1: Invalid \\escape)"),
        ("", "(line 1: an array is wanted)"),
        ('{"a": 1}', "(line 1: an array is wanted)"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as problem:
        list(read_array(tmp_path / "a.json"))
    assert str(problem.value) == f"{tmp_path / 'a.json'}: the array is not JSON {sentence}"


def test_a_mistake_is_found_without_reading_on_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"a" 1},\n' + b" " * 200_000 + b"\xff")
    with pytest.raises(InputError, match="Expecting ':' delimiter"):
        list(read_array(tmp_path / "a.json"))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        begins_array(tmp_path / "none.json")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"[1, 2, 3]")[:-9])
    with pytest.raises(InputError, match="cannot be read as text"):
        list(read_array(tmp_path / "cut.json.gz"))
    (tmp_path / "bytes.json").write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match="cannot be read as text"):
        list(read_array(tmp_path / "bytes.json"))
