"""Which device and which precision, and what to say when either is not there."""

from __future__ import annotations

import torch

from cai_jobs.contract.program import InputError


def resolve_device(device: str) -> str:
    """ "cpu" or "cuda" for the flag's auto, cpu or cuda.

    Raises:
        InputError: cuda is asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda: torch sees no CUDA device here; take --device cpu, or give the process a GPU")
    if device == "auto":
        return "cuda" if available else "cpu"
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """ "float32" or "bfloat16" for the flag's auto, float32 or bfloat16 on "cpu" or "cuda"."""
    if dtype == "auto":
        return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return dtype
