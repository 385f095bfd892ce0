"""One PPO update of the policy on a step's rollouts, split over the processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai_jobs.contract.program import InputError
from cai_jobs.ppo import maths
from cai_jobs.ppo.device import Device
from cai_jobs.ppo.rollout import Rollouts, answer_logits
from cai_jobs.ppo.schedule import derived_seed, learning_rate
from cai_jobs.ppo.settings import ActorSettings


@dataclass(frozen=True)
class Shaped:
    """What the rewards of a step's rollouts were made into: advantages and returns, float32 [B, L - 1]."""

    advantages: Tensor
    returns: Tensor
    advantage_deviation: float
    moments: maths.Moments


def shape_rewards(rollouts: Rollouts, settings: ActorSettings, kl_coefficient: float, moments: maths.Moments) -> Shaped:
    """Whitened advantages and returns from scores, KL penalty and values.

    The score is scaled by the running mean and deviation of all scores so far, clipped, and lowered by the penalty for
    an answer that did not end, each where the settings say so.
    """
    scores = rollouts.scores
    if settings.reward_scaling == "running":
        moments = maths.merge_moments(moments, scores)
        scores = (scores - moments.mean) / moments.deviation
    if settings.reward_clip > 0:
        scores = scores.clamp(-settings.reward_clip, settings.reward_clip)
    scores = scores - settings.unfinished_penalty * ~rollouts.ended
    rewards = maths.token_rewards(rollouts.log_probs, rollouts.reference, scores, rollouts.mask, kl_coefficient)
    advantages, returns = maths.gae(rewards, rollouts.values, rollouts.mask, settings.discount, settings.gae_lambda)
    chosen = advantages[rollouts.mask]
    deviation = float(chosen.std(unbiased=False)) if chosen.numel() else 0.0
    return Shaped(maths.whiten(advantages, rollouts.mask), returns, deviation, moments)


def update_policy(
    policy: Any,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages: Tensor,
    settings: ActorSettings,
    *,
    step: int,
    updates: int,
    total_updates: int,
    device: Device,
) -> tuple[int, dict[str, float]]:
    """Train the policy on all rollouts, `ppo_epochs` times, in mini batches of `global_batch_size`.

    Every process passes the same rollouts and trains on its share of each mini batch; gradients are summed.

    Returns:
        how many optimiser updates there have been now, and means over the step's mini batches: policy_loss, entropy,
        clip_fraction, update_kl (nats a token, k3 of rollout policy against trained one), learning_rate, gradient_norm.

    Raises:
        InputError: the loss is not a number.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    sums, places_seen, norm, rate, batches = torch.zeros(4, dtype=torch.float64), 0, 0.0, 0.0, 0
    for rows in _mini_batches(len(rollouts.lengths), settings, step):
        places = int(rollouts.mask[rows].sum())
        if places == 0:
            continue
        optimizer.zero_grad(set_to_none=True)
        batch = torch.zeros(4, dtype=torch.float64)
        for part in _micro_batches(rollouts, rows[device.rank :: device.world], settings.micro_batch_size):
            batch += _backward(policy, rollouts, advantages, part, places, settings, device)
        batch = device.sum(batch).cpu()
        if not torch.isfinite(batch).all():
            raise InputError(f"the policy loss is not a number at step {step}; lower --learning-rate of ppo_actor")
        sums, places_seen, batches = sums + batch, places_seen + places, batches + 1
        if settings.kl_stop > 0 and float(batch[3]) / places > settings.kl_stop:
            break
        device.sum_gradients(parameters)
        norm += float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip_gradient or float("inf")))
        rate = learning_rate(
            updates,
            settings.learning_rate,
            settings.min_learning_rate,
            settings.warmup_steps,
            total_updates,
            settings.lr_schedule,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        updates += 1
    loss, entropy, clipped, kl = (sums / max(1, places_seen)).tolist()
    figures = {"policy_loss": loss, "entropy": entropy, "clip_fraction": clipped, "update_kl": kl}
    return updates, {**figures, "learning_rate": rate, "gradient_norm": norm / max(1, batches)}


def updates_per_step(settings: ActorSettings) -> int:
    """Optimiser updates of one PPO step without an early stop."""
    return settings.ppo_epochs * -(-settings.num_rollout_samples // settings.global_batch_size)


def _mini_batches(count: int, settings: ActorSettings, step: int) -> list[Tensor]:
    batches: list[Tensor] = []
    for epoch in range(settings.ppo_epochs):
        generator = torch.Generator().manual_seed(derived_seed(settings.seed, "policy", step, epoch))
        order = torch.randperm(count, generator=generator)
        size = settings.global_batch_size
        batches += [order[start : start + size] for start in range(0, count, size)]
    return batches


def _micro_batches(rollouts: Rollouts, rows: Tensor, size: int) -> list[Tensor]:
    if len(rows) == 0:
        return []
    # texts of like length share a forward pass, so that little padding is computed
    by_length = rows[torch.argsort(rollouts.lengths[rows], stable=True)]
    return [by_length[start : start + size] for start in range(0, len(by_length), size)]


def _backward(
    policy: Any,
    rollouts: Rollouts,
    advantages: Tensor,
    rows: Tensor,
    places: int,
    settings: ActorSettings,
    device: Device,
) -> Tensor:
    """Add the gradient of `rows`, as a share of `places`; sums over their masked places of loss, entropy, clipped,
    KL.
    """
    lengths = rollouts.lengths[rows]
    longest = int(lengths.max())
    tokens = rollouts.tokens[rows, :longest].to(device.device)
    mask, old, advantage = (
        tensor[rows, : longest - 1].to(device.device) for tensor in (rollouts.mask, rollouts.log_probs, advantages)
    )
    logits = answer_logits(policy, tokens, lengths, device)
    log_probs = maths.chosen_log_probs(logits, tokens, settings.temperature)
    losses = (maths.policy_loss(log_probs, old, advantage, settings.policy_clip) * mask).sum()
    with torch.set_grad_enabled(settings.entropy_bonus > 0):
        entropy = (maths.entropy(logits, settings.temperature) * mask).sum()
    ((losses - settings.entropy_bonus * entropy) / places).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        clipped = (maths.policy_clipped(log_probs, old, advantage, settings.policy_clip) & mask).sum()
        kl = (maths.kl_k3(old, log_probs) * mask).sum()
    return torch.stack([losses.detach(), entropy.detach(), clipped, kl]).double().cpu()
