import json
from pathlib import Path

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats import sft_rows
from cai_jobs.formats.jsonl import line_of
from cai_jobs.formats.spool import Spool
from cai_jobs.generation import blend
from cai_jobs.generation.blend import Picked
from cai_jobs.generation.lengths import token_counter

MODEL = Path(blend.__file__).parent.parent / "data" / "pocket" / "model"


def row(prompt: str, answer: str = "a") -> dict[str, object]:
    turns = [{"from": "User", "value": prompt, "label": None}, {"from": "Assistant", "value": answer, "label": None}]
    return {"system": "", "conversations": turns, "mask": "User", "dataset": "d"}


def picked(rows: list[dict[str, object]]) -> Picked[dict[str, object]]:
    return Picked([rows])


def test_picked_items_are_those_of_the_sets_laid_end_to_end() -> None:
    sets = [Spool("abc"), [], ["d", "e"]]
    assert list(Picked(sets)) == ["a", "b", "c", "d", "e"]
    some = Picked(sets, [4, 0, 3])
    assert list(some) == ["e", "a", "d"]
    assert list(some.pick([2, 0])) == list(some[::-2]) == ["d", "e"]
    assert list(Picked([])) == []
    with pytest.raises(IndexError):
        some[3]


def test_validation_shares_no_first_turn_with_training() -> None:
    rows = picked([row(f"q{number % 10}", str(number)) for number in range(30)])
    train, validation = blend.split_validation(rows, 0.2, 1)
    firsts = [{blend.first_turn(r) for r in part} for part in (train, validation)]
    assert (len(train), len(validation), len(firsts[1])) == (24, 6, 2)
    assert not firsts[0] & firsts[1]
    assert [list(part) for part in blend.split_validation(rows, 0, 1)] == [list(rows), []]
    with pytest.raises(InputError, match="1 distinct prompts"):
        blend.split_validation(picked([row("q")]), 0.2, 1)


def test_a_prompt_goes_to_the_same_side_whatever_the_order() -> None:
    rows = [row(f"q{number}") for number in range(40)]
    sides = []
    for order in (rows, rows[::-1]):
        _, validation = blend.split_validation(picked(order), 0.25, 3)
        sides.append({blend.first_turn(r) for r in validation})
    assert sides[0] == sides[1]
    assert len(sides[0]) == 10


def test_blending_keeps_every_row_once_in_an_order_of_the_seeds() -> None:
    sets = [[row(f"{name}{number}") for number in range(20)] for name in "ab"]
    orders = [[blend.first_turn(r) for r in blend.blend_rows(sets, seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(f"{name}{number}" for name in "ab" for number in range(20))


def test_long_rows_are_dropped_by_the_length_the_trainer_sees() -> None:
    count = token_counter(str(MODEL), None)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = [row("How do I boil an egg?", "Eight minutes. " * repeated) for repeated in range(1, 30)]
    lengths = [len(sft_rows.tokenize(r, tokenizer)[0]) for r in rows]
    limit = lengths[12]
    assert lengths[11] < limit < lengths[13]
    assert list(blend.drop_long(rows, limit, count)) == rows[:13]


def test_duplicates_are_whole_dialogues() -> None:
    rows = [row("q", "a"), row("q", "b"), row("q ", "a"), row("q", "a b")]
    assert list(blend.drop_duplicates(rows, "exact")) == [rows[0], rows[1], rows[3]]
    assert list(blend.drop_duplicates(rows, "none")) == rows


@pytest.mark.parametrize(
    ("output", "summary"), [("x.jsonl", "x.summary.json"), ("x.json", "x.summary.json"), ("x.v2", "x.v2.summary.json")]
)
def test_a_summary_stands_beside_any_output(output: str, summary: str) -> None:
    assert blend.summary_path(Path("d") / output) == Path("d") / summary


def test_blending_checks_rows_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text('{"system": ""}\n')
    with pytest.raises(InputError, match=r"h\.jsonl:1: "):
        blend.blend_cai_sft_dataset(tmp_path / "h.jsonl", tmp_path / "h.jsonl", tmp_path / "o", tmp_path / "s")


def test_a_file_may_be_blended_onto_itself(tmp_path: Path) -> None:
    ours = tmp_path / "ours.jsonl"
    ours.write_bytes(b"".join(line_of(row(f"q{number}")) for number in range(5)))
    blend.blend_cai_sft_dataset(None, ours, ours, tmp_path / "summary.json")
    assert sorted(json.loads(line)["conversations"][0]["value"] for line in ours.read_text().splitlines()) == [
        f"q{number}" for number in range(5)
    ]
    assert json.loads((tmp_path / "summary.json").read_text())["rows"] == 5
