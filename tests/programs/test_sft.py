"""`sft` on small real models: what is trained is exactly the file's tokens, and what is published can be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cai_jobs import sft
from cai_jobs.contract.artifacts import verify
from cai_jobs.contract.program import InputError

pytestmark = pytest.mark.slow

Model = Callable[[str], Path]
HEADER = json.dumps({"stage": "sft", "key": "0123", "parameters": {}, "inputs": {}})
ANSWERS = ["A little, every morning.", "Perhaps beside the door of the library.", "Shall we bake a cake?"]


def dialogue(number: int) -> dict[str, Any]:
    turns = [("User", f"Where is umbrella {number}?"), ("Assistant", ANSWERS[number % 3])]
    conversations = [{"from": speaker, "value": value, "label": None} for speaker, value in turns]
    return {"system": "", "conversations": conversations, "mask": "User", "dataset": "test"}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    train = write(tmp_path / "train.jsonl", [dialogue(number) for number in range(24)])
    validation = write(tmp_path / "validation.jsonl", [dialogue(number) for number in range(100, 107)])
    return ["--train-file", str(train), "--validation-file", str(validation)]


QUICK = ["--global-batch-size", "8", "--micro-batch-size", "4", "--learning-rate", "3e-3", "--warmup-steps", "0"]
QUICK += ["--device", "cpu", "--progress", "none"]


def published(model: Path, files: list[str], artifact: Path, *more: str) -> dict[str, Any]:
    argv = ["--model", str(model), *files, *QUICK, "--artifact-dir", str(artifact), "--artifact-header", HEADER, *more]
    return sft.main(argv)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("llama", "<extra_id_0>|System|Ċ|Ċ|<extra_id_1>|User|Ċ|T|ea|?|Ċ|<extra_id_1>|Assistant|Ċ"),
        ("qwen2", "<extra_id_0>|System|Ċ|Ċ|<extra_id_1>|User|Ċ|T|ea|?|Ċ|<extra_id_1>|Assistant|Ċ"),
    ],
)
def test_real_tokenizers_give_the_tokens_written_by_hand(tiny_model_dir: Model, style: str, expected: str) -> None:
    from cai_jobs.formats import sft_rows
    from cai_jobs.training.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model_dir(style))
    turns = [("User", "Tea?"), ("Assistant", "no")]
    row = dialogue(0) | {"conversations": [{"from": who, "value": what, "label": None} for who, what in turns]}
    ids, labels = sft_rows.tokenize(row, tokenizer)
    answer = ["n", "o", "Ċ", "<extra_id_1>"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected.split("|") + answer
    assert tokenizer.convert_ids_to_tokens([label for label in labels if label != -100]) == answer
    assert labels[-4:] == ids[-4:]


def test_turn_tokens_that_are_several_tokens_are_masked_by_the_same_rules(tiny_model_dir: Model) -> None:
    from cai_jobs.formats import sft_rows
    from cai_jobs.training.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model_dir("mistral"))
    ids, labels = sft_rows.tokenize(dialogue(0), tokenizer)
    trained = [label for label in labels if label != -100]
    assert len(tokenizer.convert_ids_to_tokens(ids)) > len(trained) + 5
    assert labels == [-100] * (len(ids) - len(trained)) + trained
    assert tokenizer.decode(trained) == "A little, every morning.\n<extra_id_1>"


@pytest.mark.parametrize("style", ["llama", "mistral", "qwen2"])
def test_every_batch_holds_exactly_the_files_tokens(
    tiny_model_dir: Model, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    from trl import SFTTrainer

    seen: list[tuple[list[int], list[int]]] = []
    compute_loss = SFTTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            for ids, labels, mask in zip(inputs["input_ids"], inputs["labels"], inputs["attention_mask"], strict=True):
                assert (labels[mask == 0] == -100).all()
                seen.append((ids[mask == 1].tolist(), labels[mask == 1].tolist()))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", spy)
    published(tiny_model_dir(style), files, tmp_path / "sft", "--epochs", "1")

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir(style))
    texts = set()
    for ids, labels in seen:
        assert ids == tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"]
        trained = tokenizer.decode([label for label in labels if label != -100])
        texts.add((tokenizer.decode(ids), trained))
        assert [label for label in labels if label != -100] == ids[-sum(label != -100 for label in labels) :]
    assert texts == {
        (
            f"<extra_id_0>System\n\n<extra_id_1>User\nWhere is umbrella {n}?\n<extra_id_1>Assistant\n"
            f"{ANSWERS[n % 3]}\n<extra_id_1>",
            f"{ANSWERS[n % 3]}\n<extra_id_1>",
        )
        for n in range(24)
    }
    assert len(seen) == 24


def test_the_artifact_holds_a_better_model_its_curves_and_its_figures(
    tiny_model_dir: Model, files: list[str], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    artifact = tmp_path / "sft"
    last_word = published(tiny_model_dir("mistral"), files, artifact, "--max-steps", "12", "--val-check-interval", "5")
    assert last_word["metrics"]["steps"] == 12
    assert last_word["metrics"]["trainRows"] == 24
    assert last_word["metrics"]["validationRows"] == 7
    verify(artifact)
    assert {path.name for path in artifact.iterdir()} == {"manifest.json", "metrics.jsonl", "model", "tensorboard"}
    assert list((artifact / "tensorboard").iterdir())

    rows = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["phase"] == "train"] == list(range(1, 13))
    validation = [row for row in rows if row["phase"] == "validation"]
    assert [row["step"] for row in validation] == [5, 10, 12]
    assert validation[-1]["loss"] == last_word["metrics"]["validationLoss"]
    assert validation[-1]["loss"] < validation[0]["loss"]
    assert all(row["learning_rate"] > 0 for row in rows if row["phase"] == "train")

    model = AutoModelForCausalLM.from_pretrained(artifact / "model")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir("mistral"))
    assert not any(weight.equal(other) for weight, other in zip(model.parameters(), base.parameters(), strict=True))
    assert str(model.dtype) == "torch.float32"
    assert AutoTokenizer.from_pretrained(artifact / "model").chat_template
    assert {path.stat().st_mode & 0o777 for path in (artifact / "model").iterdir()} == {0o644}


def test_a_whole_artifact_is_the_answer_at_once(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    first = published(tiny_model_dir("llama"), files, tmp_path / "sft", "--max-steps", "1")
    assert published(Path("/no/such/model"), files, tmp_path / "sft", "--max-steps", "1") == first


def test_weights_can_be_saved_in_half_the_space(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for dtype in ("float32", "bfloat16"):
        published(tiny_model_dir("llama"), files, tmp_path / dtype, "--max-steps", "1", "--save-dtype", dtype)
    sizes = [(tmp_path / dtype / "model" / "model.safetensors").stat().st_size for dtype in ("float32", "bfloat16")]
    assert 0.45 * sizes[0] < sizes[1] < 0.55 * sizes[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "bfloat16" / "model")
    assert str(model.dtype) == "torch.bfloat16"


def test_bfloat16_computation_trains_float32_weights(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    more = ["--max-steps", "4", "--dtype", "bfloat16", "--gradient-checkpointing", "on", "--lr-schedule", "constant"]
    last_word = published(tiny_model_dir("llama"), files, tmp_path / "sft", *more)
    assert last_word["metrics"]["validationLoss"] < 6.2
    config = json.loads((tmp_path / "sft" / "model" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_long_rows_are_cut_left_out_or_refused(tiny_model_dir: Model, tmp_path: Path) -> None:
    long = dialogue(0)
    long["conversations"][1]["value"] = "tea " * 50
    endless = dialogue(0)
    endless["conversations"][0]["value"] = "tea " * 200
    train = write(tmp_path / "train.jsonl", [dialogue(1), long, endless])
    validation = write(tmp_path / "validation.jsonl", [dialogue(2)])
    files = ["--train-file", str(train), "--validation-file", str(validation), "--max-seq-length", "70"]
    files += ["--max-steps", "1"]
    model = tiny_model_dir("llama")

    counts = published(model, files, tmp_path / "cut")["metrics"]
    assert (counts["trainRows"], counts["truncatedRows"], counts["droppedRows"]) == (2, 1, 1)
    counts = published(model, files, tmp_path / "dropped", "--long-rows", "drop")["metrics"]
    assert (counts["trainRows"], counts["truncatedRows"], counts["droppedRows"]) == (1, 0, 2)
    with pytest.raises(InputError, match=r"train.jsonl:2: \d+ tokens, --max-seq-length is 70"):
        published(model, files, tmp_path / "refused", "--long-rows", "refuse")
    with pytest.raises(InputError, match="no row is left"):
        published(model, [*files, "--max-seq-length", "8"], tmp_path / "none")


def test_bad_input_is_named(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    model = tiny_model_dir("llama")
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:6], '{"system": ', *lines[7:]]))
    with pytest.raises(InputError, match=r"train.jsonl:7: not JSON"):
        published(model, files, tmp_path / "a")
    write(tmp_path / "train.jsonl", [dialogue(0), dialogue(1) | {"mask": "Human"}])
    with pytest.raises(InputError, match=r"train.jsonl:2: \"mask\" is 'Human'"):
        published(model, files, tmp_path / "b")
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(InputError, match="the file is empty"):
        published(model, files, tmp_path / "c")
    write(tmp_path / "train.jsonl", [dialogue(0)])
    with pytest.raises(InputError, match="no such directory; a Hugging Face model directory is wanted"):
        published(tmp_path / "nowhere", files, tmp_path / "d")
    with pytest.raises(InputError, match=r"no config.json in it"):
        published(tmp_path, files, tmp_path / "e")


def test_a_model_cut_short_is_named(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    import shutil

    torn = tmp_path / "torn"
    shutil.copytree(tiny_model_dir("llama"), torn)
    weights = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="torn: the model cannot be read"):
        published(torn, files, tmp_path / "sft")


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(
    tiny_model_dir: Model, files: list[str], tmp_path: Path
) -> None:
    more = ["--max-steps", "30", "--gradient-clip", "0", "--learning-rate", "1e30"]
    with pytest.raises(InputError, match=r"loss is (nan|inf) at step \d+: training has diverged"):
        published(tiny_model_dir("llama"), files, tmp_path / "sft", *more)
