"""Jobs as engine nemo renders them, really run: only the Python and NVIDIA's script are others."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests.harness.processes import free_port

from cai_jobs.contract import artifacts
from cai_operator import texts
from cai_operator.engines import nemo
from cai_operator.engines.run import Run
from cai_operator.places import Places
from cai_operator.plan import node_keys
from cai_operator.stages import active
from cai_operator.validation import parse_pipeline

STAND_IN = Path(__file__).with_name("stand_in.py")
CONVERTER = Path(__file__).with_name("stand_in_converter.py")
PAIR = str(Path(__file__).with_name("stand_in_pair.py"))
ROWS = 300


@pytest.fixture
def job(tmp_path):
    """The job of a node, for artifacts below `tmp_path`."""
    with tarfile.open(tmp_path / "ready.nemo", "w") as archive:
        for name, content in (("./model_config.yaml", b"a: 1"), ("./1a2b_tokenizer.model", b"pieces")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return maker(tmp_path, "ready.nemo")


def maker(tmp_path, base, **ppo):
    """What makes the jobs of a pipeline with this base model, and settings of PPO."""
    pipeline = parse_pipeline(
        {
            "apiVersion": "cai.dev/v1alpha1",
            "kind": "CAIPipeline",
            "metadata": {"name": "tiny"},
            "spec": {
                "engine": "nemo",
                "models": {"base": {"path": str(tmp_path / base)}},
                "judge": {"url": "https://judge/v1/chat/completions", "model": "m"},
                "stages": {"ppo": {"critic": {"port": free_port()}, **ppo}},
            },
        }
    )
    keys, _ = node_keys(pipeline.spec, {})
    places = Places(str(tmp_path), lambda name: f"{tmp_path}/texts/{name}", lambda _, port: ("localhost", port))

    def make(node, what=nemo.job):
        used = texts.of_node(pipeline.spec, node, {})
        return what(Run(pipeline, active(pipeline.spec)[node], keys, used, None, places))

    return make


def run(workload, *habits):
    return subprocess.run(command(workload, *habits), capture_output=True, text=True, timeout=120, check=False)


def command(workload, *habits, stand_in=(str(STAND_IN),)):
    parts = [sys.executable if part == "/opt/cai/bin/python" else part for part in workload.command]
    if "--" in parts:
        place = parts.index("--") + 1
        assert parts[place] == "python"
        assert parts[place + 1].startswith("/opt/NeMo")
        parts[place : place + 2] = [sys.executable, *stand_in, *(f"--habit={habit}" for habit in habits)]
    return parts


def test_from_a_ready_file_to_a_tuned_one(job, tmp_path):
    models = run(job("models"))
    assert models.returncode == 0, models.stderr
    made = tmp_path / str(job("models").artifact)
    assert (made / "base/model.nemo").is_file()
    assert (made / "base/tokenizer/tokenizer.model").read_bytes() == b"pieces"

    rows = job("slData")
    header = json.dumps({"stage": "slData", "key": rows.key, "parameters": {}, "inputs": {}})
    with artifacts.open_artifact(tmp_path / str(rows.artifact), header, tmp_path) as artifact:
        (artifact.path / "sl_cai_train.jsonl").write_text("{}\n" * ROWS)
        (artifact.path / "sl_cai_validation.jsonl").write_text("{}\n")
        artifact.publish()

    early = run(job("sft"), "early")
    assert early.returncode == 1, early.stderr
    assert "left at saved step 2 of 4 with exit code 0" in early.stderr
    done = run(job("sft"))
    assert done.returncode == 0, done.stderr
    manifest = artifacts.verify(tmp_path / str(job("sft").artifact))
    assert [entry["path"] for entry in manifest["files"]] == ["metrics.jsonl", "model.nemo"]
    assert manifest["key"] == job("sft").key
    assert manifest["inputs"] == {"models": job("models").key, "slData": rows.key}
    assert not (tmp_path / f"{job('sft').artifact}.partial").exists()


def test_the_critic_and_the_actor_of_a_pipeline(job, tmp_path):
    actor = job("ppo")
    [critic] = job("ppo", nemo.servers)
    rows = "blend_preference_with_cai_rlaif_train_prompts_with_chat_prompt.jsonl"
    for node, name, content in (
        *(("sft", "model.nemo", "weights"), ("rewardModel", "model.nemo", "weights")),
        ("rlData", rows, '{"text": ""}\n' * 4 * 512),
    ):
        made = job(node)
        header = json.dumps({"stage": node, "key": made.key, "parameters": {}, "inputs": {}})
        with artifacts.open_artifact(tmp_path / str(made.artifact), header, tmp_path) as artifact:
            (artifact.path / name).write_text(content)
            artifact.publish()

    server = subprocess.Popen(command(critic, stand_in=(PAIR, "critic")))
    try:
        crashed = subprocess.run(command(actor, "dies-between", stand_in=(PAIR, "actor")), check=False)
        done = subprocess.run(command(actor, "dies-between", stand_in=(PAIR, "actor")), check=False)
    finally:
        server.terminate()
        server.wait()
    assert (crashed.returncode, done.returncode, server.returncode) == (1, 0, 143)
    manifest = artifacts.verify(tmp_path / str(actor.artifact))
    assert [entry["path"] for entry in manifest["files"]] == ["metrics.jsonl", "model.nemo"]
    assert not (tmp_path / f"{actor.artifact}.partial").exists()


def test_the_model_of_an_actor_in_hugging_face_format_too(tmp_path):
    job = maker(tmp_path, "mistral", exportHuggingFace=True)
    actor = job("ppo")
    [critic] = job("ppo", nemo.servers)
    rows = "blend_preference_with_cai_rlaif_train_prompts_with_chat_prompt.jsonl"
    for node, name, content in (
        *(("sft", "model.nemo", "weights"), ("rewardModel", "model.nemo", "weights")),
        ("rlData", rows, '{"text": ""}\n' * 4 * 512),
        ("models", "base/config.json", '{"model_type": "mistral"}'),
    ):
        made = job(node)
        header = json.dumps({"stage": node, "key": made.key, "parameters": {}, "inputs": {}})
        with artifacts.open_artifact(tmp_path / str(made.artifact), header, tmp_path) as artifact:
            (artifact.path / name).parent.mkdir(exist_ok=True)
            (artifact.path / name).write_text(content)
            if node == "models":
                (artifact.path / "base" / "tokenizer").mkdir()
                (artifact.path / "base" / "tokenizer" / "tokenizer.json").write_text("{}")
            artifact.publish()

    def converting(*habits):
        parts = command(actor, stand_in=(PAIR, "actor"))
        place = len(parts) - parts[::-1].index("--")
        assert parts[place + 1].endswith("/convert_mistral_7b_nemo_to_hf.py")
        return [*parts[:place], sys.executable, str(CONVERTER), *parts[place + 2 :], *habits]

    server = subprocess.Popen(command(critic, stand_in=(PAIR, "critic")))
    try:
        failed = subprocess.run(converting("--habit", "crash"), check=False)
        logs = tmp_path / f"{actor.artifact}.partial" / "nemo"
        trained = {path.name: path.stat().st_mtime_ns for path in (logs / "checkpoints").glob("*.nemo")}
        done = subprocess.run(converting(), check=False, capture_output=True, text=True)
    finally:
        server.terminate()
        server.wait()
    assert (failed.returncode, done.returncode) == (1, 0), done.stderr
    assert len(trained) == 1
    manifest = artifacts.verify(tmp_path / str(actor.artifact))
    names = [entry["path"] for entry in manifest["files"]]
    assert names == [
        *(f"huggingFace/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")),
        *("metrics.jsonl", "model.nemo"),
    ]
    model = tmp_path / str(actor.artifact) / "model.nemo"
    assert [model.stat().st_mtime_ns] == list(trained.values())  # the one of before: nothing was trained again
