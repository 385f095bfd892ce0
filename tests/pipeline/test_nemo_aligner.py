"""A run's data, read by NeMo-Aligner's own data set classes: they train on what we wrote, token for token."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.harness import nemo_aligner
from tests.harness.availability import skipped_where_unavailable
from transformers import AutoTokenizer

from cai_jobs.formats import sft_rows
from cai_jobs.formats.chat import EXTRA_ID
from cai_jobs.formats.comparisons import read_pairs, read_texts

pytestmark = pytest.mark.slow

LENGTH = 256  # sequence length of the small pipeline's trainers
SHORT = 24
STYLES = ("llama", "mistral", "qwen2")
Rows = list[dict[str, Any]]

DIALOGUES: list[dict[str, Any]] = [
    {
        "system": "",
        "conversations": [
            {"from": "User", "value": "How do I water a plant?", "label": None},
            {"from": "Assistant", "value": "A little, at dawn.", "label": None},
        ],
        "mask": "User",
    },
    {
        "system": "Be kind: {it} costs 100 % less.",
        "conversations": [
            {"from": "User", "value": " Where did I leave\n\nmy umbrella?  ", "label": None},
            {"from": "Assistant", "value": "Beside the door,\nperhaps — “there”.", "label": None},
            {"from": "User", "value": "User\nAssistant\n", "label": None},
            {"from": "Assistant", "value": "日本語 🙂", "label": None},
        ],
        "mask": "User",
    },
]


class Answers(NamedTuple):
    """What NeMo-Aligner made of each file."""

    tokenizers: dict[str, Any]
    paths: dict[str, Path]
    rows: dict[str, Rows]


@pytest.fixture(scope="module")
def answers(
    _undisturbed: Path,
    tiny_model_dir: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Answers:
    """One start of NeMo-Aligner, which takes half a minute to import, for all the files there are."""
    with skipped_where_unavailable():
        nemo_aligner.find_or_make()
    scratch = tmp_path_factory.mktemp("nemo-aligner")
    models = {style: tiny_model_dir(style) for style in STYLES}
    models["pocket"] = Path(str(files("cai_jobs") / "data" / "pocket" / "model"))
    theirs = {name: nemo_aligner.save_tokenizer(model, scratch / name) for name, model in models.items()}
    dialogues = scratch / "dialogues.jsonl"
    dialogues.write_text("".join(json.dumps(row) + "\n" for row in DIALOGUES))

    artifacts = _undisturbed / "work" / "artifacts" / "small"
    readings: dict[str, dict[str, Any]] = {}

    def wanted(name: str, kind: str, path: Path, tokenizer: str, length: int = LENGTH) -> None:
        readings[name] = {"kind": kind, "path": str(path), "tokenizer": str(theirs[tokenizer]), "length": length}

    for name in ("sl_cai_train", "sl_cai_validation"):
        wanted(name, "sft", only(artifacts / "slData", f"{name}.jsonl"), "pocket")
    for kind in ("comparisons", "prompts"):
        for split in ("train", "test"):
            path = only(artifacts / "rlData", f"blend_*_{split}_{kind}_*.jsonl")
            wanted(f"{kind}-{split}", kind, path, "pocket")
    for name in models:
        wanted(f"dialogues-{name}", "sft", dialogues, name, 1024)
    wanted("short-sft", "sft", only(artifacts / "slData", "sl_cai_validation.jsonl"), "pocket", SHORT)
    wanted("short-prompts", "prompts", only(artifacts / "rlData", "blend_*_test_prompts_*.jsonl"), "pocket", 2 * SHORT)
    found = nemo_aligner.read(list(readings.values()), scratch)
    return Answers(
        {name: AutoTokenizer.from_pretrained(model) for name, model in models.items()},
        {name: Path(reading["path"]) for name, reading in readings.items()},
        dict(zip(readings, found, strict=True)),
    )


def only(directory: Path, pattern: str) -> Path:
    (path,) = directory.glob(f"*/{pattern}")
    return path


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """As our reward model and our PPO actor take a text's tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def rows_of(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["sl_cai_train", "sl_cai_validation"])
def test_every_sft_row_has_tokens_to_train_on_and_none_is_cut(answers: Answers, name: str) -> None:
    ours, theirs = rows_of(answers.paths[name]), answers.rows[name]
    assert len(ours) == len(theirs) > 20
    for row, read in zip(ours, theirs, strict=True):
        ids, labels = sft_rows.tokenize(row, answers.tokenizers["pocket"])
        assert read["ids"] == ids
        assert read["trained"] == [int(label != sft_rows.IGNORED) for label in labels]
        assert read["in_loss"] == sum(read["trained"]) > 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_pair_is_cut_or_passed_over(answers: Answers, split: str) -> None:
    tokenizer = answers.tokenizers["pocket"]
    pairs = list(read_pairs(answers.paths[f"comparisons-{split}"]))
    ours = [tuple(tuple(ids_of(tokenizer, text)) for text in pair) for pair in pairs]
    theirs = [(tuple(pair["chosen"]), tuple(pair["rejected"])) for pair in answers.rows[f"comparisons-{split}"]]
    # theirs come shuffled
    assert sorted(theirs) == sorted(ours)
    assert all(chosen != rejected for chosen, rejected in theirs)


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_prompt_is_masked(answers: Answers, split: str) -> None:
    tokenizer = answers.tokenizers["pocket"]
    theirs = answers.rows[f"prompts-{split}"]
    assert [prompt for prompt in theirs if not prompt["trained"]] == []
    texts = read_texts(answers.paths[f"prompts-{split}"])
    assert sorted(prompt["ids"] for prompt in theirs) == sorted(ids_of(tokenizer, text) for text in texts)


@pytest.mark.parametrize("style", ["pocket", *STYLES])
def test_our_layout_of_a_dialogue_gives_their_tokens(answers: Answers, style: str) -> None:
    tokenizer = answers.tokenizers[style]
    for row, read in zip(DIALOGUES, answers.rows[f"dialogues-{style}"], strict=True):
        ids, labels = sft_rows.tokenize(row, tokenizer)
        assert read["ids"] == ids
        assert read["trained"] == [int(label != sft_rows.IGNORED) for label in labels]


@pytest.mark.parametrize("style", ["pocket", *STYLES])
def test_our_templates_give_their_tokens(answers: Answers, style: str) -> None:
    """A prompt as the generators send it and a comparison's text, against the one-turn row of the same words."""
    tokenizer = answers.tokenizers[style]
    read = answers.rows[f"dialogues-{style}"][0]
    question, answer = (turn["value"] for turn in DIALOGUES[0]["conversations"])
    dialogue = [{"role": "User", "content": question}]
    assert ids_of(tokenizer, EXTRA_ID.answered(dialogue, answer)) == read["ids"]
    assert ids_of(tokenizer, EXTRA_ID.prompt(question)) == read["context"]


@pytest.mark.parametrize("number", range(len(DIALOGUES)))
def test_the_pocket_models_chat_template_gives_their_tokens(answers: Answers, number: int) -> None:
    tokenizer = answers.tokenizers["pocket"]
    row, read = DIALOGUES[number], answers.rows["dialogues-pocket"][number]
    messages = [{"role": "system", "content": row["system"]}]
    messages += [{"role": turn["from"].lower(), "content": turn["value"]} for turn in row["conversations"]]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert ids_of(tokenizer, text) == read["ids"]


def test_rows_that_are_too_long_would_have_been_noticed(answers: Answers) -> None:
    """The same files with too short a sequence: what the tests above look at does tell."""
    whole, cut = answers.rows["sl_cai_validation"], answers.rows["short-sft"]
    assert any(one["in_loss"] < other["in_loss"] for one, other in zip(cut, whole, strict=True))
    assert not all(prompt["trained"] for prompt in answers.rows["short-prompts"])
