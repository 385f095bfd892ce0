"""The stage graph as data: what there is, what each node reads, and what of it a pipeline uses.

A node is one job with the servers it needs, or the kept server. A stage is what the spec sets and the status lists; all
are one node, but `evaluate`, which has one for each model. The same for both engines and both executors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cai_operator.api import Spec
from cai_operator.workloads import Kind


@dataclass(frozen=True)
class Node:
    """One node of the graph.

    Attributes:
        name: unique; jobs publish `<pipeline>/<name>/<key>`.
        stage: the stage whose settings it has.
        inputs: nodes whose artifacts it reads.
        first_of: of these it reads the first there is: the last model trained.
        reads_all: it reads every other job's artifact.
        rank: who goes first when not everything may run at once, low before high.
        kind: a job, or a server that is kept.
    """

    name: str
    stage: str
    inputs: tuple[str, ...] = ()
    first_of: tuple[str, ...] = ()
    reads_all: bool = False
    rank: int = 0
    kind: Kind = Kind.JOB


NODES: tuple[Node, ...] = (
    Node("models", "models"),
    Node("datasets", "datasets"),
    Node("slData", "slData", ("models", "datasets")),
    Node("sft", "sft", ("models", "slData")),
    Node("rlData", "rlData", ("sft", "datasets")),
    Node("rewardModel", "rewardModel", ("sft", "rlData")),
    Node("ppo", "ppo", ("sft", "rlData", "rewardModel")),
    Node("evaluateBase", "evaluate", ("models", "datasets"), rank=1),
    Node("evaluateSlCai", "evaluate", ("sft", "datasets", "evaluateBase"), rank=1),
    Node("evaluateRlCai", "evaluate", ("ppo", "datasets", "evaluateBase"), rank=1),
    Node("serve", "serve", first_of=("ppo", "sft", "models"), kind=Kind.SERVER),
    Node("report", "report", reads_all=True, rank=2),
)

STAGES: tuple[str, ...] = tuple(dict.fromkeys(node.stage for node in NODES))

STAGE_NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "slData": ("models", "datasets"),
        "sft": ("models", "slData"),
        "rlData": ("sft", "datasets"),
        "rewardModel": ("sft", "rlData"),
        "ppo": ("sft", "rlData", "rewardModel"),
        "evaluate": ("models", "datasets"),
        "serve": ("models",),
    }
)
"""Stages without which a stage cannot run at all."""

EXPORTING_STAGES: tuple[str, ...] = ("sft", "ppo")
"""Stages that train a language model, which may be published in another format too."""

TRAINING_STAGES = frozenset({"sft", "rewardModel", "ppo"})
"""Stages whose program may run on several machines, and uses GPUs itself."""

EVALUATED: Mapping[str, str] = MappingProxyType(
    {"evaluateBase": "base", "evaluateSlCai": "slCai", "evaluateRlCai": "rlCai"}
)
"""Evaluation nodes and the names their models have in metrics."""


def active(spec: Spec) -> dict[str, Node]:
    """The nodes this pipeline uses, in an order in which every node follows what it reads, `inputs` being settled.

    A stage that is off takes its nodes with it, and the evaluation of a model that is not trained.
    """
    nodes: dict[str, Node] = {}
    for node in NODES:
        if not spec.stages.by_name(node.stage).enabled:
            continue
        if any(name not in nodes for name in node.inputs):
            continue
        inputs = node.inputs
        if node.first_of:
            inputs = tuple(name for name in node.first_of if name in nodes)[:1]
        if node.name == "ppo" and "ppo" in spec.stages.exporting:
            # its model's configuration and tokenizer are the base model's
            inputs = (*inputs, "models")
        if node.reads_all:
            inputs = tuple(name for name, other in nodes.items() if other.kind == Kind.JOB)
        nodes[node.name] = Node(node.name, node.stage, inputs, rank=node.rank, kind=node.kind)
    return nodes


def last_evaluation(nodes: Mapping[str, Node]) -> str | None:
    """The node that evaluates the last model trained, None where nothing is evaluated."""
    return next((name for name in ("evaluateRlCai", "evaluateSlCai", "evaluateBase") if name in nodes), None)
