"""What follows from the step number alone: learning rates, KL coefficients, which prompts come next. No torch here."""

from __future__ import annotations

import hashlib
import math
import random


def learning_rate(update: int, peak: float, floor: float, warmup: int, total: int, shape: str) -> float:
    """The learning rate of update number `update` (from 0): linear warm-up to `peak`, then down to `floor` at `total`.

    Args:
        shape: "cosine", "linear" or "constant"; constant stays at `peak`, as any shape does where `total` is 0.
    """
    if update < warmup:
        return peak * (update + 1) / warmup
    if shape == "constant" or total <= warmup:
        return peak
    share = min(1.0, (update - warmup) / (total - warmup))
    height = 0.5 * (1 + math.cos(math.pi * share)) if shape == "cosine" else 1 - share
    return floor + (peak - floor) * height


def next_kl_coefficient(coefficient: float, kl: float, target: float, samples: int, horizon: int) -> float:
    """The KL coefficient after a step whose mean KL per answer was `kl` (Ziegler et al. 2019, section 2.2).

    e = clip((kl - target) / target, -0.2, 0.2); beta <- beta (1 + e samples / horizon). A target of 0 keeps it fixed.
    """
    if target == 0:
        return coefficient
    error = min(0.2, max(-0.2, (kl - target) / target))
    return coefficient * (1 + error * samples / horizon)


def derived_seed(seed: int, *parts: int | str) -> int:
    """A seed of 63 bits that follows from `seed` and `parts`, so that a step draws the same whenever it runs."""
    text = ":".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def prompt_indices(count: int, samples: int, step: int, seed: int) -> list[int]:
    """The prompts of step `step` (from 1): `samples` indices below `count`, each epoch in an order of its own."""
    chosen: list[int] = []
    position = (step - 1) * samples
    while len(chosen) < samples:
        epoch, offset = divmod(position + len(chosen), count)
        order = list(range(count))
        random.Random(derived_seed(seed, "prompts", epoch)).shuffle(order)
        chosen += order[offset : offset + samples - len(chosen)]
    return chosen
