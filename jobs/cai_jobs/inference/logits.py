"""Sampling and stopping row by row inside one `generate` call, through transformers' own hooks.

transformers samples a whole batch from one random stream, so what a row gets would depend on its neighbours. Here every
row has random numbers of its own: `RowSampler` lets transformers' processors and warpers shape each row's distribution,
draws the token by inverting its cumulative distribution at the row's next uniform number (inverse transform sampling,
Devroye 1986, section III.2), and leaves that token as the only finite score, so that generate's greedy choice takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cai_jobs.inference.request import Row, Sampling


def row_uniforms(seed: int, index: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`count` uniform numbers in [0, 1), float64, a function of (seed, index) alone; fewer are a prefix of more."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index)))).random(count)


def draw(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One token a row: scores [rows, vocabulary] (log-weights, -inf barred), uniform [rows] in [0, 1) -> [rows] int64.

    In float64, so that rounding in the cumulative sum moves no token's boundary by more than 1e-12.
    """
    cumulative = scores.double().softmax(-1).cumsum(-1)
    target = uniform.double()[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return token.clamp(max=scores.shape[-1] - 1)


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Apply each row's own settings to its scores, then fix its token.

    Args:
        rows: the batch.
        prompt_width: columns of the left-padded prompts.
        vocabulary: tokens the tokenizer knows; ids above it (padded embeddings) are barred.
    """

    def __init__(
        self, rows: Sequence[Row], prompt_width: int, eos_ids: Sequence[int], vocabulary: int, device: torch.device
    ) -> None:
        self._vocabulary = vocabulary
        self._prompt_width = prompt_width
        self._groups: list[tuple[torch.Tensor, LogitsProcessorList]] = []
        members: dict[tuple[Any, ...], list[int]] = {}
        for number, row in enumerate(rows):
            members.setdefault(_shape(row.sampling), []).append(number)
        for numbers in members.values():
            padding = torch.tensor([prompt_width - len(rows[n].prompt_ids) for n in numbers], device=device)
            chosen = processors(rows[numbers[0]].sampling, prompt_width, padding, eos_ids, device)
            self._groups.append((torch.tensor(numbers, device=device), chosen))
        drawn = [number for number, row in enumerate(rows) if not row.sampling.greedy]
        self._drawn = torch.tensor(drawn, device=device, dtype=torch.long)
        uniforms = torch.zeros(
            len(drawn), max((rows[n].sampling.max_tokens for n in drawn), default=0), dtype=torch.float64
        )
        for place, number in enumerate(drawn):
            row = rows[number]
            uniforms[place, : row.sampling.max_tokens] = torch.from_numpy(
                row_uniforms(row.seed, row.index, row.sampling.max_tokens)
            )
        self._uniforms = uniforms.to(device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids [rows, length] int64, scores [rows, vocabulary] float32 -> scores whose argmax is the token."""
        scores[:, self._vocabulary :] = -torch.inf
        for numbers, chosen in self._groups:
            if len(self._groups) == 1:
                scores = chosen(input_ids, scores)
            elif chosen:
                scores[numbers] = chosen(input_ids[numbers], scores[numbers])
        step = input_ids.shape[1] - self._prompt_width
        if len(self._drawn) and step < self._uniforms.shape[1]:
            tokens = draw(scores[self._drawn], self._uniforms[:, step])
            scores = scores.clone()
            scores[self._drawn] = torch.full_like(scores[self._drawn], -torch.inf).scatter(1, tokens[:, None], 0.0)
        return scores


def processors(
    sampling: Sampling, prompt_width: int, padding: torch.Tensor, eos_ids: Sequence[int], device: torch.device
) -> LogitsProcessorList:
    """transformers' processors and warpers for one setting, in transformers' order; padding [rows] is not penalised."""
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty), padding))
    if sampling.min_tokens > 0 and eos_ids:
        chosen.append(
            MinNewTokensLengthLogitsProcessor(prompt_width, sampling.min_tokens, list(eos_ids), device=device)
        )
    if sampling.greedy:
        return chosen
    if sampling.temperature != 1.0:
        chosen.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k > 0:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chosen.append(TopPLogitsWarper(float(sampling.top_p)))
    return chosen


class RowStops(StoppingCriteria):  # type: ignore[misc]
    """End each row at its end-of-sequence, stop string, token limit or cancellation, and say so at once.

    Args:
        decode: token id lists -> texts, special tokens shown.
        on_token: called with the row's number and its tokens after each new token of a row that goes on.
        on_end: called once a row with its number, its tokens and whether it ended by itself.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        eos_ids: Sequence[int],
        decode: Callable[[list[list[int]]], list[str]],
        on_token: Callable[[int, list[int]], None],
        on_end: Callable[[int, list[int], bool], None],
    ) -> None:
        self._rows, self._eos_ids, self._decode = rows, frozenset(eos_ids), decode
        self._on_token, self._on_end = on_token, on_end
        self._tokens: list[list[int]] = [[] for _ in rows]
        self._open = list(range(len(rows)))
        # every token but a special one adds at least a byte, and a character may be split over four
        self._window = [max((len(s.encode()) for s in row.sampling.stop), default=0) + 8 for row in rows]

    @property
    def generated(self) -> int:
        """Tokens generated for all rows so far."""
        return sum(map(len, self._tokens))

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        """input_ids [rows, length] int64 -> done [rows] bool."""
        newest = input_ids[:, -1].tolist()
        self._open = [n for n in self._open if not self._rows[n].future.cancelled()]
        for number in self._open:
            self._tokens[number].append(newest[number])
        stopped = self._stopped()
        still_open = []
        for number in self._open:
            tokens = self._tokens[number]
            ended = newest[number] in self._eos_ids or number in stopped
            if ended or len(tokens) >= self._rows[number].sampling.max_tokens:
                self._on_end(number, tokens, ended)
            else:
                still_open.append(number)
                self._on_token(number, tokens)
        self._open = still_open
        done = torch.ones(len(self._rows), dtype=torch.bool)
        done[self._open] = False
        return done.to(input_ids.device)

    def _stopped(self) -> set[int]:
        watched = [n for n in self._open if self._rows[n].sampling.stop]
        texts = self._decode([self._tokens[n][-self._window[n] :] for n in watched]) if watched else []
        return {
            n for n, text in zip(watched, texts, strict=True) if any(s in text for s in self._rows[n].sampling.stop)
        }


def _shape(sampling: Sampling) -> tuple[Any, ...]:
    if sampling.greedy:
        return True, sampling.repetition_penalty, sampling.min_tokens
    return (
        False,
        sampling.repetition_penalty,
        sampling.min_tokens,
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
    )
