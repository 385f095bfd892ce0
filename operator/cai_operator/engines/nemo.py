"""Engine nemo: the tutorial's Megatron programs on NVIDIA's image, and our own for everything that is not Megatron's.

Pure rendering: what `cai render` shows, `cai validate` checks and the operator applies. What makes the critic and the
actor one unit is in their wrappers, `cai_jobs.nemo_run`.
"""

from __future__ import annotations

from typing import Any

from cai_operator.api import Spec
from cai_operator.engines import (
    nemo_data,
    nemo_models,
    nemo_parallel,
    nemo_settings,
    nemo_training,
    shared,
)
from cai_operator.engines.hf_options import stage_of
from cai_operator.engines.nemo_programs import ENVIRONMENT, MODELS, PPO_ENVIRONMENT, WRAPPER
from cai_operator.engines.nemo_servers import server_workloads
from cai_operator.engines.pods import compute, thread_environment
from cai_operator.engines.run import Run
from cai_operator.stages import EVALUATED, TRAINING_STAGES
from cai_operator.workloads import Resources, SecretReference, Workload


def parameters(spec: Spec, node: str) -> dict[str, Any]:
    """What shapes the result of a node's programs, as JSON values.

    Raises:
        EngineError: the spec asks for what this engine has not.
    """
    nemo_models.require(spec)
    nemo_data.require(spec)
    if node == "models":
        return nemo_models.parameters(spec)
    if node in TRAINING_STAGES:
        found: dict[str, Any] = {
            "settings": nemo_settings.shaping(nemo_parallel.trainer(spec, node).settings),
            "seed": spec.seed,
        }
        if node in spec.stages.exporting:
            found["exportHuggingFace"] = True
        if node == "ppo":
            found["critic"] = nemo_settings.shaping(nemo_parallel.critic(spec).settings)
        return found
    if node == "serve":
        return {"server": nemo_settings.shaping(nemo_parallel.model_server(spec, node).settings)}
    found = nemo_data.parameters(spec, node)
    if node in ("slData", "rlData") or node in EVALUATED:
        found["server"] = nemo_settings.shaping(nemo_parallel.model_server(spec, stage_of(node)).settings)
    return found


def job(run: Run) -> Workload:
    """The job of a node.

    Raises:
        EngineError: the spec asks for what this engine has not.
    """
    spec, node = run.pipeline.spec, run.node.name
    stage = spec.stages.by_name(stage_of(node))
    contract = {"artifact_dir": run.artifact(), "artifact_header": shared.header(run, parameters(spec, node))}
    command, resources, environment = _program(run, contract)
    return shared.job_workload(
        run,
        stage,
        command=command,
        environment={**environment, **thread_environment(resources)},
        secrets=_secrets(spec, node),
        resources=resources,
    )


def servers(run: Run) -> tuple[Workload, ...]:
    """The servers a node's job uses, or the kept server itself."""
    return server_workloads(run)


def _program(run: Run, contract: dict[str, Any]) -> tuple[tuple[str, ...], Resources, dict[str, str]]:
    """A node's command, what its pod asks for, and its environment."""
    spec, node = run.pipeline.spec, run.node.name
    stage = spec.stages.by_name(stage_of(node))
    if node == "models":
        gpus = stage.gpus_per_node
        if gpus is None:
            # a converter builds Megatron's layers, which takes a GPU, and without one it writes fp16 for bf16
            gpus = min(1, spec.default_gpus) if nemo_models.needs_conversion(spec) else 0
        return nemo_models.command(run, contract), compute(MODELS, stage.resources, gpus), dict(ENVIRONMENT)
    if node in TRAINING_STAGES:
        resources = compute(WRAPPER, stage.resources, nemo_parallel.trainer(spec, node).gpus)
        environment = {**ENVIRONMENT, **(PPO_ENVIRONMENT if node == "ppo" else {})}
        return nemo_training.command(run, contract), resources, environment
    program, command = nemo_data.command(run, contract)
    return command, compute(program, stage.resources, stage.gpus_per_node or 0), {}


def _secrets(spec: Spec, node: str) -> dict[str, SecretReference]:
    found = shared.secrets(spec, node, nemo_data.judge(spec))
    if node in TRAINING_STAGES:
        found |= nemo_models.tokenizer_secrets(spec)
    return found
