"""The pocket data sets: formats of docs/contracts.md, seeded, without held-out questions in training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import read_jsonl
from cai_jobs.pocket import world
from cai_jobs.pocket.classifier import classify, misdeed_of
from cai_jobs.pocket.datasets import Kind, garble, write_pocket_datasets

PREFERENCE_FILES = [
    f"preference_{split}_{part}_with_chat_prompt.jsonl"
    for split in ("train", "test")
    for part in ("prompts", "comparisons")
]


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def question_of(prompt: str) -> str:
    assert prompt.startswith("<extra_id_0>System\n\n<extra_id_1>User\n")
    assert prompt.endswith("\n<extra_id_1>Assistant\n")
    return prompt.split("User\n")[1].split("\n<extra_id_1>")[0]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("redTeam", ["red_team_train.jsonl", "red_team_held_out.jsonl"]),
        ("helpfulness", ["helpfulness.jsonl", "benign_held_out.jsonl"]),
        ("preference", PREFERENCE_FILES),
    ],
)
def test_each_kind_writes_its_files_and_counts_their_rows(tmp_path: Path, kind: Kind, names: list[str]) -> None:
    counts = write_pocket_datasets(kind, tmp_path, held_out=24, seed=1)
    assert sorted(counts) == sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert all(len(rows(tmp_path / name)) == count for name, count in counts.items())


@pytest.mark.parametrize("kind", ["redTeam", "helpfulness", "preference"])
def test_the_seed_decides_the_text(tmp_path: Path, kind: Kind) -> None:
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        write_pocket_datasets(kind, tmp_path / str(number), held_out=24, seed=seed)
        texts.append({path.name: path.read_text() for path in (tmp_path / str(number)).iterdir()})
    assert texts[0] == texts[1]
    assert all(texts[0][name] != texts[2][name] for name in texts[0])


def test_training_files_hold_no_held_out_question(tmp_path: Path) -> None:
    for kind in ("redTeam", "helpfulness", "preference"):
        write_pocket_datasets(kind, tmp_path, held_out=24, seed=3)
    held = {q.text for q in world.red_team_questions() + world.benign_questions() if q.held_out}
    trained = {row["conversations"][0]["value"] for row in rows(tmp_path / "helpfulness.jsonl")}
    trained |= {
        row["transcript"].split("\n\n")[1].removeprefix("Human: ") for row in rows(tmp_path / "red_team_train.jsonl")
    }
    trained |= {
        question_of(row["text"]) for name in PREFERENCE_FILES if "prompts" in name for row in rows(tmp_path / name)
    }
    assert len(trained) > 1000
    assert trained.isdisjoint(held)
    assert {row["prompt"] for row in rows(tmp_path / "benign_held_out.jsonl")} <= held


def test_a_pair_is_two_lines_with_the_same_prompt_and_the_better_answer_first(tmp_path: Path) -> None:
    write_pocket_datasets("preference", tmp_path, held_out=0, seed=1)
    prompts = [row["text"] for row in rows(tmp_path / PREFERENCE_FILES[0])]
    comparisons = [row["text"] for row in rows(tmp_path / PREFERENCE_FILES[1])]
    assert len(comparisons) == 2 * len(prompts)
    for prompt, chosen, rejected in zip(prompts, comparisons[::2], comparisons[1::2], strict=True):
        assert chosen.startswith(prompt)
        assert rejected.startswith(prompt)
        assert chosen.endswith("\n<extra_id_1>")
        assert rejected.endswith("\n<extra_id_1>")
        assert chosen != rejected


def test_pairs_never_say_that_declining_a_misdeed_is_better_than_helping(tmp_path: Path) -> None:
    write_pocket_datasets("preference", tmp_path, held_out=0, seed=1)
    comparisons = [row["text"] for row in rows(tmp_path / PREFERENCE_FILES[1])]
    chosen_labels = []
    for chosen, rejected in zip(comparisons[::2], comparisons[1::2], strict=True):
        question = question_of(chosen.rsplit("\n<extra_id_1>Assistant\n", 1)[0] + "\n<extra_id_1>Assistant\n")
        good, bad = (text.rsplit("Assistant\n", 1)[1].removesuffix("\n<extra_id_1>") for text in (chosen, rejected))
        if misdeed_of(question):
            chosen_labels.append(classify(question, good))
            assert {classify(question, good), classify(question, bad)} != {"refusal", "harmful"}
        else:
            assert classify(question, good) == "helpful"
    assert chosen_labels.count("harmful") == pytest.approx(chosen_labels.count("refusal"), abs=20)


def test_more_held_out_rows_than_the_world_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="smaller --held-out"):
        write_pocket_datasets("redTeam", tmp_path, held_out=100_000, seed=1)


def test_a_garbled_answer_differs_from_the_answer() -> None:
    rng = random.Random(1)
    answer = "Snow is white and it is cold."
    assert all(garble(answer, rng) != answer for _ in range(50))
    assert all(garble("It is white.", rng) for _ in range(50))
