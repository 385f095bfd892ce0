"""Rollouts and policy updates on small random models of each style the programs must take."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai_jobs.contract.program import InputError
from cai_jobs.ppo import maths, rollout, training
from cai_jobs.ppo.device import Device
from cai_jobs.ppo.settings import ActorSettings

CPU = Device(torch.device("cpu"), torch.float32)
TEXTS = ["<extra_id_1>User\nHow do I water a plant?\n<extra_id_1>Assistant\n", "tea and bread\n<extra_id_1>Assistant\n"]
END = "<extra_id_1>"


@pytest.fixture(params=["llama", "mistral", "qwen2"])
def model(request: pytest.FixtureRequest, tiny_model_dir: Callable[[str], Path]) -> tuple[Any, Any]:
    path = tiny_model_dir(request.param)
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def sampling(**changes: Any) -> rollout.Sampling:
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 6, "end_string": END, **changes}
    return rollout.Sampling(**settings)


def test_greedy_answers_are_the_likeliest_tokens_one_by_one(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    prompts = [tokens_of(tokenizer, text) for text in TEXTS]
    answers = rollout.generate(policy, tokenizer, prompts, sampling(greedy=True), 1, CPU)
    for prompt, (answer, _) in zip(prompts, answers, strict=True):
        text = list(prompt)
        for token in answer:
            with torch.no_grad():
                assert int(policy(torch.tensor([text])).logits[0, -1].argmax()) == token
            text.append(token)


def test_sampling_follows_from_its_seed(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    prompts = [tokens_of(tokenizer, text) for text in TEXTS] * 4
    first, again, other = (rollout.generate(policy, tokenizer, prompts, sampling(), seed, CPU) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    only = rollout.generate(policy, tokenizer, prompts, sampling(top_k=1), 5, CPU)
    assert only == rollout.generate(policy, tokenizer, prompts, sampling(greedy=True), 6, CPU)


def test_answers_end_with_the_end_string_however_it_is_tokenised(model: tuple[Any, Any]) -> None:
    _, tokenizer = model
    ends = rollout.end_tokens(tokenizer, END)
    tail = tokens_of(tokenizer, "tea" + END)
    answer = [*tail, *tokens_of(tokenizer, "more")]
    assert rollout.cut_answer(answer, tokenizer, ends, END) == (tail, True)
    assert rollout.cut_answer(tail[:-1], tokenizer, ends, END) == (tail[:-1], False)
    eos = tokenizer.eos_token_id
    assert rollout.cut_answer([*tail[:1], eos, *tail], tokenizer, ends, END) == ([*tail[:1], eos], True)


def test_generation_stops_at_the_end_string(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    ending = tokens_of(tokenizer, "tea" + END)
    prompt = tokens_of(tokenizer, TEXTS[0])
    places = iter(range(100))

    def scripted(*_args: Any, **_options: Any) -> Any:
        output = forward(*_args, **_options)
        output.logits[:, -1] = -1e9
        output.logits[:, -1, [*ending, *[ending[0]] * 9][next(places)]] = 1e9
        return output

    forward, policy.forward = policy.forward, scripted
    # signature() of the forward steers generate: keep the model's own
    scripted.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    answers = rollout.generate(policy, tokenizer, [prompt], sampling(max_new_tokens=len(ending) + 5), 1, CPU)
    assert answers == [(ending, True)]
    assert next(places) == len(ending)


def measured(policy: Any, reference: Any, tokenizer: Any, temperature: float = 1.0) -> rollout.Rollouts:
    texts = [
        (7, tokens_of(tokenizer, TEXTS[0]), tokens_of(tokenizer, "A little, at dawn." + END), True),
        (2, tokens_of(tokenizer, TEXTS[1]), tokens_of(tokenizer, "the museum near the bridge and the"), False),
        (3, tokens_of(tokenizer, TEXTS[1]), tokens_of(tokenizer, "User"), False),
    ]
    return rollout.measure(policy, reference, texts, temperature, CPU)


def other_policy(policy: Any) -> Any:
    torch.manual_seed(4)
    other = copy.deepcopy(policy)
    for parameter in other.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return other


def test_log_probabilities_are_those_of_each_text_alone(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    reference = other_policy(policy)
    found = measured(policy, reference, tokenizer, temperature=0.8)
    for row in range(3):
        length = int(found.lengths[row])
        text = found.tokens[row : row + 1, :length]
        for network, log_probs in ((policy, found.log_probs), (reference, found.reference)):
            with torch.no_grad():
                shares = (network(text).logits[0] / 0.8).softmax(-1)
            for place in range(found.mask.shape[1]):
                wanted = 0.0
                if found.mask[row, place]:
                    wanted = float(shares[place, text[0, place + 1]].log())
                assert float(log_probs[row, place]) == pytest.approx(wanted, abs=2e-4)
    assert found.mask.sum(1).tolist() == [
        len(tokens_of(tokenizer, text))
        for text in ("A little, at dawn." + END, "the museum near the bridge and the", "User")
    ]
    assert bool((found.divergence[found.mask] > 0).all())
    assert bool((measured(policy, policy, tokenizer).divergence.abs() < 1e-5).all())


def test_joined_rollouts_keep_their_rows(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    short = rollout.measure(policy, policy, [(9, [5, 6], [7], True)], 1.0, CPU)
    long = measured(policy, policy, tokenizer)
    both = rollout.join([short, long])
    assert both.tokens.shape == (4, long.tokens.shape[1])
    assert both.index.tolist() == [9, 7, 2, 3]
    assert both.mask[0].tolist() == [False, True] + [False] * (long.mask.shape[1] - 2)
    assert torch.equal(both.log_probs[1:], long.log_probs)


def settings(**changes: Any) -> ActorSettings:
    values = {"global_batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 0, "lr_schedule": "constant", **changes}
    return ActorSettings(**values)


def update(policy: Any, rollouts: rollout.Rollouts, options: ActorSettings) -> tuple[int, dict[str, float], Any]:
    trained = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(trained.parameters())
    advantages = torch.linspace(-1, 1, rollouts.mask.numel()).reshape(rollouts.mask.shape) * rollouts.mask
    updates, figures = training.update_policy(
        trained, optimizer, rollouts, advantages, options, step=1, updates=0, total_updates=9, device=CPU
    )
    return updates, figures, trained


def test_an_update_makes_better_choices_likelier_and_micro_batches_do_not_matter(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    rollouts = measured(policy, policy, tokenizer)
    _, figures, trained = update(policy, rollouts, settings(micro_batch_size=1))
    _, same, other = update(policy, rollouts, settings(micro_batch_size=3))
    assert figures == pytest.approx(same, rel=1e-3, abs=1e-6)
    for ours, theirs in zip(trained.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-2)
    after = measured(trained, policy, tokenizer)
    advantages = torch.linspace(-1, 1, rollouts.mask.numel()).reshape(rollouts.mask.shape) * rollouts.mask
    assert float(((after.log_probs - rollouts.log_probs) * advantages).sum()) > 0
    assert figures["clip_fraction"] == 0
    assert abs(figures["update_kl"]) < 1e-5


def test_an_update_that_moved_too_far_ends_the_step(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    rollouts = measured(policy, policy, tokenizer)
    options = {"ppo_epochs": 10, "micro_batch_size": 3, "learning_rate": 1e-2}
    assert update(policy, rollouts, settings(**options))[0] == 10
    assert 1 <= update(policy, rollouts, settings(kl_stop=1e-3, **options))[0] < 10


def test_rewards_are_scaled_clipped_and_lowered_for_answers_without_end(model: tuple[Any, Any]) -> None:
    policy, tokenizer = model
    rollouts = measured(policy, policy, tokenizer)
    rollouts.scores = torch.tensor([9.0, 1.0, 2.0])
    rollouts.values = torch.zeros_like(rollouts.values)
    options = settings(unfinished_penalty=0.5, gae_lambda=1.0, reward_scaling="running", reward_clip=1.0)
    shaped = training.shape_rewards(rollouts, options, 0.1, maths.Moments())
    # mean 4, deviation sqrt(38 / 3) = 3.559: 1.405 clipped to 1, -0.843 - 0.5, -0.562 - 0.5
    for row, wanted in enumerate([1.0, -1.3429, -1.0620]):
        assert shaped.returns[row][rollouts.mask[row]].tolist() == pytest.approx(
            [wanted] * int(rollouts.mask[row].sum()), abs=1e-3
        )
    assert shaped.moments.number == 3
    plain = training.shape_rewards(rollouts, settings(unfinished_penalty=0.0), 0.1, maths.Moments())
    assert plain.moments.number == 0
    assert float(plain.returns[0][rollouts.mask[0]][-1]) == pytest.approx(9.0, abs=1e-4)


def test_long_prompts_are_left_out_and_bad_rows_named(model: tuple[Any, Any], tmp_path: Path) -> None:
    _, tokenizer = model
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, "tea " * 200]))
    prompts, too_long = rollout.read_prompts(path, tokenizer, 100)
    assert prompts == [tokens_of(tokenizer, text) for text in TEXTS]
    assert too_long == 1
    with pytest.raises(InputError, match="none of the 3 prompts fits 1 tokens"):
        rollout.read_prompts(path, tokenizer, 1)
    path.write_text('{"text": "tea"}\n{"txt": "tea"}\n')
    with pytest.raises(InputError, match=r"prompts.jsonl:2: a prompt row"):
        rollout.read_prompts(path, tokenizer, 100)
