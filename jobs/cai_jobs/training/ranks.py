"""One process or several (torchrun, accelerate launch): rank 0 holds the artifact and publishes, the others follow."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from cai_jobs.contract import artifacts
from cai_jobs.training.startup import heavy_imports
from cai_jobs.training.stores import allow_torch_without_libuv

Value = TypeVar("Value")


def world_size() -> int:
    """Processes training together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes what is shared."""
    return os.environ.get("RANK", "0") == "0"


def publish_from_main(
    args: argparse.Namespace, scratch: Sequence[str], work: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Any]:
    """Open the artifact, do `work` in it on every rank, publish; every rank returns the last word.

    Args:
        args: with artifact_dir, artifact_header, output_dir and device. All ranks must see the same file system.
        scratch: names removed before publishing.
        work: called with the directory to write into unless the artifact is whole; gives its metrics.

    Raises:
        InputError, RetryableError: as `contract.artifacts.open_artifact`.
    """
    if world_size() > 1:
        _start_process_group(args.device)
    with ExitStack() as stack:
        artifact = None
        if is_main():
            opened = artifacts.open_artifact(args.artifact_dir, args.artifact_header, args.output_dir, scratch)
            artifact = stack.enter_context(opened)
        path = share(artifact.path if artifact else None)
        if path is None:
            return share(artifacts.last_word(artifacts.read(args.artifact_dir) or {}) if is_main() else {})
        metrics = work(path)
        barrier()
        last_word = {}
        if artifact is not None:
            artifact.metrics.update(metrics)
            last_word = artifact.publish()
        return share(last_word)


def share(value: Value) -> Value:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    import torch.distributed

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def _start_process_group(device: str) -> None:
    with heavy_imports():
        from accelerate import PartialState

        from cai_jobs.training.devices import resolve_device

        allow_torch_without_libuv()

    # the same state that the trainer finds later: it must be made with the trainer's backend
    if resolve_device(device) == "cpu":
        PartialState(cpu=True, backend="gloo")
    else:
        PartialState()
