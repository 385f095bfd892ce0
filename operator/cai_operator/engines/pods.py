"""What a pod gets, from what the spec says about it."""

from __future__ import annotations

import re

from cai_operator.api_base import ComputeResources
from cai_operator.workloads import Resources

LIGHT_PROGRAMS = frozenset(
    {"fetch_datasets", "generate_sl_cai_dataset", "generate_rl_cai_dataset", "evaluate", "report", "pocket_judge"}
)
"""They wait for servers or the network most of their time, and have no model of their own."""

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def compute(program: str, asked: ComputeResources, gpus: int) -> Resources:
    """The resources of a program's pod: what was asked, else what a program of this size wants."""
    cpu, memory = ("8", "64Gi") if gpus else ("250m" if program in LIGHT_PROGRAMS else "1", "2Gi")
    return Resources(cpu=asked.cpu or cpu, memory=asked.memory or memory, gpus=gpus)


def thread_environment(resources: Resources) -> dict[str, str]:
    """Threads of a program without GPU: as many as it has cores, waiting passively (spinning ones cost four fifths)."""
    if resources.gpus:
        return {}
    return {"OMP_NUM_THREADS": str(whole_cores(resources.cpu)), "OMP_WAIT_POLICY": "passive"}


def whole_cores(cpu: str) -> int:
    """Whole cores of a CPU quantity ("2", "1.5", "500m"), at least 1."""
    cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return max(1, int(cores))


def seconds(duration: str | None) -> int | None:
    """Seconds of a duration such as 1d12h or 90m; None stays None."""
    if duration is None:
        return None
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([dhms])", duration))
