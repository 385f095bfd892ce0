"""Complaints about files name the file and the line."""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import read_json, read_jsonl, write_json, write_json_array, write_jsonl


def test_round_trip_keeps_text(tmp_path: Path) -> None:
    rows = [{"text": "a\nb ü"}, {"text": ""}]
    assert write_jsonl(tmp_path / "deep" / "x.jsonl", rows) == 2
    assert [row for _, row in read_jsonl(tmp_path / "deep" / "x.jsonl")] == rows
    write_json(tmp_path / "y.json", rows)
    assert read_json(tmp_path / "y.json") == rows


def test_gzip_is_read_by_name(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write('{"a": 1}\n\n{"a": 2}\n')
    assert list(read_jsonl(tmp_path / "x.jsonl.gz")) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "x.jsonl: the file is empty"),
        ("\n\n", "x.jsonl: the file is empty"),
        ('{"a": 1}\n' * 6 + "{oops\n", r"x.jsonl:7: not JSON"),
        ("[1]\n", "x.jsonl:1: a JSON object is wanted, this is an array"),
        ("null\n", "this is null"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError, match=why):
        list(read_jsonl(tmp_path / "x.jsonl"))


def test_missing_directory_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="is a directory"):
        list(read_jsonl(tmp_path))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        list(read_jsonl(tmp_path / "b.jsonl"))
    (tmp_path / "b.json").write_text("{\n1}")
    with pytest.raises(InputError, match=r"b.json:2: not JSON"):
        read_json(tmp_path / "b.json")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "y.json", {"old": True})
    with pytest.raises(TypeError):
        write_json(tmp_path / "y.json", {"new": object()})
    assert read_json(tmp_path / "y.json") == {"old": True}


@pytest.mark.parametrize(
    "values", [[], [1], ["a\n b", {"k": [], "l": {}, "m": [1, {"n": "ü"}]}, []], [{"half": "\ud83d"}]]
)
def test_an_array_written_one_by_one_reads_as_if_written_at_once(tmp_path: Path, values: list[Any]) -> None:
    assert write_json_array(tmp_path / "a.json", iter(values)) == len(values)
    write_json(tmp_path / "b.json", values)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == values


@pytest.mark.parametrize("write", [write_jsonl, write_json_array])
def test_rows_are_written_as_they_come_and_stand_only_once_all_are_there(
    tmp_path: Path, write: Callable[[Path, Iterable[Any]], int]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("old")

    def rows(good: int) -> Iterator[Any]:
        for number in range(good):
            yield {"text": "x" * 1000, "number": number}
        assert (tmp_path / "x.jsonl.new").stat().st_size > 900 * good
        assert path.read_text() == "old"
        if good < 1000:
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write(path, rows(500))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert write(path, rows(1000)) == 1000
    assert path.read_text() != "old"


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    rows = [{"text": "ü"}, {"text": "\ud83d"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert [row for _, row in read_jsonl(tmp_path / "x.jsonl")] == rows
    assert (tmp_path / "x.jsonl").read_bytes().splitlines()[0] == '{"text": "ü"}'.encode()
