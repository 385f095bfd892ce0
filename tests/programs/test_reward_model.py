"""`reward_model` on small real models: the file's tokens, one score at the last one, figures over the whole set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cai_jobs import reward_model
from cai_jobs.contract.artifacts import verify
from cai_jobs.contract.program import InputError

pytestmark = pytest.mark.slow

Model = Callable[[str], Path]
HEADER = json.dumps({"stage": "rewardModel", "key": "0123", "parameters": {}, "inputs": {}})
QUICK = ["--global-batch-size", "8", "--micro-batch-size", "4", "--learning-rate", "3e-3", "--warmup-steps", "0"]
QUICK += ["--device", "cpu", "--progress", "none"]


def pair(number: int) -> tuple[str, str]:
    prompt = f"<extra_id_0>System\n\n<extra_id_1>User\nWhere is umbrella {number}?\n<extra_id_1>Assistant\n"
    kind = "Beside the door. " * (1 + number % 3) + "\n<extra_id_1>"
    return prompt + kind, prompt + "Find it yourself.\n<extra_id_1>"


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for both in pairs for text in both))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    train = write(tmp_path / "train.jsonl", [pair(number) for number in range(24)])
    validation = write(tmp_path / "validation.jsonl", [pair(number) for number in range(100, 107)])
    return ["--train-comparisons", str(train), "--validation-comparisons", str(validation)]


def published(model: Path, files: list[str], artifact: Path, *more: str) -> dict[str, Any]:
    argv = ["--model", str(model), *files, *QUICK, "--artifact-dir", str(artifact), "--artifact-header", HEADER, *more]
    return reward_model.main(argv)


@pytest.mark.parametrize("style", ["llama", "mistral", "qwen2"])
def test_every_batch_holds_exactly_the_files_tokens(
    tiny_model_dir: Model, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    from transformers import AutoTokenizer
    from trl import RewardTrainer

    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    compute_loss = RewardTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            texts = [tuple(ids[mask == 1].tolist()) for ids, mask in rows]
            half = len(texts) // 2
            seen.extend(zip(texts[:half], texts[half:], strict=True))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RewardTrainer, "compute_loss", spy)
    published(tiny_model_dir(style), files, tmp_path / "rm", "--epochs", "1")

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir(style))

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)))

    assert sorted(seen) == sorted((tokens(chosen), tokens(rejected)) for chosen, rejected in map(pair, range(24)))


@pytest.mark.parametrize("style", ["llama", "mistral", "qwen2"])
def test_it_learns_to_tell_them_apart_and_its_figures_are_those_of_the_saved_model(
    tiny_model_dir: Model, files: list[str], tmp_path: Path, style: str
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    artifact = tmp_path / "rm"
    metrics = published(tiny_model_dir(style), files, artifact, "--max-steps", "12")["metrics"]
    verify(artifact)
    assert metrics["validationAccuracy"] == 1.0
    assert (metrics["trainPairs"], metrics["validationPairs"], metrics["droppedPairs"]) == (24, 7, 0)
    rows = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["phase"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 13))
    assert train[-1]["margin"] > train[0]["margin"]
    assert {"accuracy", "chosen_reward", "rejected_reward", "mean_reward", "learning_rate"} <= train[0].keys()

    model = AutoModelForSequenceClassification.from_pretrained(artifact / "model")
    tokenizer = AutoTokenizer.from_pretrained(artifact / "model")
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == tokenizer.pad_token_id

    def score(text: str, padding: int = 0) -> float:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        batch = torch.tensor([ids + [tokenizer.pad_token_id] * padding])
        mask = torch.tensor([[1] * len(ids) + [0] * padding])
        with torch.no_grad():
            return float(model(input_ids=batch, attention_mask=mask).logits[0, 0])

    pairs = [pair(number) for number in range(100, 107)]
    assert score(pairs[0][0]) == pytest.approx(score(pairs[0][0], padding=9), abs=1e-4)
    assert score(pairs[0][0]) != pytest.approx(score(pairs[0][0].removesuffix("<extra_id_1>")), abs=1e-4)
    chosen = [score(text) for text, _ in pairs]
    rejected = [score(text) for _, text in pairs]
    statistics = json.loads((artifact / "model" / "reward_statistics.json").read_text())
    # seven pairs in batches of four: the mean of the batches' means would be another figure
    expected = torch.tensor(chosen + rejected)
    assert statistics["mean"] == pytest.approx(expected.mean().item(), abs=1e-4)
    assert statistics["std"] == pytest.approx(expected.std(correction=0).item(), abs=1e-4)
    assert statistics["chosen_mean"] == pytest.approx(sum(chosen) / 7, abs=1e-4)
    assert statistics["rejected_mean"] == pytest.approx(sum(rejected) / 7, abs=1e-4)
    assert metrics["validationMargin"] == pytest.approx((sum(chosen) - sum(rejected)) / 7, abs=1e-4)


def test_centring_draws_the_rewards_mean_to_zero(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    means = []
    for coefficient in ("0", "1"):
        more = ["--max-steps", "25", "--lr-schedule", "constant", "--center-rewards-coefficient", coefficient]
        metrics = published(tiny_model_dir("llama"), files, tmp_path / coefficient, *more)["metrics"]
        means.append(abs(metrics["validationMeanReward"]))
    assert means[1] < means[0]


def test_the_same_seed_gives_the_same_model_and_a_resumed_run_too(
    tiny_model_dir: Model,
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import load_file

    from cai_jobs.training import callbacks

    more = ["--max-steps", "7", "--save-interval", "3", "--val-check-interval", "3"]
    model = tiny_model_dir("qwen2")
    published(model, files, tmp_path / "first", *more)
    seal = callbacks.checkpoints.seal

    def seal_and_stop(checkpoint: Path) -> None:
        seal(checkpoint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.checkpoints, "seal", seal_and_stop)
        with pytest.raises(KeyboardInterrupt):
            published(model, files, tmp_path / "second", *more)
    capsys.readouterr()
    published(model, files, tmp_path / "second", *more, "--progress", "json")
    assert '{"progress": {"done": 3, "total": 7,' in capsys.readouterr().out.splitlines()[0]
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(first[name].allclose(second[name], rtol=1e-4, atol=1e-5) for name in first)
    texts = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("first", "second")]
    steps = [[(row["step"], row["phase"]) for row in map(json.loads, text)] for text in texts]
    assert steps[0] == steps[1]


def test_long_pairs_are_left_out_or_refused(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    long = tuple(text + "tea " * 200 for text in pair(0))
    write(tmp_path / "train.jsonl", [pair(1), (long[0], pair(0)[1]), pair(2)])
    more = ["--max-seq-length", "128", "--max-steps", "1"]
    metrics = published(tiny_model_dir("llama"), files, tmp_path / "dropped", *more)["metrics"]
    assert (metrics["trainPairs"], metrics["droppedPairs"]) == (2, 1)
    with pytest.raises(InputError, match=r"train.jsonl:3: \d+ tokens, --max-seq-length is 128"):
        published(tiny_model_dir("llama"), files, tmp_path / "refused", *more, "--long-pairs", "refuse")
    with pytest.raises(InputError, match="no pair is left"):
        published(tiny_model_dir("llama"), files, tmp_path / "none", "--max-seq-length", "4")


def test_a_text_whose_end_would_be_taken_for_padding_is_refused(
    tiny_model_dir: Model, files: list[str], tmp_path: Path
) -> None:
    chosen, rejected = pair(0)
    write(tmp_path / "train.jsonl", [pair(1), (chosen, rejected + "<pad>")])
    with pytest.raises(InputError, match=r"train.jsonl:4: the text ends with the padding token '<pad>'"):
        published(tiny_model_dir("llama"), files, tmp_path / "rm")


def test_bad_input_is_named(tiny_model_dir: Model, files: list[str], tmp_path: Path) -> None:
    model = tiny_model_dir("llama")
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"train.jsonl:49: a blank line"):
        published(model, files, tmp_path / "a")
    write(tmp_path / "train.jsonl", [pair(0)])
    with pytest.raises(InputError, match=r"--center-rewards-coefficient is -1\.0; 0 or more is wanted"):
        published(model, files, tmp_path / "b", "--center-rewards-coefficient", "-1")
    with pytest.raises(InputError, match="no such directory"):
        published(tmp_path / "nowhere", files, tmp_path / "c")
