"""A pipeline of engine nemo, and everything it renders to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from cai_operator import texts
from cai_operator.api import CAIPipeline
from cai_operator.engines import nemo
from cai_operator.engines.run import Run
from cai_operator.manifests.children import places_of
from cai_operator.plan import node_keys
from cai_operator.stages import active
from cai_operator.validation import parse_pipeline
from cai_operator.workloads import Kind, Workload

TUTORIAL: dict[str, Any] = {
    "apiVersion": "cai.dev/v1alpha1",
    "kind": "CAIPipeline",
    "metadata": {"name": "tiny", "namespace": "lab"},
    "spec": {
        "engine": "nemo",
        "models": {
            "base": {"huggingFace": {"repo": "mistralai/Mistral-7B-v0.1"}},
            "assistant": {"huggingFace": {"repo": "mistralai/Mistral-7B-Instruct-v0.1"}},
        },
        "judge": {"url": "https://judge/v1/chat/completions", "model": "m", "apiKeySecret": {"name": "s", "key": "k"}},
    },
}
LLAMA: dict[str, Any] = {"base": {"huggingFace": {"repo": "meta-llama/Llama-2-7b-hf"}}}
Rendered = dict[str, Workload]


def laid(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict) and name not in ("base", "assistant")
        result[name] = laid(result[name], value) if both else value
    return result


@pytest.fixture
def pipeline() -> Callable[..., CAIPipeline]:
    """The tutorial's pipeline, with changes laid over its spec."""
    return lambda **spec: parse_pipeline(laid(TUTORIAL, {"spec": spec}))


@pytest.fixture
def render(pipeline: Callable[..., CAIPipeline]) -> Callable[..., Rendered]:
    """Its workloads: a job by its node, servers as `NODE.server` and `ppo.critic`, the kept one as `serve`."""
    return lambda **spec: workloads(pipeline(**spec))


def workloads(pipeline: CAIPipeline) -> Rendered:
    keys, _ = node_keys(pipeline.spec, {})
    found: Rendered = {}
    for name, node in active(pipeline.spec).items():
        run = Run(pipeline, node, keys, texts.of_node(pipeline.spec, name, {}), None, places_of(pipeline))
        if node.kind == Kind.JOB:
            found[name] = nemo.job(run)
        for server in nemo.servers(run):
            role = "" if node.kind == Kind.SERVER else ".critic" if "-critic-" in server.name else ".server"
            found[name + role] = server
    return found


def reference(workload: Workload) -> list[str]:
    """NVIDIA's own command in a workload's: what stands after the last `--`."""
    command = list(workload.command)
    assert "--" in command, command
    return command[len(command) - command[::-1].index("--") :]


def settings(workload: Workload) -> list[str]:
    """The Hydra overrides of a command."""
    command = reference(workload)
    script = next(place for place, part in enumerate(command) if part.endswith(".py"))
    return command[script + 1 :]
