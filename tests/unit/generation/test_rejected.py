"""Rows that cannot be done are listed, and too many of them end the run."""

import json
from pathlib import Path

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.generation.rejected import RejectedRows


def test_rejected_rows_are_written_in_row_order_each_once(tmp_path: Path) -> None:
    rejected = RejectedRows(100, 0.05)
    rejected.add(7, "late", "critique 1", "refused (400): too long")
    rejected.add(2, "early", "response", "refused (400): too long")
    rejected.add(7, "late", "revision 1", "another")
    rejected.check()
    assert (len(rejected), 7 in rejected, 3 in rejected) == (2, True, False)
    rejected.write(tmp_path / "rejected.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(row["row"], row["prompt"], row["step"]) for row in rows] == [
        (2, "early", "response"),
        (7, "late", "critique 1"),
    ]


def test_without_rejected_rows_no_list_is_left(tmp_path: Path) -> None:
    (tmp_path / "rejected.jsonl").write_text("of an earlier run\n")
    RejectedRows(3, 0.05).write(tmp_path / "rejected.jsonl")
    assert not (tmp_path / "rejected.jsonl").exists()


@pytest.mark.parametrize(("most", "allowed"), [(0.05, 1), (0.0, 0), (0.5, 10), (1.0, 20)])
def test_more_rejected_rows_than_allowed_end_the_run(most: float, allowed: int) -> None:
    rejected = RejectedRows(20, most)
    for row in range(allowed):
        rejected.add(row, "p", "response", "too long")
        rejected.check()
    if allowed < 20:
        rejected.add(19, "p", "response", "refused (400): too long")
        with pytest.raises(
            InputError, match=rf"{allowed + 1} of 20 rows .* --max-rejected {most:g} .*row 19 .*too long"
        ):
            rejected.check()
