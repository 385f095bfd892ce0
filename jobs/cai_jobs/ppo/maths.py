"""The formulas of PPO for language models, as pure functions on tensors.

Shapes: B answers, T = length - 1 places of choice. At place t the policy has read tokens[: t + 1] and chooses
tokens[t + 1]; `mask` [B, T] is True where that choice belongs to the answer. Everything is float32 unless said.

Sources: Schulman et al. 2015 (arXiv:1506.02438, GAE), Schulman et al. 2017 (arXiv:1707.06347, PPO), Ziegler et al. 2019
(arXiv:1909.08593, KL penalty per token), Stiennon et al. 2020 (arXiv:2009.01325), Huang et al. 2024 (arXiv:2403.17031,
the details of implementing it), Schulman 2020 (joschu.net/blog/kl-approx.html, the estimators k1 and k3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """How many, mean and summed squared deviation of the numbers seen so far."""

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def deviation(self) -> float:
        """The (population) standard deviation; 1 while fewer than two numbers were seen."""
        return float((self.squares / self.number) ** 0.5) if self.number > 1 and self.squares > 0 else 1.0


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [B, T] where `mask` [B, T] is True, a scalar; 0 for an empty mask."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """`values` [B, T] shifted and scaled to mean 0 and variance 1 over the mask, 0 outside it.

    Population variance; Huang et al. 2024, section "PPO training details", whiten advantages this way.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + epsilon) * mask


def kl_k1(log_probs: Tensor, reference: Tensor) -> Tensor:
    """log(p/q) for samples of p: the unbiased estimator of KL(p, q) with the larger variance (Schulman 2020)."""
    return log_probs - reference


def kl_k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """q/p - 1 - log(q/p) for samples of p: unbiased, never negative (Schulman 2020)."""
    ratio = reference - log_probs
    return ratio.exp() - 1 - ratio


def token_rewards(log_probs: Tensor, reference: Tensor, scores: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Reward of every choice [B, T]: the KL penalty everywhere, the answer's score [B] at its last choice.

    r_t = -beta (log pi(a_t|s_t) - log pi_ref(a_t|s_t)) + [t is last] score (Ziegler et al. 2019, section 2; Stiennon et
    al. 2020, section 3.4). An answer without any choice gets no score.
    """
    rewards = -kl_coefficient * kl_k1(log_probs, reference) * mask
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask.bool(), places, -1).max(dim=1).values
    is_last = (places == last[:, None]) & mask.bool()
    return rewards + scores[:, None] * is_last


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each [B, T], 0 outside the mask (Schulman et al. 2015, equations 11, 12 and 16).

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1}; return = A_t + V_t. The state after an
    answer's last choice is worth 0. The mask of a row must be one run of True.
    """
    mask = mask.to(values.dtype)
    values = values * mask
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages, (advantages + values) * mask


def policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped surrogate loss of every choice [B, T], to be minimised (Schulman et al. 2017, equation 7)."""
    ratio = (log_probs - old_log_probs).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def policy_clipped(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Where (bool [B, T]) the clipped term of `policy_loss` is the larger one, so that no gradient flows."""
    ratio = (log_probs - old_log_probs).exp()
    return torch.where(advantages > 0, ratio > 1 + clip, (ratio < 1 - clip) & (advantages < 0))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the clipped squared error of every value [B, T] (Huang et al. 2024, "value function loss clipping")."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def chosen_log_probs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log-probability [B, T] of tokens[:, 1:] (int64) under logits [B, T + 1, V] of the sampling distribution.

    The logits are divided by the sampling temperature, so that the ratio is that of the distributions sampled from
    (Huang et al. 2024, detail on temperature).
    """
    scores = torch.log_softmax(logits[:, :-1].float() / temperature, dim=-1)
    return scores.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats [B, T] of the next-token distributions of logits [B, T + 1, V], the last place left out."""
    scores = torch.log_softmax(logits[:, :-1].float() / temperature, dim=-1)
    return -(scores.exp() * scores).sum(dim=-1)


def divergence(logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """KL in nats [B, T] of the next-token distributions of `logits` to those of `reference`, each [B, T + 1, V].

    Exact at each place, where k1 and k3 estimate it from the token drawn; the last place is left out.
    """
    first, second = (torch.log_softmax(part[:, :-1].float() / temperature, dim=-1) for part in (logits, reference))
    return (first.exp() * (first - second)).sum(dim=-1)


def merge_moments(moments: Moments, numbers: Tensor) -> Moments:
    """`moments` with `numbers` [N] added (Chan, Golub and LeVeque 1979, the pairwise update)."""
    count = numbers.numel()
    if count == 0:
        return moments
    batch = numbers.double()
    mean = float(batch.mean())
    squares = float(((batch - mean) ** 2).sum())
    total = moments.number + count
    shift = mean - moments.mean
    return Moments(
        total,
        moments.mean + shift * count / total,
        moments.squares + squares + shift * shift * moments.number * count / total,
    )
