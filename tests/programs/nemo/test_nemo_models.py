"""Models into NeMo's format: fetched, given to their converter, taken as they are; with their tokenizers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile

import pytest

from cai_jobs.contract import artifacts

HEADER = json.dumps({"stage": "models", "key": "k", "parameters": {}, "inputs": {}})
CONVERTER = """
import argparse, io, json, sys, tarfile
from pathlib import Path
parser = argparse.ArgumentParser()
for flag in ("--input_name_or_path", "--output_path", "--llama31", "--precision", "--habit"):
    parser.add_argument(flag)
args = parser.parse_args()
with (Path(args.output_path).parent / "starts").open("a") as file:
    file.write("x")
if args.habit == "crash":
    raise RuntimeError("out of memory on the host")
if args.habit == "nothing":
    sys.exit(0)
with tarfile.open(args.output_path, "w") as archive:
    content = (Path(args.input_name_or_path) / "config.json").read_bytes()
    member = tarfile.TarInfo("model_config.yaml")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
"""


@pytest.fixture
def model(tmp_path):
    """A directory that passes for a model in Hugging Face format."""

    def make(name, **configuration):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({"model_type": "mistral", **configuration}))
        (directory / "tokenizer.json").write_text("{}")
        (directory / "tokenizer_config.json").write_text("{}")
        (directory / "model.safetensors").write_text("weights")
        return directory

    return make


@pytest.fixture
def nemo_file(tmp_path):
    path = tmp_path / "ready.nemo"
    with tarfile.open(path, "w") as archive:
        for name, content in (("./model_config.yaml", b"a: 1"), ("./1a2b_tokenizer.model", b"pieces")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def run(tmp_path):
    target = tmp_path / "models"

    def start(sources, *habits, family="mistral_7b", extra=()):
        script = tmp_path / f"convert_{family}_hf_to_nemo.py"
        script.write_text(CONVERTER)
        command = [sys.executable, "-m", "cai_jobs.nemo_models", "--artifact-dir", str(target)]
        command += ["--artifact-header", HEADER, "--termination-message", str(tmp_path / "word"), "--grace-s", "1"]
        for name, path in sources.items():
            command += [f"--{name}", json.dumps({"path": str(path)})]
        to_convert = [name for name, path in sources.items() if not str(path).endswith(".nemo")]
        for place, name in enumerate(to_convert):
            work = f"{target}.partial/nemo"
            command += ["--", sys.executable, str(script), "--input_name_or_path", str(sources[name])]
            command += ["--output_path", f"{work}/{name}.nemo", *extra]
            command += ["--habit", habits[place]] if place < len(habits) and habits[place] else []
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return start


def files(tmp_path):
    return sorted(entry["path"] for entry in artifacts.verify(tmp_path / "models")["files"])


def error(tmp_path):
    return json.loads((tmp_path / "word").read_text())["error"]


def test_both_models_are_converted_and_keep_their_tokenizers(model, run, tmp_path):
    done = run({"base": model("b"), "assistant": model("a")})
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == [
        f"{name}/{file}"
        for name in ("assistant", "base")
        for file in ("config.json", "model.nemo", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
    ]


def test_a_ready_file_is_taken_with_the_tokenizer_in_it(nemo_file, run, tmp_path):
    done = run({"base": nemo_file})
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == ["base/model.nemo", "base/tokenizer/tokenizer.model"]
    assert (tmp_path / "models/base/tokenizer/tokenizer.model").read_bytes() == b"pieces"
    assert (tmp_path / "models/base/model.nemo").read_bytes() == nemo_file.read_bytes()


def test_ready_and_to_be_converted_together(nemo_file, model, run, tmp_path):
    assert run({"base": nemo_file, "assistant": model("a")}).returncode == 0
    assert "assistant/model.nemo" in files(tmp_path)


def test_a_converter_that_fails_is_tried_again_and_the_first_model_is_kept(model, run, tmp_path):
    sources = {"base": model("b"), "assistant": model("a")}
    first = run(sources, "", "crash")
    assert first.returncode == 1
    assert "on assistant: RuntimeError: out of memory on the host" in error(tmp_path)
    assert run(sources).returncode == 0
    assert (tmp_path / "models").is_dir()


def test_a_converter_that_writes_nothing_is_noticed(model, run, tmp_path):
    assert run({"base": model("b")}, "nothing").returncode == 1
    assert "is no whole .nemo file" in error(tmp_path)


def test_a_model_of_another_family_is_refused_before_the_converter_runs(model, run, tmp_path):
    assert run({"base": model("b", model_type="qwen2")}).returncode == 2
    assert "model_type qwen2" in error(tmp_path)
    assert not (tmp_path / "models.partial/nemo/starts").exists()


@pytest.mark.parametrize(
    ("scaling", "extra", "code"),
    [
        (None, ["--llama31="], 0),
        (None, [], 2),
        ({"rope_type": "llama3", "factor": 8.0}, [], 0),
        ({"rope_type": "llama3", "factor": 8.0}, ["--llama31="], 2),
    ],
)
def test_llamas_scaling_of_positions_is_as_the_model_has_it(model, run, tmp_path, scaling, extra, code):
    llama = model("b", model_type="llama", rope_scaling=scaling)
    done = run({"base": llama}, family="llama", extra=extra)
    assert done.returncode == code, done.stderr
    if code:
        assert f"overrides.llama31: {'true' if scaling else 'false'}" in error(tmp_path)


def test_what_is_no_model_file_is_refused(run, tmp_path):
    broken = tmp_path / "broken.nemo"
    broken.write_text("no archive")
    assert run({"base": broken}).returncode == 2
    assert "is no whole .nemo file" in error(tmp_path)
    assert run({"base": tmp_path / "missing.nemo"}).returncode == 2


def test_as_many_converters_as_models(model, tmp_path):
    source = json.dumps({"path": str(model("b"))})
    command = [sys.executable, "-m", "cai_jobs.nemo_models", "--base", source]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "0 converters for 1 models" in ended.stderr
