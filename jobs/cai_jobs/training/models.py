"""Hugging Face model directories: read with a sentence for what is wrong with them, written for every pod to read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from cai_jobs.contract.artifacts import write_synced
from cai_jobs.contract.program import InputError

# safetensors makes its files 0600, unreadable for a later stage's pod under another uid
FILE_MODE = 0o644


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory, with a padding token (its EOS where it had none).

    Raises:
        InputError: no model there, its tokenizer cannot be read, or it has neither a padding nor an EOS token.
    """
    _want_model(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as problem:
        raise InputError(f"{directory}: its tokenizer cannot be read ({_first_line(problem)})") from problem
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{directory}: the tokenizer names neither a pad_token nor an eos_token; add one of them")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_model(directory: Path) -> Any:
    """The causal language model of a directory, in float32.

    Raises:
        InputError: no model there, or transformers cannot read it.
    """
    return _load(AutoModelForCausalLM, directory)


def load_scoring_model(directory: Path, pad_token_id: int, seed: int) -> Any:
    """A model with one score a text, read at its last token, in float32: the body of the model in `directory`.

    The score's weights are new (drawn with `seed`) unless the directory holds a scoring model already.

    Raises:
        InputError: no model there, or transformers cannot read it.
    """
    torch.manual_seed(seed)
    model = _load(AutoModelForSequenceClassification, directory, num_labels=1)
    model.config.get_text_config().pad_token_id = pad_token_id
    model.config.pad_token_id = pad_token_id
    return model


def save_model(model: Any, state: dict[str, torch.Tensor], tokenizer: Any, directory: Path, dtype: str) -> None:
    """Write a model directory: config, safetensors in `dtype`, tokenizer with its chat template if it has one.

    Args:
        model: the unwrapped model, for its class and config.
        state: its whole state dict (gathered, if the weights are sharded), tensors of any shape.
        dtype: "float32" or "bfloat16" for the floating point tensors.
    """
    if directory.exists():
        shutil.rmtree(directory)
    model.save_pretrained(directory, state_dict=_cast(state, getattr(torch, dtype)))
    tokenizer.save_pretrained(directory)
    config_path = directory / "config.json"
    write_synced(config_path, json.dumps(json.loads(config_path.read_text()) | {"dtype": dtype}, indent=2) + "\n")
    for path in directory.iterdir():
        path.chmod(FILE_MODE)


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    # tied weights share storage and must go on doing so, else they are written twice
    cast: dict[tuple[int, torch.Size], torch.Tensor] = {}
    result = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in cast:
            cast[place] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        result[name] = cast[place]
    return result


def _load(kind: Any, directory: Path, **options: Any) -> Any:
    _want_model(directory)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        return kind.from_pretrained(directory, dtype=torch.float32, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        raise InputError(f"{directory}: the model cannot be read ({_first_line(problem)})") from problem


def _want_model(directory: Path) -> None:
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; a Hugging Face model directory is wanted")
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory}: no config.json in it; a Hugging Face model directory is wanted")


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
