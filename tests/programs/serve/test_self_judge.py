"""A served model judging its own answers: the server's log-probabilities are what principle mode reads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cai_jobs.clients.remote import Remote
from cai_jobs.formats.constitution import ComparisonPrinciple
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.judging.judge import JudgeSettings, make_judge

LOGITS = {"A": 5.0, "B": 4.0}


@pytest.fixture(scope="module")
def one_sided_model(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for which every token is alike, so that after any text A has the logit 5, B has 4, and the rest has 0."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    source = make_model("llama")
    directory = tmp_path_factory.mktemp("models") / "one-sided"
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float64)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight[5].expand_as(model.lm_head.weight))
        hidden = model.model(torch.tensor([[5, 6]])).last_hidden_state[0, -1]
        model.lm_head.weight.zero_()
        for letter, logit in LOGITS.items():
            (token,) = tokenizer(letter)["input_ids"]
            model.lm_head.weight[token] = logit * hidden / hidden.dot(hidden)
    model.config.max_position_embeddings = 4096
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_the_servers_log_probabilities_become_labels(
    one_sided_model: Path, start_server: Any, until_ready: Any
) -> None:
    process, url, log = start_server(one_sided_model)
    until_ready(process, url, log)
    settings = JudgeSettings(
        seed=1, mode="principle", principles=(ComparisonPrinciple("p", "Which answer is kinder?"),)
    )

    async def judged() -> list[Decision]:
        async with Remote("model server", url) as served, await make_judge(settings, served) as judge:
            return await judge.decide(0, "How do I bake bread?", {"a": "Mix flour.", "b": "Buy some."})

    (decision,) = asyncio.run(judged())
    wanted = math.exp(LOGITS["A"]) / (math.exp(LOGITS["A"]) + math.exp(LOGITS["B"]))
    for order in decision.orders:
        assert order.from_logprobs
        assert order.probability == pytest.approx(wanted, abs=1e-6)
    assert decision.outcome is Outcome.TIE, "the same liking for the first place in both orders cancels out"
