"""Engine nemo from `kubectl apply` to an answer, its stages on two nodes each, and killed in the middle.

NVIDIA's programs are stand-ins, in an image with a real torchrun; our image is built on it as on NVIDIA's. The node has
no GPUs: it says it has.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.harness import images
from tests.harness.availability import skipped_where_unavailable
from tests.harness.cluster import Cluster
from tests.harness.installed import DEPLOYMENT, SYSTEM, Run, Start, process_of
from tests.harness.node_files import ADDRESS, NODE, POD_USER
from tests.harness.objects import Api, wait_for
from tests.harness.pipelines import JOBS
from tests.harness.stand_in import StandInServer
from tests.programs.nemo.stand_in_lessons import after, digest_of, read_rows

from cai_jobs.contract import artifacts
from cai_jobs.nemo import checkpoints
from cai_operator.manifests.kinds import CLAIM, POD, SERVICE

pytestmark = pytest.mark.slow

MANIFEST = Path(__file__).with_name("nemo") / "pipeline.yaml"
POCKET = Path(__file__).parents[2] / "jobs" / "cai_jobs" / "data" / "pocket" / "model"
NAME = "tiny"
GPUS = 32
BATCH = 4
STEPS = {"sft": 6, "rewardModel": 4, "ppo": 6}
PROMPT = "[INST] Who are you? [/INST]"


@pytest.fixture
def gpus(operator: Cluster) -> None:
    """The node has GPUs, by its own word, and the image for them."""
    with skipped_where_unavailable():
        operator.import_image(images.nemo_on_stand_ins().archive)
    has = {"nvidia.com/gpu": str(GPUS)}
    words = json.dumps({"status": {"capacity": has, "allocatable": has}})
    operator.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", words)


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[str]:
    """Where pods ask a judge."""
    with StandInServer(tmp_path / "judge.log", "--speaks", "openai", "--host", "0.0.0.0") as server:
        yield f"http://{ADDRESS}:{server.port}/v1/chat/completions"


@pytest.fixture
def run(operator: Cluster, gpus: None, namespace: str, start: Start, judge: str, tmp_path: Path) -> Run:
    """The pipeline, begun with a base model on its volume, and with programs that have bad habits."""
    claim = {
        "metadata": {"name": f"{NAME}-artifacts"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    with operator.client() as client:
        api = Api(client, namespace)
        api.create(CLAIM, claim)
        volume = Run(operator, api, NAME).volume
    wait_for(volume.is_dir, "the volume's directory")
    shutil.copytree(POCKET, volume / "source" / "llama")
    habits = volume / NAME / "habits"
    habits.mkdir(parents=True)
    for habit in ("text-server", "hold-sft", "early-rewardModel", "hold-ppo"):
        (habits / habit).touch()
    for path in [volume, *volume.rglob("*")]:
        os.chown(path, POD_USER, POD_USER)
    document = yaml.safe_load(MANIFEST.read_text())
    document["spec"]["judge"]["url"] = judge
    manifest = tmp_path / "pipeline.yaml"
    manifest.write_text(yaml.safe_dump(document))
    return start(manifest, namespace)


def test_whatever_is_killed_the_models_are_those_of_an_undisturbed_run(run: Run, operator: Cluster) -> None:
    run.until("step 2 of sft", lambda: saved(run, "sft", "nemo") == 2)
    run.kill_rank("sft", "job", 1)
    release(run, "sft")

    run.until("step 2 of actor and critic", lambda: saved(run, "ppo", "nemo") == saved(run, "ppo", "critic") == 2)
    kill_operator(operator)
    run.kill_rank("ppo", "server", 1)
    release(run, "ppo")

    run.until_phase("Succeeded")
    nodes = run.nodes()
    attempts = {name: nodes[name]["attempts"] for name in JOBS}
    assert attempts == {**dict.fromkeys(JOBS, 1), "sft": 2, "rewardModel": 2, "ppo": 2}
    for node in STEPS:
        artifacts.verify(run.artifact(node))
        assert weights(run, node) == f"step {expected(run, node)}"
        assert configuration(run, node) == "world_size: 2\nhosts: 2\n"
    assert list(run.volume.rglob("*.partial")) == []

    # the text that a server answered once with status 200 cost no row
    counts = json.loads((run.artifact("slData") / "manifest.json").read_text())["metrics"]
    assert (counts["prompts"], counts["rejected"]) == (24, 0)
    assert list((run.volume / NAME / "habits").iterdir()) == []
    assert (run.artifact("sft") / "huggingFace" / "pytorch_model.bin").read_bytes() == model(run, "sft").read_bytes()

    (sentence,) = ask(run, PROMPT)
    assert sentence.startswith(PROMPT)
    assert len(sentence) > len(PROMPT)


def saved(run: Run, node: str, work: str) -> int:
    """The newest step that a program at work has saved."""
    found = (run.volume / NAME / node).glob("*.partial")
    return max((step for partial in found for step in checkpoints.steps(partial / work)), default=0)


def release(run: Run, node: str) -> None:
    """Let a trainer that is held go on."""
    (run.volume / NAME / "habits" / f"hold-{node}").unlink()


def kill_operator(operator: Cluster) -> None:
    """SIGKILL its program; the same pod starts it again."""
    with operator.client() as client:
        (pod,) = Api(client, SYSTEM).list(POD, **{"app.kubernetes.io/name": DEPLOYMENT})
    os.kill(process_of(pod), signal.SIGKILL)


def model(run: Run, node: str) -> Path:
    return run.artifact(node) / ("base/model.nemo" if node == "models" else "model.nemo")


def weights(run: Run, node: str) -> str:
    """What is in the weights of a stand-in's model, which says it many times over."""
    text = member(run, node, "./weights")
    said = text[: text.index("step", 1)]
    assert text == said * 1000
    return said


def configuration(run: Run, node: str) -> str:
    return member(run, node, "./model_config.yaml")


def member(run: Run, node: str, name: str) -> str:
    with tarfile.open(model(run, node)) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read().decode()


def expected(run: Run, node: str) -> int:
    """What the model of a stage says where every step was taken once, from the artifacts the stage read."""
    blended = "blend_preference_with_cai_rlaif_train_{}_with_chat_prompt.jsonl"
    if node == "ppo":
        rows = read_rows(run.artifact("rlData") / blended.format("prompts"), BATCH, STEPS[node])
        actor, critic = digest_of(model(run, "sft")), digest_of(model(run, "rewardModel"))
        for step in range(STEPS[node]):
            value = critic
            critic = after(critic, actor)
            actor = after(actor, f"{value} {rows.share(step)}")
        return int(actor[:12], 16)
    source, data = {
        "sft": ("models", run.artifact("slData") / "sl_cai_train.jsonl"),
        "rewardModel": ("sft", run.artifact("rlData") / blended.format("comparisons")),
    }[node]
    rows, learnt = read_rows(data, BATCH, STEPS[node]), digest_of(model(run, source))
    assert rows.steps == STEPS[node]
    for step in range(rows.steps):
        learnt = after(learnt, str(rows.share(step)))
    return int(learnt[:12], 16)


def ask(run: Run, prompt: str) -> list[str]:
    """What the model that is kept serving says, asked at its Service."""
    service: dict[str, Any] | None = run.api.get(SERVICE, f"{NAME}-serve")
    assert service is not None
    address = f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
    body = {"sentences": [prompt], "tokens_to_generate": 24, "greedy": True}
    answer = httpx.put(f"{address}/generate", json=body, timeout=60, trust_env=False).raise_for_status()
    sentences: list[str] = answer.json()["sentences"]
    return sentences
