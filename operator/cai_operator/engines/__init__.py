"""Engines: which programs do a stage's work, with which flags. Both know the same nodes and give the same artifacts."""

from __future__ import annotations

from typing import Any, Protocol

from cai_operator.api import Spec
from cai_operator.engines.run import Run
from cai_operator.workloads import Workload


class EngineError(Exception):
    """The engine cannot do what the spec asks; the message is a sentence for its author."""


class Engine(Protocol):
    """What the plan asks of an engine; its modules are that."""

    def parameters(self, spec: Spec, node: str) -> dict[str, Any]:
        """What shapes the result of a node's programs, as JSON values: in its key, and in its flags."""

    def job(self, run: Run) -> Workload:
        """The job of a node."""

    def servers(self, run: Run) -> tuple[Workload, ...]:
        """The servers a node's job uses, or the kept server itself."""


def engine_of(spec: Spec) -> Engine:
    """The engine a spec names."""
    if spec.engine == "hf":
        from cai_operator.engines import hf

        return hf
    from cai_operator.engines import nemo

    return nemo


def require_local(spec: Spec) -> None:
    """Check that a spec's engine can be run with processes of this machine.

    Raises:
        EngineError: it cannot.
    """
    if spec.engine == "nemo":
        raise EngineError(
            "spec.engine is nemo, whose programs are in NVIDIA's container image and want GPUs: apply it to a cluster "
            "on which the operator is installed (docs/nemo.md), look at what it would run with cai render, or set "
            "spec.engine: hf to run the same here on Hugging Face libraries"
        )
