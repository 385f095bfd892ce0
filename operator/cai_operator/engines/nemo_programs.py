"""The command lines of engine nemo: NVIDIA's programs in our wrapper, and our own programs in NVIDIA's image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cai_operator.engines import options
from cai_operator.engines.nemo_hydra import Settings, arguments
from cai_operator.engines.nemo_settings import Program

IMAGE_PYTHON = "python"
"""Python of NVIDIA's image, with its torch, NeMo and Megatron: 3.10 in 24.09."""

OWN_PYTHON = "/opt/cai/bin/python"
"""Python of our programs in that image: they want 3.11, and nothing of NVIDIA's environment is replaced for them."""

WRAPPER = "nemo_run"
MODELS = "nemo_models"

ENVIRONMENT: Mapping[str, str] = {
    # a mistake in a setting is told whole, not as "set HYDRA_FULL_ERROR=1"
    "HYDRA_FULL_ERROR": "1",
    # the tutorial starts programs from a checkout of NeMo-Aligner; by their full paths they find its modules here
    "PYTHONPATH": "/opt/NeMo-Aligner",
}
PPO_ENVIRONMENT: Mapping[str, str] = {
    # NCCL's other algorithms may sum in another order from one call to the next
    "NCCL_ALGO": "Tree",
}


def reference(program: Program, settings: Settings, nodes: int = 1, gpus: int = 1) -> tuple[str, ...]:
    """The command of one of NVIDIA's programs, as a person would give it in the image.

    On one machine Lightning starts a process for each GPU itself. On several it takes torchrun for granted, which has
    this machine's rank and the first one's address from its environment: PET_NODE_RANK, PET_MASTER_ADDR,
    PET_MASTER_PORT. A shell, which would put them into the command, is nowhere between.
    """
    if nodes == 1:
        launcher: tuple[str, ...] = (IMAGE_PYTHON,)
    else:
        launcher = ("torchrun", f"--nnodes={nodes}", f"--nproc-per-node={gpus}")
    return (*launcher, program.script, *arguments(settings))


def wrapped(wrapper: str, flags: Mapping[str, Any], *commands: Sequence[str]) -> tuple[str, ...]:
    """A wrapper's command with the commands it runs, each whole after a `--` of its own."""
    head = own(wrapper, flags)
    return (*head, *(part for command in commands for part in ("--", *command)))


def own(program: str, flags: Mapping[str, Any]) -> tuple[str, ...]:
    """The command of one of our programs, with flags by canonical name; None is left out."""
    return (OWN_PYTHON, "-m", f"cai_jobs.{program}", *options.flags(program, flags))
