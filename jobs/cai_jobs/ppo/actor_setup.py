"""From the flags of `ppo_actor` to a trained model directory."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import read_json
from cai_jobs.ppo.actor import Actor
from cai_jobs.ppo.critic_client import CriticClient
from cai_jobs.ppo.device import pick_device
from cai_jobs.ppo.log import RunLog
from cai_jobs.ppo.rollout import end_tokens, read_prompts
from cai_jobs.ppo.settings import ActorSettings
from cai_jobs.ppo.vocabulary import check_same_vocabulary, describe_vocabulary
from cai_jobs.training.models import load_causal_model, load_tokenizer, save_model
from cai_jobs.training.startup import heavy_imports


def is_first_process() -> bool:
    """Whether this is the only process, or rank 0 of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


def train(options: argparse.Namespace, settings: ActorSettings, output: Path) -> dict[str, Any]:
    """Run PPO and write `output`/model; the figures for the artifact's manifest.

    Raises:
        InputError, RetryableError: as `ppo_actor.main`.
    """
    device = pick_device(options.device, options.dtype)
    with heavy_imports():
        tokenizer, policy, reference = load_models(options.model, device.device)
    longest = settings.max_length // 2
    prompts, dropped = read_prompts(options.train_prompts, tokenizer, longest)
    validation: list[list[int]] = []
    if options.validation_prompts is not None:
        validation, dropped_too = read_prompts(options.validation_prompts, tokenizer, longest)
        dropped += dropped_too
        validation = validation[: settings.validation_samples or None]
    if dropped and device.rank == 0:
        print(
            f"{dropped} prompts are longer than {longest} tokens, half of --max-length, and left out", file=sys.stderr
        )
    if not end_tokens(tokenizer, "") and not settings.end_string:
        raise InputError("answers could never end: the tokenizer has no EOS and --end-string is empty")
    steps = settings.max_steps if settings.max_steps >= 0 else max(1, len(prompts) // settings.num_rollout_samples)
    critic = CriticClient(
        f"http://{options.critic_host}:{options.critic_port}", options.critic_timeout, options.critic_call_timeout
    )
    if device.rank == 0:
        ours = describe_vocabulary(options.model, int(policy.config.vocab_size))
        check_same_vocabulary(ours, critic.metadata())
    # what the model came with must not steer our sampling, but go out with it again
    came_with, policy.generation_config = policy.generation_config, type(policy.generation_config)()
    log = RunLog(output, tensorboard=device.rank == 0)
    actor = Actor(
        policy=policy,
        reference=reference,
        tokenizer=tokenizer,
        prompts=prompts,
        validation_prompts=validation,
        settings=settings,
        steps=steps,
        critic=critic,
        checkpoint_dir=output / options.checkpoint_dir,
        log=log,
        device=device,
    )
    try:
        actor.run(options.progress)
        if device.rank != 0:
            return {}
        policy.generation_config = came_with
        save_model(policy, policy.state_dict(), tokenizer, output / "model", stored_dtype(options.model))
        figures = summary(log.rows(), steps)
    finally:
        log.close()
    return {**figures, "promptsDropped": dropped, "stoppedByKl": actor.stopped_by_kl}


def load_models(path: Path, device: torch.device) -> tuple[Any, Any, Any]:
    """(tokenizer, policy, frozen reference), float32, both without dropout.

    Raises:
        InputError: the directory cannot be loaded.
    """
    tokenizer = load_tokenizer(path)
    policy, reference = (load_causal_model(path).to(device).eval() for _ in range(2))
    return tokenizer, policy, reference.requires_grad_(False)


def stored_dtype(path: Path) -> str:
    """The precision a model directory's weights are stored in, as `save_model` wants it: "bfloat16" or "float32"."""
    config = read_json(path / "config.json")
    return "bfloat16" if config.get("dtype", config.get("torch_dtype")) == "bfloat16" else "float32"


def summary(rows: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """The manifest's figures from the metrics rows: first and last reward, last KL, and validation's where there is
    one.
    """
    result: dict[str, Any] = {"steps": steps}
    for phase, prefix in (("train", ""), ("validation", "validation")):
        figures = [row for row in rows if row["phase"] == phase]
        if not figures:
            continue
        for name, row, key in (
            ("rewardFirst", figures[0], "reward_mean"),
            ("rewardLast", figures[-1], "reward_mean"),
            ("klLast", figures[-1], "kl"),
            ("endedShareLast", figures[-1], "ended_share"),
        ):
            result[prefix + name[0].upper() + name[1:] if prefix else name] = round(float(row[key]), 6)
    return result
