"""PPO's formulas against hand-computed cases and against a second implementation in plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from cai_jobs.ppo import maths


@pytest.fixture
def answers() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (6, 11)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, (start, end) in enumerate([(0, 11), (2, 9), (4, 5), (3, 11), (0, 1), (6, 10)]):
        mask[row, start:end] = True

    def draw(scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    return {
        "mask": mask,
        "log_probs": -draw().abs(),
        "reference": -draw().abs(),
        "values": draw(),
        "advantages": draw(),
        "returns": draw(),
        "scores": draw()[:, 0],
    }


def test_masked_mean_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 100.0], [4.0, 100.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert maths.masked_mean(values, mask).item() == pytest.approx(7 / 3)
    assert maths.masked_mean(values, torch.zeros_like(mask)).item() == 0


def test_whiten_by_hand() -> None:
    mask = torch.tensor([[True, True, True, True, False]])
    whitened = maths.whiten(torch.tensor([[1.0, 3.0, 5.0, 7.0, 99.0]]), mask)
    # mean 4, population variance 5
    expected = [-3 / math.sqrt(5), -1 / math.sqrt(5), 1 / math.sqrt(5), 3 / math.sqrt(5), 0.0]
    torch.testing.assert_close(whitened, torch.tensor([expected]))


def test_whiten_of_equal_values_is_zero() -> None:
    whitened = maths.whiten(torch.full((2, 3), 7.0), torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(whitened, torch.zeros(2, 3))


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 0.5]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = maths.gae(rewards, values, mask, gamma=0.5, lam=0.5)
    # deltas: 0 + .5*.25 - .5 = -.375; 0 + .5*.5 - .25 = 0; 1 - .5 = .5; each A = delta + .25 A'
    torch.testing.assert_close(advantages, torch.tensor([[-0.34375, 0.125, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[0.15625, 0.375, 1.0]]))


def test_gae_with_lambda_one_and_no_discount_is_the_sum_of_rewards_to_come(answers: dict[str, torch.Tensor]) -> None:
    mask = answers["mask"]
    _, returns = maths.gae(answers["returns"] * mask, answers["values"], mask, gamma=1.0, lam=1.0)
    for row in range(len(mask)):
        places = mask[row].nonzero().flatten().tolist()
        for place in places:
            to_come = sum(float(answers["returns"][row, later]) for later in places if later >= place)
            assert float(returns[row, place]) == pytest.approx(to_come, abs=1e-5)


def loop_gae(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """A_t as the discounted sum of all later temporal differences (equation 16), term by term."""
    advantages = torch.zeros(values.shape)
    for row in range(len(mask)):
        places = mask[row].nonzero().flatten().tolist()
        for i, place in enumerate(places):
            total = 0.0
            for j in range(i, len(places)):
                here = places[j]
                after = float(values[row, places[j + 1]]) if j + 1 < len(places) else 0.0
                total += (gamma * lam) ** (j - i) * (
                    float(rewards[row, here]) + gamma * after - float(values[row, here])
                )
            advantages[row, place] = total
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.97, 0.0), (1.0, 1.0)])
def test_gae_against_loops(answers: dict[str, torch.Tensor], gamma: float, lam: float) -> None:
    advantages, returns = maths.gae(answers["returns"], answers["values"], answers["mask"], gamma, lam)
    expected = loop_gae(answers["returns"], answers["values"], answers["mask"], gamma, lam)
    torch.testing.assert_close(advantages, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(returns, (expected + answers["values"]) * answers["mask"], atol=1e-5, rtol=1e-5)


def test_token_rewards_by_hand() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, False, False], [False] * 4])
    log_probs = torch.tensor([[-9.0, -1.0, -2.0, -9.0], [-1.0, 0, 0, 0], [0.0] * 4])
    reference = torch.tensor([[-1.0, -2.0, -1.5, -1.0], [-1.0, 0, 0, 0], [0.0] * 4])
    rewards = maths.token_rewards(log_probs, reference, torch.tensor([3.0, -2.0, 5.0]), mask, 0.1)
    expected = [[0.0, -0.1, 3.05, 0.0], [-2.0, 0, 0, 0], [0.0] * 4]
    torch.testing.assert_close(rewards, torch.tensor(expected))


def test_token_rewards_against_loops(answers: dict[str, torch.Tensor]) -> None:
    rewards = maths.token_rewards(answers["log_probs"], answers["reference"], answers["scores"], answers["mask"], 0.07)
    for row in range(6):
        places = answers["mask"][row].nonzero().flatten().tolist()
        for place in range(11):
            wanted = 0.0
            if place in places:
                wanted = -0.07 * float(answers["log_probs"][row, place] - answers["reference"][row, place])
            if place == places[-1]:
                wanted += float(answers["scores"][row])
            assert float(rewards[row, place]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # gain is capped at 1.2
        (0.5, 2.0, -1.0, False),  # a loss is not
        (0.5, -2.0, 1.6, True),  # capped at 0.8
        (1.5, -2.0, 3.0, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_policy_loss_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    new, old, gain = torch.tensor([[math.log(ratio) - 1]]), torch.tensor([[-1.0]]), torch.tensor([[advantage]])
    assert maths.policy_loss(new, old, gain, 0.2).item() == pytest.approx(loss, rel=1e-5)
    assert maths.policy_clipped(new, old, gain, 0.2).item() is clipped


def test_policy_loss_gives_no_gradient_exactly_where_clipped(answers: dict[str, torch.Tensor]) -> None:
    new = answers["log_probs"].clone().requires_grad_()
    maths.policy_loss(new, answers["reference"], answers["advantages"], 0.2).sum().backward()
    clipped = maths.policy_clipped(answers["log_probs"], answers["reference"], answers["advantages"], 0.2)
    assert new.grad is not None
    assert 0 < int(clipped.sum()) < clipped.numel()
    assert torch.equal(new.grad == 0, clipped)


@pytest.mark.parametrize(
    ("value", "old", "goal", "loss"),
    [
        (1.0, 1.0, 3.0, 2.0),
        (1.5, 1.0, 3.0, 0.5 * 1.8**2),  # moved 0.5, counts as 0.2
        (1.1, 1.0, 3.0, 0.5 * 1.9**2),
        (0.0, 1.0, 3.0, 0.5 * 9.0),  # away from the goal: the unclipped term is larger
    ],
)
def test_value_loss_by_hand(value: float, old: float, goal: float, loss: float) -> None:
    result = maths.value_loss(torch.tensor([[value]]), torch.tensor([[old]]), torch.tensor([[goal]]), 0.2)
    assert result.item() == pytest.approx(loss, rel=1e-5)


def test_losses_against_loops(answers: dict[str, torch.Tensor]) -> None:
    policy = maths.policy_loss(answers["log_probs"], answers["reference"], answers["advantages"], 0.2)
    value = maths.value_loss(answers["values"], answers["advantages"], answers["returns"], 0.3)
    for row in range(6):
        for place in range(11):
            new, old = float(answers["log_probs"][row, place]), float(answers["reference"][row, place])
            gain, ratio = float(answers["advantages"][row, place]), math.exp(new - old)
            objective = min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain)
            assert float(policy[row, place]) == pytest.approx(-objective, abs=1e-5)
            now, goal = float(answers["values"][row, place]), float(answers["returns"][row, place])
            near = min(max(now, gain - 0.3), gain + 0.3)
            assert float(value[row, place]) == pytest.approx(max((now - goal) ** 2, (near - goal) ** 2) / 2, abs=1e-5)


def test_kl_estimators_by_hand() -> None:
    new, old = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert maths.kl_k1(new, old).item() == pytest.approx(math.log(2))
    assert maths.kl_k3(new, old).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_kl_estimators_agree_with_the_exact_divergence_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, reference = torch.randn(1, 2, 7, generator=generator), torch.randn(1, 2, 7, generator=generator)
    p, q = torch.log_softmax(logits[0, 0], -1), torch.log_softmax(reference[0, 0], -1)
    exact = sum(math.exp(float(a)) * (float(a) - float(b)) for a, b in zip(p, q, strict=True))
    assert maths.divergence(logits, reference).item() == pytest.approx(exact, abs=1e-5)
    for estimator in (maths.kl_k1, maths.kl_k3):
        assert float((p.exp() * estimator(p, q)).sum()) == pytest.approx(exact, abs=1e-5)
    assert bool((maths.kl_k3(p, q) >= 0).all())


def test_chosen_log_probs_and_entropy_against_loops() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, tokens = torch.randn(2, 4, 5, generator=generator), torch.randint(5, (2, 4), generator=generator)
    chosen, entropy = maths.chosen_log_probs(logits, tokens, 0.7), maths.entropy(logits, 0.7)
    assert chosen.shape == entropy.shape == (2, 3)
    for row in range(2):
        for place in range(3):
            weights = [math.exp(float(x) / 0.7) for x in logits[row, place]]
            shares = [weight / sum(weights) for weight in weights]
            assert float(chosen[row, place]) == pytest.approx(math.log(shares[int(tokens[row, place + 1])]), abs=1e-5)
            assert float(entropy[row, place]) == pytest.approx(-sum(s * math.log(s) for s in shares), abs=1e-5)


def test_merged_moments_are_those_of_all_numbers() -> None:
    numbers = torch.randn(50, generator=torch.Generator().manual_seed(4)) * 3 + 10
    moments = maths.Moments()
    assert moments.deviation == 1.0
    for part in (numbers[:1], numbers[1:20], numbers[20:20], numbers[20:]):
        moments = maths.merge_moments(moments, part)
    assert moments.number == 50
    assert moments.mean == pytest.approx(float(numbers.mean()), rel=1e-5)
    assert moments.deviation == pytest.approx(float(numbers.std(unbiased=False)), rel=1e-5)
