"""Full disks and full GPUs, whatever the library called them."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from cai_jobs.contract.program import RetryableError

NEARLY_FULL_BYTES = 1 << 20


@contextmanager
def library_errors_named(directory: Path) -> Iterator[None]:
    """Turn what safetensors, torch.save and CUDA raise for want of space into errors with a sentence.

    Args:
        directory: where the block writes.

    Raises:
        OSError: ENOSPC with `directory`, for a full disk (the program contract words it).
        RetryableError: the GPU's memory is too small.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as problem:
        raise RetryableError(
            "the GPU's memory is full; lower --micro-batch-size or --max-seq-length, "
            "or take --gradient-checkpointing on"
        ) from problem
    except (SafetensorError, RuntimeError) as problem:
        if not _is_full_disk(problem, directory):
            raise
        raise OSError(errno.ENOSPC, "no space left on device", str(directory)) from problem


def _is_full_disk(problem: Exception, directory: Path) -> bool:
    text = str(problem)
    if "No space left on device" in text or "os error 28" in text:
        return True
    # torch.save only says that its stream writer failed, and a failed write may have left a little room
    writer_failed = "PytorchStreamWriter" in text or "unexpected pos" in text or "iostream" in text
    return writer_failed and shutil.disk_usage(directory).free < NEARLY_FULL_BYTES
