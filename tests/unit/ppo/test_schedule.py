"""What follows from the step number alone."""

from __future__ import annotations

from collections import Counter

import pytest

from cai_jobs.ppo.schedule import derived_seed, learning_rate, next_kl_coefficient, prompt_indices


@pytest.mark.parametrize(
    ("update", "shape", "rate"),
    [
        (0, "cosine", 0.25),
        (3, "cosine", 1.0),
        (4, "cosine", 1.0),
        (8, "cosine", 0.55),
        (12, "cosine", 0.1),
        (99, "cosine", 0.1),
        (6, "linear", 0.775),
        (12, "linear", 0.1),
        (99, "constant", 1.0),
    ],
)
def test_learning_rate(update: int, shape: str, rate: float) -> None:
    assert learning_rate(update, peak=1.0, floor=0.1, warmup=4, total=12, shape=shape) == pytest.approx(rate)


def test_learning_rate_without_an_end_stays_at_its_peak() -> None:
    assert learning_rate(1000, 1.0, 0.1, warmup=4, total=0, shape="cosine") == 1.0


@pytest.mark.parametrize(
    ("kl", "factor"), [(6.0, 1.0), (6.6, 1 + 0.1 * 0.064), (60.0, 1 + 0.2 * 0.064), (0.0, 1 - 0.2 * 0.064)]
)
def test_kl_coefficient_is_steered_towards_the_target(kl: float, factor: float) -> None:
    assert next_kl_coefficient(0.2, kl, target=6.0, samples=640, horizon=10_000) == pytest.approx(0.2 * factor)


def test_kl_coefficient_stays_without_a_target() -> None:
    assert next_kl_coefficient(0.2, 50.0, target=0.0, samples=64, horizon=100) == 0.2


def test_prompts_of_all_steps_are_whole_epochs_each_in_its_own_order() -> None:
    drawn = [index for step in range(1, 8) for index in prompt_indices(5, 10, step, seed=1)]
    assert Counter(drawn) == dict.fromkeys(range(5), 14)
    epochs = [tuple(drawn[start : start + 5]) for start in range(0, 70, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 5


def test_prompts_of_a_step_do_not_depend_on_where_a_run_began() -> None:
    assert prompt_indices(7, 3, 5, seed=9) == prompt_indices(7, 3, 5, seed=9)
    assert prompt_indices(70, 3, 5, seed=9) != prompt_indices(70, 3, 5, seed=10)


def test_derived_seeds_differ_and_fit_torch() -> None:
    seeds = {derived_seed(1, "rollout", step, rank) for step in range(20) for rank in range(4)}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**63 for seed in seeds)
