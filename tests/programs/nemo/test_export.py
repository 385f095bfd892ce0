"""The trained model in Hugging Face format too, with the base model's configuration and tokenizer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cai_jobs.contract import artifacts

TRAINER = Path(__file__).with_name("stand_in.py")
CONVERTER = Path(__file__).with_name("stand_in_converter.py")
HEADER = json.dumps({"stage": "sft", "key": "k", "parameters": {}, "inputs": {}})
PUBLISHED = [f"huggingFace/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")]


@pytest.fixture
def base(tmp_path):
    """A base model as the stage `models` publishes it, as far as it is needed here."""
    directory = tmp_path / "models" / "base"
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    (directory / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"}')
    return directory


@pytest.fixture
def run(tmp_path, base):
    """Run the wrapper over stand-ins of a trainer and of a converter."""
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' * 9)
    target = tmp_path / "sft"

    def start(habit="", trainer="", family="mistral", export=True, converters=1, environment=None):
        work = f"{target}.partial/export"
        written = ["--output_path", work, "--hf_model_name", work]
        if family == "llama":
            written = ["--output_path", f"{work}/pytorch_model.bin", "--cpu-only"]
        convert = ["--", sys.executable, str(CONVERTER), "--input_name_or_path", f"{target}.partial/model.nemo"]
        command = [
            *(sys.executable, "-m", "cai_jobs.nemo_run", "--artifact-dir", str(target), "--artifact-header", HEADER),
            *("--model", "megatron_gpt_sft", "--rows", str(tmp_path / "rows.jsonl"), "--rows-per-step", "2"),
            *("--termination-message", str(tmp_path / "word"), "--poll-s", "0.1", "--linger-s", "0.5"),
            *(["--export-from", str(base)] if export else []),
            *("--", sys.executable, str(TRAINER), f"--habit={trainer}"),
            f"exp_manager.explicit_log_dir={target}.partial/nemo",
            *[*convert, *written, "--habit", habit] * converters,
        ]
        environment = {**os.environ, **(environment or {})}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    return start


def files(tmp_path):
    return [entry["path"] for entry in artifacts.verify(tmp_path / "sft")["files"]]


def error(tmp_path):
    return json.loads((tmp_path / "word").read_text())["error"]


def starts(tmp_path):
    return (tmp_path / "sft.partial" / "nemo" / "starts").read_text().split()


def test_it_is_published_beside_the_model(run, tmp_path):
    done = run()
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == [*PUBLISHED, "metrics.jsonl", "model.nemo"]
    made = tmp_path / "sft" / "huggingFace"
    assert json.loads((made / "config.json").read_text()) == {"model_type": "mistral", "sliding_window": 4096}
    assert (made / "tokenizer.json").read_text() == '{"version": "1.0"}'
    assert (made / "model.safetensors").read_bytes() == (tmp_path / "sft" / "model.nemo").read_bytes()


def test_a_converter_that_writes_weights_alone_gets_the_rest_beside_them(run, tmp_path):
    done = run(family="llama")
    assert done.returncode == 0, done.stderr
    names = ("config.json", "pytorch_model.bin", "tokenizer.json")
    assert files(tmp_path) == [*(f"huggingFace/{name}" for name in names), "metrics.jsonl", "model.nemo"]
    made = tmp_path / "sft" / "huggingFace"
    assert (made / "pytorch_model.bin").read_bytes() == (tmp_path / "sft" / "model.nemo").read_bytes()


@pytest.mark.parametrize("habit", ["crash", "cut"])
def test_after_a_converter_that_failed_nothing_is_trained_again(run, tmp_path, habit):
    first = run(habit)
    assert first.returncode == 1
    said = "RuntimeError: Error(s) in loading state_dict for MistralForCausalLM" if habit == "crash" else ""
    assert error(tmp_path).startswith(
        f"stand_in_converter.py ended with 1 on the trained model, which is kept for the next try: {said}"
    )
    assert not (tmp_path / "sft").exists()
    assert starts(tmp_path) == ["0"]
    second = run(trainer="setting")  # which the trainer, were it started, would die of
    assert second.returncode == 0, second.stderr
    assert files(tmp_path) == [*PUBLISHED, "metrics.jsonl", "model.nemo"]


def test_what_is_converted_is_not_converted_again(run, tmp_path):
    assert run("crash").returncode == 1
    (tmp_path / "sft.partial" / "huggingFace").mkdir()
    (tmp_path / "sft.partial" / "huggingFace" / "config.json").write_text("{}")
    assert run("crash").returncode == 0
    assert files(tmp_path) == ["huggingFace/config.json", "metrics.jsonl", "model.nemo"]


def test_a_converter_that_writes_nothing_is_noticed(run, tmp_path):
    assert run("nothing").returncode == 1
    assert "ended with 0, but" in error(tmp_path)
    assert "has no weights, neither *.safetensors nor *.bin" in error(tmp_path)
    assert run().returncode == 0


@pytest.mark.parametrize(
    ("missing", "sentence"), [("config.json", "base has no config.json"), ("tokenizer/tokenizer.json", "has no files")]
)
def test_what_the_conversion_needs_is_missed_before_the_training(run, base, tmp_path, missing, sentence):
    (base / missing).unlink()
    assert run().returncode == 2
    assert sentence in error(tmp_path)
    assert not (tmp_path / "sft.partial" / "nemo").exists()


@pytest.mark.parametrize(
    ("export", "converters", "sentence"),
    [(True, 0, "1 commands after --; two are wanted"), (False, 1, "2 commands after --; one is wanted")],
)
def test_a_command_for_each_thing_to_be_done(run, tmp_path, export, converters, sentence):
    assert run(export=export, converters=converters).returncode == 2
    assert sentence in error(tmp_path)


def test_another_node_that_comes_back_while_the_first_converts_has_nothing_to_do(run, tmp_path):
    assert run("crash").returncode == 1
    second = {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": "29500"}
    other = run(trainer="setting", environment=second)
    assert other.returncode == 0, other.stderr
    assert starts(tmp_path) == ["0"]
    assert not (tmp_path / "sft").exists()
