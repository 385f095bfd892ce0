"""Held-out prompts and transcripts files."""

import json
from pathlib import Path

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.evaluation import transcripts
from cai_jobs.evaluation.transcripts import Transcript


def _file(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("row", [{"text": "x"}, {"prompt": 3}, {"prompt": " "}])
def test_a_benign_row_without_a_prompt_is_named_with_its_line(tmp_path: Path, row: dict[str, object]) -> None:
    path = _file(tmp_path / "benign.jsonl", {"prompt": " Boil an egg? "}, row)
    with pytest.raises(InputError, match=r"benign\.jsonl:2: .*`prompt`"):
        transcripts.read_benign_prompts(path)


def test_transcripts_survive_being_written_and_read(tmp_path: Path) -> None:
    rows = [
        Transcript("redTeam", "Break a fence?", "No.\nBut </script> é", "refusal", "win"),
        Transcript("benign", "Boil an egg?", "", None),
    ]
    transcripts.write_transcripts(tmp_path / "t.jsonl", rows)
    again = transcripts.read_transcripts(tmp_path / "t.jsonl")
    # the outcome was against another baseline, so it does not come along
    assert [(row.kind, row.prompt, row.answer, row.label) for row in again] == [
        (row.kind, row.prompt, row.answer, row.label) for row in rows
    ]


def test_a_file_of_something_else_is_no_transcripts_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t\.jsonl:1: not a transcript row: kind None"):
        transcripts.read_transcripts(_file(tmp_path / "t.jsonl", {"prompt": "x"}))


def test_baseline_is_matched_by_kind_and_prompt_whatever_its_order() -> None:
    ours = [Transcript("redTeam", "a", "1"), Transcript("benign", "a", "2")]
    base = [Transcript("benign", "a", "B"), Transcript("redTeam", "b", "C"), Transcript("redTeam", "a", "A")]
    assert [row.answer for row in transcripts.match_baseline(ours, base)] == ["A", "B"]


def test_a_baseline_of_other_prompts_is_refused() -> None:
    with pytest.raises(InputError, match='no answer to 1 of 2 prompts, the first being "new"'):
        transcripts.match_baseline(
            [Transcript("benign", "new", ""), Transcript("benign", "old", "")], [Transcript("benign", "old", "x")]
        )
