"""Where tensors live and in which precision they are computed; the few collective operations of the actor."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cai_jobs.contract.program import InputError


@dataclass(frozen=True)
class Device:
    """A device, the precision of forward passes (weights stay float32), and this process's place among its peers."""

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world: int = 1

    def autocast(self) -> AbstractContextManager[Any]:
        """The context forward passes run in: autocast to `dtype`, nothing for float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def everyone(self, value: Any) -> list[Any]:
        """`value` of every process, by rank. Small Python objects and CPU tensors."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered

    def from_first(self, value: Any) -> Any:
        """The value rank 0 passes."""
        if self.world == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes; missing ones count as 0."""
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world > 1:
            numbers = numbers.to(self.device)
            dist.all_reduce(numbers)
        return numbers


def pick_device(device: str, dtype: str) -> Device:
    """The device for --device and --dtype, as one of torchrun's processes where torchrun started this one.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 on a GPU, float32 on the CPU), "float32" or "bfloat16".

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: no GPU is visible here; use --device cpu or auto")
    kind = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = torch.device(kind)
    wanted = ("bfloat16" if place.type == "cuda" else "float32") if dtype == "auto" else dtype
    precision = torch.bfloat16 if wanted == "bfloat16" else torch.float32
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Device(place, precision)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return Device(place, precision, dist.get_rank(), dist.get_world_size())
