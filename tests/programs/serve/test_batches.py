"""What a row is answered depends on the row alone, and greedy answers are the library's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.inference.request import Answer, RequestError, Row, Sampling

PROMPTS = [
    "How",
    "Which bird sings at night?",
    "<extra_id_0>System\n\n<extra_id_1>User\nHow do I bake bread?\n<extra_id_1>Assistant\n",
    "The café in the old town serves tea",
    "Mix flour, water and salt, let the dough rest and bake it",
    "the robin",
    "smiles at every guest. The nightingale sings at night, and the robin before dawn. Which bird",
    "bread bread bread",
]


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def model(request: pytest.FixtureRequest, make_model: Callable[..., Path]) -> Any:
    from cai_jobs.inference.model import load

    return load(make_model(request.param), "cpu", "auto")


def answer(model: Any, rows: Sequence[Row]) -> list[Answer]:
    model.generate(rows)
    return [row.future.result(timeout=0) for row in rows]


def row(model: Any, number: int, sampling: Sampling, **seed: int) -> Row:
    return Row(PROMPTS[number], model.encode([PROMPTS[number]])[0], sampling, **seed)


SETTINGS = [
    Sampling(max_tokens=24, temperature=0.7, top_p=0.9),
    Sampling(max_tokens=12, temperature=1.5, top_k=20),
    Sampling(max_tokens=24, greedy=True),
    Sampling(max_tokens=20, top_k=50, repetition_penalty=1.3),
    Sampling(max_tokens=24, min_tokens=10),
    Sampling(max_tokens=24, greedy=True, repetition_penalty=1.2),
    Sampling(max_tokens=24, temperature=0.2, stop=("e", "night")),
    Sampling(max_tokens=24),
]


def test_a_row_is_answered_the_same_alone_in_a_batch_and_in_another_order(model: Any) -> None:
    def rows(order: Sequence[int]) -> list[Row]:
        return [row(model, n, SETTINGS[n], seed=100 + n, index=n % 2) for n in order]

    batched = {n: a.token_ids for n, a in zip(range(8), answer(model, rows(range(8))), strict=True)}
    order = [5, 0, 7, 2, 1, 6, 3, 4]
    turned = {n: a.token_ids for n, a in zip(order, answer(model, rows(order)), strict=True)}
    alone = {n: answer(model, rows([n]))[0].token_ids for n in range(8)}
    assert batched == turned == alone


def test_company_moves_no_logit(model: Any) -> None:
    """The test above rests on this: in double precision, rounding that depends on the batch is negligible."""
    import torch

    one, long = (model.encode([PROMPTS[n]])[0] for n in (1, 2))
    ids = torch.tensor([[2] * (len(long) - len(one)) + one, long])
    mask = (torch.arange(len(long)) >= len(long) - len(one)).long()[None].repeat(2, 1)
    mask[1] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)
    batched = model._model(ids, attention_mask=mask, position_ids=places).logits[0, -1]
    alone = model._model(torch.tensor([one])).logits[0, -1]
    assert alone.dtype == torch.float64
    assert (batched - alone).abs().max() < 1e-9


def test_seeds_and_indices_give_different_answers(model: Any) -> None:
    free = Sampling(max_tokens=24)
    answers = answer(model, [row(model, 1, free, seed=s, index=i) for s in (1, 2) for i in (0, 1)])
    assert len({tuple(a.token_ids) for a in answers}) == 4


def test_greedy_is_what_generate_gives(model: Any) -> None:
    import torch

    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor(model.encode([prompt]))
        whole = model._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=1,
            pad_token_id=2, suppress_tokens=list(range(model.vocabulary, model._model.config.vocab_size)),
        )  # fmt: skip
        expected.append(whole[0, ids.shape[1] :].tolist())
    rows = [row(model, n, Sampling(max_tokens=20, greedy=True)) for n in range(8)]
    assert [a.token_ids for a in answer(model, rows)] == expected


def test_draws_follow_the_distribution() -> None:
    import torch

    from cai_jobs.inference.logits import draw, row_uniforms

    weights = torch.tensor([0.5, 0.0, 0.2, 0.3])
    uniforms = torch.from_numpy(row_uniforms(7, 0, 20_000))
    tokens = draw(weights.log().expand(len(uniforms), 4), uniforms)
    shares = torch.bincount(tokens, minlength=4) / len(uniforms)
    assert shares[1] == 0
    # four standard deviations of a share at 20,000 draws
    assert torch.allclose(shares, weights, atol=0.0142)
    by_hand = draw(weights.log().expand(4, 4), torch.tensor([0.0, 0.49, 0.51, 0.999999], dtype=torch.float64))
    assert by_hand.tolist() == [0, 0, 2, 3]


def test_uniforms_do_not_depend_on_how_many_are_drawn() -> None:
    from cai_jobs.inference.logits import row_uniforms

    assert row_uniforms(3, 1, 5).tolist() == row_uniforms(3, 1, 500)[:5].tolist()
    assert row_uniforms(3, 1, 5).tolist() != row_uniforms(3, 2, 5).tolist()


def test_warpers_are_the_librarys(model: Any) -> None:
    """Over many seeds top_k=3 gives exactly the three likeliest first tokens."""
    import torch

    prompt = model.encode([PROMPTS[1]])[0]
    logits = model._model(torch.tensor([prompt])).logits[0, -1, : model.vocabulary]
    one = Sampling(max_tokens=1, top_k=3, temperature=5.0)
    firsts = {a.token_ids[0] for a in answer(model, [Row("", prompt, one, seed=s) for s in range(60)])}
    assert firsts == set(logits.topk(3).indices.tolist())


def test_padded_embeddings_are_never_generated(model: Any) -> None:
    hot = Sampling(max_tokens=40, temperature=100.0)
    tokens = {t for a in answer(model, [row(model, n, hot, seed=n) for n in range(8)]) for t in a.token_ids}
    assert max(tokens) < model.vocabulary < model._model.config.vocab_size


def test_min_tokens_bars_the_end(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_eos_ids", list(range(1, 150)))
    asked = [Sampling(max_tokens=16, min_tokens=n, temperature=20.0) for n in (0, 9)]
    free, barred = (answer(model, [row(model, n, each, seed=n) for n in range(8)]) for each in asked)
    assert min(len(a.token_ids) for a in free) < 9
    assert min(len(a.token_ids) for a in barred) >= 10
    assert all(a.ended == (a.token_ids[-1] < 150) for a in free + barred)


def test_stop_strings_end_a_row_and_leave_the_text_before_them(model: Any) -> None:
    free = answer(model, [row(model, n, Sampling(max_tokens=40, greedy=True)) for n in range(8)])
    number, whole = max(enumerate(a.text for a in free), key=lambda pair: len(pair[1]))
    # a string that spans several tokens, met first at its own place
    stop = whole[7:11]
    place = whole.find(stop)
    rows = [row(model, n, Sampling(max_tokens=40, greedy=True, stop=(stop,) if n == number else ())) for n in range(8)]
    answers = answer(model, rows)
    assert answers[number].text == whole[:place]
    assert answers[number].stopped_by == stop
    assert answers[number].ended
    assert len(answers[number].token_ids) < len(free[number].token_ids)
    assert [a.token_ids for n, a in enumerate(answers) if n != number] == [
        a.token_ids for n, a in enumerate(free) if n != number
    ]


def test_a_batch_without_clients_stops(model: Any) -> None:
    rows = [row(model, n, Sampling(max_tokens=150), seed=n) for n in range(3)]
    seen: list[str] = []

    def leave(text: str) -> None:
        seen.append(text)
        if len(seen) == 4:
            for each in rows:
                each.future.cancel()

    rows[0].on_text = leave
    assert model.generate(rows) < 3 * 10


def test_scores_are_the_models_log_probabilities(model: Any) -> None:
    import torch

    asked = Sampling(max_tokens=6, greedy=True, logprobs=True, top_logprobs=2, all_logprobs=True)
    one = row(model, 1, asked)
    given = answer(model, [row(model, 2, Sampling(max_tokens=20)), one])[1]
    ids = torch.tensor([[*one.prompt_ids, *given.token_ids]])
    expected = model._model(ids).logits[0, :-1].log_softmax(-1)
    assert given.scores is not None
    assert given.scores.tokens == pytest.approx(expected.gather(1, ids[0, 1:, None])[:, 0].tolist(), abs=1e-4)
    assert torch.tensor(given.scores.full).shape == expected.shape
    assert given.scores.top[-1][0][0] == given.token_ids[-1]


def test_too_long_a_prompt_is_refused_with_the_numbers(model: Any) -> None:
    with pytest.raises(
        RequestError, match=r"prompt 1 has \d+ tokens and 250 are to be .* context is 256; .* max_tokens"
    ):
        model.check_length([row(model, 0, Sampling(5)), row(model, 2, Sampling(250))], "max_tokens")


def test_a_broken_directory_is_an_input_error(make_model: Callable[..., Path], tmp_path: Path) -> None:
    from cai_jobs.inference.model import load

    for file in make_model("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        load(tmp_path, "cpu", "auto")


def test_a_batch_too_large_for_memory_goes_on_in_halves() -> None:
    import torch

    from cai_jobs.inference.engine import Engine

    sizes = []

    class SmallModel:
        """Memory for two rows; of a larger batch the first row is done when memory runs out."""

        def generate(self, rows: Sequence[Row]) -> int:
            sizes.append(len(rows))
            for place, each in enumerate(rows):
                if place and len(rows) > 2:
                    raise torch.OutOfMemoryError
                each.finish(Answer(str(len(rows)), None, [1], True))
            return len(rows)

    engine = Engine(lambda: cast(Any, SmallModel()), max_batch_size=8, window_s=0.05)
    engine.start()
    many = [Row("a", [5], Sampling()) for _ in range(6)]
    engine.submit(many)
    assert [each.future.result(20).text for each in many] == ["6", "2", "2", "3", "2", "2"]
    engine.stop()
    assert sizes == [6, 2, 3, 2]
