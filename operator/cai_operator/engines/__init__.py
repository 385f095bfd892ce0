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
    """The engine a spec names, to show what it would do."""
    if spec.engine == "hf":
        from cai_operator.engines import hf

        return hf
    from cai_operator.engines import nemo

    return nemo


def executable_engine_of(spec: Spec) -> Engine:
    """The engine a spec names, for its work to be done.

    Raises:
        EngineError: it can be shown, but not run.
    """
    if spec.engine == "nemo":
        from cai_operator.engines import nemo

        nemo.refuse()
    return engine_of(spec)
