"""PPO as the engine runs it: an actor and a critic server, real processes, on models of a few thousand weights.

The reward model of these tests likes one token; a policy that learns from it says that token more often.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.harness.forked_program import ForkedProgram
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<extra_id_0>", "<extra_id_1>"]
WORDS = ["please", "no", "yes", "sun", "rain", "tea", "book", "walk", "what", "about"]
LIKED = len(SPECIAL)  # "please"
STEPS = 20
PATIENCE_S = 240.0
Running = subprocess.Popen[bytes] | ForkedProgram


@dataclass(frozen=True)
class World:
    """Where the tiny models and prompts of these tests are."""

    policy: Path
    reward_model: Path
    prompts: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    words = {word: number for number, word in enumerate([*SPECIAL, *WORDS, "[UNK]"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="[UNK]",
        additional_special_tokens=SPECIAL[3:],
    )
    shape = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(root / "policy")
    reward_model = LlamaForSequenceClassification(LlamaConfig(num_labels=1, **shape))
    teach_to_like(reward_model, len(words))
    reward_model.save_pretrained(root / "reward_model")
    for name in ("policy", "reward_model"):
        fast.save_pretrained(root / name)
    rows = [
        {"text": f"<extra_id_0> <extra_id_1> what about {first} {second} <extra_id_1>"}
        for first in WORDS
        for second in WORDS
    ]
    too_long = {"text": "<extra_id_1> " + "tea " * 40}
    lines = "".join(json.dumps(row) + "\n" for row in [*rows, too_long])
    (root / "prompts.jsonl").write_text(lines)
    return World(root / "policy", root / "reward_model", root / "prompts.jsonl")


def teach_to_like(reward_model: Any, vocabulary: int) -> None:
    """Train the reward model to count LIKED: its score becomes the share of that token, times 4."""
    optimizer = torch.optim.Adam(reward_model.parameters(), lr=3e-3)
    for _ in range(120):
        tokens = torch.randint(3, vocabulary, (32, 16))
        tokens[torch.rand(32, 16) < torch.rand(32, 1)] = LIKED
        wanted = 4 * (tokens == LIKED).float().mean(dim=1)
        loss = ((reward_model(input_ids=tokens).logits.squeeze(-1) - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Run:
    """One PPO run below `root`: its two programs can be started, killed and started again."""

    def __init__(self, world: World, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.world, self.root, self.port = world, root, free_port()
        self.artifact, self.partial = root / "ppo", root / "ppo.partial"
        self.critic: Running | None = None
        self.actor: Running | None = None

    def start_critic(self) -> None:
        flags = (
            f"--reward-model {self.world.reward_model} --port {self.port} --checkpoint-dir {self.root / 'critic'} "
            "--learning-rate 3e-3 --warmup-steps 0 --micro-batch-size 32 --inference-micro-batch-size 64"
        )
        self.critic = self._start("serve_critic", flags.split(), "critic.log")

    def start_actor(self, *more: str, launcher: tuple[str, ...] = ()) -> None:
        header = json.dumps({"stage": "ppo", "key": "k", "parameters": {}, "inputs": {}})
        flags = (
            f"--model {self.world.policy} --train-prompts {self.world.prompts} "
            f"--validation-prompts {self.world.prompts} --validation-samples 16 "
            f"--critic-port {self.port} --critic-timeout 120 --artifact-dir {self.artifact} "
            f"--max-steps {STEPS} --num-rollout-samples 64 --rollout-micro-batch-size 32 --micro-batch-size 32 "
            "--global-batch-size 32 --max-length 24 --max-new-tokens 8 --learning-rate 3e-3 --warmup-steps 0 "
            "--kl-penalty 0.05 --unfinished-penalty 0 --save-interval 3 --val-check-interval 10 "
            "--sample-interval 5 --reward-scaling running"
        )
        arguments = [
            *flags.split(),
            "--artifact-header",
            header,
            "--termination-message",
            str(self.root / "last-word"),
            *more,
        ]
        self.actor = self._start("ppo_actor", arguments, "actor.log", launcher)

    def kill(self, *processes: Running | None) -> None:
        for process in processes:
            assert process is not None
            assert process.poll() is None, "it had ended already"
            process.kill()
            process.wait()

    def wait_for_step(self, step: int) -> None:
        """Until the metrics say that `step` is done."""
        deadline = time.monotonic() + PATIENCE_S
        while max((row["step"] for row in self.metrics()), default=0) < step:
            assert time.monotonic() < deadline, self.log("actor.log")
            assert self.actor is not None
            assert self.actor.poll() is None, self.log("actor.log")
            time.sleep(0.02)

    def finish(self) -> dict[str, Any]:
        """Wait for the actor, stop the critic; the actor's last word."""
        assert self.actor is not None
        assert self.critic is not None
        assert self.actor.wait(PATIENCE_S) == 0, self.log("actor.log")
        self.critic.send_signal(signal.SIGTERM)
        assert self.critic.wait(60) == 0, self.log("critic.log")
        return dict(json.loads((self.root / "last-word").read_text()))

    def metrics(self) -> list[dict[str, Any]]:
        for directory in (self.partial, self.artifact):
            if (directory / "metrics.jsonl").exists():
                lines = (directory / "metrics.jsonl").read_text().splitlines()
                return [json.loads(line) for line in lines if line.endswith("}")]
        return []

    def log(self, name: str) -> str:
        return (self.root / name).read_text()[-3000:]

    def stop(self) -> None:
        for process in (self.critic, self.actor):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def _start(self, name: str, flags: list[str], log: str, launcher: tuple[str, ...] = ()) -> Running:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        if not launcher:
            return ForkedProgram(f"cai_jobs.{name}", flags, self.root / log, environment=environment)
        command = [*launcher, "-m", f"cai_jobs.{name}", *flags]
        with (self.root / log).open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(world, tmp_path_factory.mktemp("undisturbed"))
    try:
        run.start_critic()
        run.start_actor()
        run.finish()
        yield run
    finally:
        run.stop()


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]


@pytest.mark.slow
def test_the_reward_rises_and_the_kl_stays_bounded(undisturbed: Run) -> None:
    rows = [row for row in undisturbed.metrics() if row["phase"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    first, last = (sum(row["reward_mean"] for row in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last > first + 0.5
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert 0.05 < rows[-1]["kl"] < 20
    assert rows[-1]["value_loss"] < rows[0]["value_loss"]
    validation = [row for row in undisturbed.metrics() if row["phase"] == "validation"]
    assert [row["step"] for row in validation] == [0, 10, 20]
    assert validation[-1]["reward_mean"] > validation[0]["reward_mean"]
    wanted = [
        "reward_std",
        "kl_coef",
        "policy_loss",
        "entropy",
        "clip_fraction",
        "response_length",
        "ended_share",
        "advantage_std",
    ]
    assert all(name in row for row in rows for name in wanted)


@pytest.mark.slow
def test_the_artifact_holds_a_model_that_says_what_was_rewarded(undisturbed: Run, world: World) -> None:
    manifest = json.loads((undisturbed.artifact / "manifest.json").read_text())
    names = {entry["path"].split("/")[0] for entry in manifest["files"]}
    assert names == {"model", "metrics.jsonl", "samples.jsonl", "tensorboard"}
    word = json.loads((undisturbed.root / "last-word").read_text())
    assert word["metrics"]["rewardLast"] > word["metrics"]["rewardFirst"]
    assert (word["metrics"]["promptsDropped"], word["metrics"]["stoppedByKl"]) == (2, False)

    def probability(path: Path) -> float:
        model = LlamaForCausalLM.from_pretrained(path)
        tokens = torch.tensor([[3, 4, 13, 14, 8, 9, 4]])
        with torch.no_grad():
            return float(model(tokens).logits[0, -1].softmax(-1)[LIKED])

    assert probability(undisturbed.artifact / "model") > 2 * probability(world.policy)
    samples = [json.loads(line) for line in (undisturbed.artifact / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in samples if row["phase"] == "train"} == {1, 5, 10, 15, 20}
    assert all(row["prompt"].endswith("<extra_id_1>") for row in samples)


@pytest.mark.slow
def test_killed_actors_and_critics_change_nothing(undisturbed: Run, world: World, tmp_path: Path) -> None:
    run = Run(world, tmp_path / "run")
    try:
        run.start_critic()
        run.start_actor()
        run.wait_for_step(4)
        run.kill(run.actor)

        run.start_actor()
        run.wait_for_step(8)
        run.kill(run.critic)
        run.start_critic()  # the running actor goes back to step 6 by itself

        run.wait_for_step(13)
        run.kill(run.actor, run.critic)
        # as if the actor had been killed between the critic's save and its own
        newest = max((run.partial / "checkpoints").glob("step_*"))
        shutil.rmtree(newest)
        assert (run.root / "critic" / newest.name).is_dir()
        run.start_critic()
        run.start_actor()
        run.finish()
        assert "the critic was restarted" in (run.root / "actor.log").read_text()
        assert without_times(run.metrics()) == without_times(undisturbed.metrics())
        for name in ("model/model.safetensors", "samples.jsonl"):
            assert (run.artifact / name).read_bytes() == (undisturbed.artifact / name).read_bytes(), name
    finally:
        run.stop()


@pytest.mark.slow
def test_two_processes_train_one_policy_and_stop_at_the_largest_kl(world: World, tmp_path: Path) -> None:
    run = Run(world, tmp_path / "run")
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    )
    try:
        run.start_critic()
        flags = f"--max-kl 0.5 --save-interval 1 --val-check-interval 0 --checkpoint-dir {tmp_path / 'actor'}"
        run.start_actor(*flags.split(), launcher=launcher)
        word = run.finish()
        rows = run.metrics()
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
        assert word["metrics"]["stoppedByKl"] is True
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        assert all(row["kl"] <= 0.5 for row in rows[:-1])
        assert rows[-1]["kl"] > 0.5
        kept = rows[-1]["kept_step"]
        assert kept == len(rows) - 2
        published = LlamaForCausalLM.from_pretrained(run.artifact / "model").state_dict()
        saved = torch.load(tmp_path / "actor" / f"step_{int(kept):08d}" / "state.pt")["policy"]
        assert all(torch.equal(published[name], saved[name]) for name in saved)
    finally:
        run.stop()


@pytest.mark.slow
def test_a_critic_with_another_tokenizer_and_no_critic_at_all_are_said(world: World, tmp_path: Path) -> None:
    run = Run(world, tmp_path / "run")
    try:
        run.start_actor("--critic-timeout", "0.5")
        assert run.actor is not None
        assert run.actor.wait(PATIENCE_S) == 1
        word = json.loads((run.root / "last-word").read_text())
        assert f"http://127.0.0.1:{run.port} could not be reached for 0.5 s" in word["error"]

        other = tmp_path / "other"
        shutil.copytree(world.reward_model, other)
        text = (other / "tokenizer.json").read_text()
        (other / "tokenizer.json").write_text(text.replace('"rain"', '"snow"'))
        run.world = World(world.policy, other, world.prompts)
        run.start_critic()
        run.start_actor()
        assert run.actor.wait(PATIENCE_S) == 2
        word = json.loads((run.root / "last-word").read_text())
        assert "not the same ones" in word["error"]
    finally:
        run.stop()
