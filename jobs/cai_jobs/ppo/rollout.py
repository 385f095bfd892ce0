"""Rollouts: prompts in, sampled answers out, with the log-probabilities of policy and reference."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import read_jsonl
from cai_jobs.ppo import maths
from cai_jobs.ppo.device import Device


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; the flags of `ppo_actor` explain each. `greedy` overrides the rest."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    end_string: str
    greedy: bool = False


@dataclass
class Rollouts:
    """B texts of at most L tokens, on the CPU. Places are as in `maths`: L - 1 of them.

    Attributes:
        index: int64 [B], the prompt's position in the prompts kept.
        tokens: int64 [B, L], prompt and answer, padded on the right with 0.
        lengths: int64 [B], tokens of prompt and answer together.
        mask: bool [B, L - 1], True where the next token belongs to the answer.
        ended: bool [B], True where the answer ended by itself.
        log_probs, reference, values: float32 [B, L - 1], 0 outside the mask.
        divergence: float32 [B, L - 1], KL of the policy's to the reference's next-token distribution, 0 outside the
        mask. scores: float32 [B], the reward model's.
    """

    index: Tensor
    tokens: Tensor
    lengths: Tensor
    mask: Tensor
    ended: Tensor
    log_probs: Tensor
    reference: Tensor
    divergence: Tensor
    values: Tensor
    scores: Tensor


def read_prompts(path: Path, tokenizer: Any, longest: int) -> tuple[list[list[int]], int]:
    """Token ids of the prompts of a JSONL file (`{"text": ...}`) of at most `longest` tokens, and how many were longer.

    Raises:
        InputError: no file, no row, a row without text, or no prompt short enough; the sentence has file and line.
    """
    prompts: list[list[int]] = []
    too_long = 0
    for number, row in read_jsonl(path):
        text = row.get("text")
        if not isinstance(text, str) or not text:
            raise InputError(f'{path}:{number}: a prompt row is {{"text": "..."}}, this one has no text')
        # as sft and reward_model read texts: exactly their tokens
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if len(ids) > longest:
            too_long += 1
        elif ids:
            prompts.append(ids)
    if not prompts:
        raise InputError(
            f"{path}: none of the {too_long} prompts fits {longest} tokens, half of --max-length; raise it"
        )
    return prompts, too_long


def end_tokens(tokenizer: Any, end_string: str) -> list[int]:
    """Token ids that end an answer: the tokenizer's EOS, and the end string where it is a token of its own."""
    ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    # only added tokens: an ordinary one may be cut otherwise inside a text
    own = tokenizer.get_added_vocab().get(end_string)
    return ids if own is None or own in ids else [*ids, int(own)]


@torch.no_grad()
def generate(
    policy: Any, tokenizer: Any, prompts: list[list[int]], sampling: Sampling, seed: int, device: Device
) -> list[tuple[list[int], bool]]:
    """One answer to each prompt as token ids, its end included, and whether it ended by itself. One batch.

    The tokens after the end string or EOS are cut. Equal seeds and prompts give equal answers on one machine.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    torch.manual_seed(seed)
    ends = end_tokens(tokenizer, sampling.end_string)
    in_pieces = bool(sampling.end_string) and sampling.end_string not in tokenizer.get_added_vocab()
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends[0] if ends else 0)
    width = max(map(len, prompts))
    inputs = torch.full((len(prompts), width), padding)
    attention = torch.zeros_like(inputs)
    for row, prompt in enumerate(prompts):
        inputs[row, width - len(prompt) :] = torch.tensor(prompt)
        attention[row, width - len(prompt) :] = 1
    drawn: dict[str, Any] = {"do_sample": False}
    if not sampling.greedy:
        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
        }
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=padding,
        eos_token_id=ends or None,
        use_cache=True,
        **drawn,
    )
    with device.autocast():
        output = policy.generate(
            inputs.to(device.device),
            attention_mask=attention.to(device.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([_EndString(tokenizer, sampling.end_string, width)] * in_pieces),
        )
    return [cut_answer(row, tokenizer, ends, sampling.end_string) for row in output[:, width:].tolist()]


class _EndString:
    """Ends a row whose answer holds the end string, where that takes several tokens.

    transformers' own `stop_strings` misses strings that a tokenizer splits into byte tokens.
    """

    def __init__(self, tokenizer: Any, end_string: str, prompt_width: int) -> None:
        self._tokenizer, self._end_string, self._prompt_width = tokenizer, end_string, prompt_width
        # a token adds at least a byte, unless it is a special one, and those end the row anyway
        self._window = len(end_string.encode()) + 4

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        tails = input_ids[:, self._prompt_width :][:, -self._window :].tolist()
        found = [self._end_string in text for text in self._tokenizer.batch_decode(tails)]
        return torch.tensor(found, device=input_ids.device)


def cut_answer(tokens: list[int], tokenizer: Any, ends: list[int], end_string: str) -> tuple[list[int], bool]:
    """`tokens` up to and with the first end token, or the token that completes `end_string`; and whether there is
    one.
    """
    for position, token in enumerate(tokens):
        if token in ends:
            return tokens[: position + 1], True
    if end_string and end_string in tokenizer.decode(tokens):
        for position in range(1, len(tokens) + 1):
            if end_string in tokenizer.decode(tokens[:position]):
                return tokens[:position], True
    return tokens, False


@torch.no_grad()
def measure(
    policy: Any, reference: Any, texts: list[tuple[int, list[int], list[int], bool]], temperature: float, device: Device
) -> Rollouts:
    """Rollouts of (index, prompt, answer, ended) texts: one batch, `values` and `scores` still 0.

    Args:
        temperature: of the distributions whose log-probabilities are wanted.
    """
    lengths = torch.tensor([len(prompt) + len(answer) for _, prompt, answer, _ in texts])
    tokens = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    mask = torch.zeros(len(texts), tokens.shape[1] - 1, dtype=torch.bool)
    for row, (_, prompt, answer, _) in enumerate(texts):
        tokens[row, : int(lengths[row])] = torch.tensor(prompt + answer)
        mask[row, len(prompt) - 1 : int(lengths[row]) - 1] = True
    inputs = tokens.to(device.device)
    logits, reference_logits = (answer_logits(model, inputs, lengths, device) for model in (policy, reference))
    first, second, divergence = (torch.zeros(mask.shape) for _ in range(3))
    # row by row: three float32 copies of a batch's logits would be the peak of the program's memory
    for row in range(len(texts)):
        part = slice(row, row + 1)
        first[part] = maths.chosen_log_probs(logits[part], inputs[part], temperature).cpu() * mask[part]
        second[part] = maths.chosen_log_probs(reference_logits[part], inputs[part], temperature).cpu() * mask[part]
        divergence[part] = maths.divergence(logits[part], reference_logits[part], temperature).cpu() * mask[part]
    return Rollouts(
        index=torch.tensor([index for index, *_ in texts]),
        tokens=tokens,
        lengths=lengths,
        mask=mask,
        ended=torch.tensor([ended for *_, ended in texts]),
        log_probs=first,
        reference=second,
        divergence=divergence,
        values=torch.zeros(mask.shape),
        scores=torch.zeros(len(texts)),
    )


def answer_logits(model: Any, tokens: Tensor, lengths: Tensor, device: Device) -> Tensor:
    """Logits [B, L, V] of `tokens` int64 [B, L] padded on the right after `lengths` [B]."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    attention = (places < lengths.to(tokens.device)[:, None]).long()
    with device.autocast():
        logits: Tensor = model(input_ids=tokens, attention_mask=attention, use_cache=False).logits
    return logits


def join(parts: list[Rollouts]) -> Rollouts:
    """All rollouts of `parts` in one, padded on the right to the longest, in the order given."""
    longest = max(part.tokens.shape[1] for part in parts)

    def padded(name: str) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        if tensors[0].dim() == 1:
            return torch.cat(tensors)
        width = longest if name == "tokens" else longest - 1
        return torch.cat([torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])

    return Rollouts(**{field.name: padded(field.name) for field in fields(Rollouts)})


def add_critic_answer(rollouts: Rollouts, values: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> Rollouts:
    """`rollouts` with the critic's values float32 [B, L - 1] and the rewards float32 [B] filled in."""
    rollouts.values = torch.from_numpy(np.ascontiguousarray(values)) * rollouts.mask
    rollouts.scores = torch.from_numpy(np.ascontiguousarray(scores)).float()
    return rollouts
