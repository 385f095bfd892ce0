"""The hf engine's servers: models, judge and critic while a job needs them, and the one that is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cai_operator import names
from cai_operator.api import Server
from cai_operator.api_base import ComputeResources
from cai_operator.engines import hf_options, options
from cai_operator.engines.addresses import JUDGE_PORT, replica_names, replicas_each
from cai_operator.engines.hf_options import SERVER_PROGRAMS, stage_of
from cai_operator.engines.pods import compute, thread_environment
from cai_operator.engines.run import Run
from cai_operator.stages import EVALUATED
from cai_operator.workloads import Kind, Probe, Workload

READY_PATHS = {
    "serve": "/health/ready",
    "pocket_judge": "/health/ready",
    "serve_critic": "/v2/health/ready",  # of the Open Inference Protocol: all its models are ready
}


def server_workloads(run: Run) -> tuple[Workload, ...]:
    """The servers a node's job uses, or the kept server itself."""
    stages = run.pipeline.spec.stages
    node = run.node.name
    if node == "slData":
        return _model_servers(run, _assistant(run), stages.sl_data.server)
    if node == "rlData":
        return (*_model_servers(run, run.input("sft", "model"), stages.rl_data.server), *_judges(run))
    if node in EVALUATED:
        return (*_model_servers(run, _evaluated(run), stages.evaluate.server), *_judges(run))
    if node == "ppo":
        return (_critic(run),)
    if node == "serve":
        return (_kept(run),)
    return ()


def _model_servers(run: Run, model: str, server: Server) -> tuple[Workload, ...]:
    gpus = run.pipeline.spec.default_gpus if server.gpus is None else server.gpus
    values = {"model": model, **options.typed("serve", server.overrides)}
    found = (
        _server(run, "serve", name, server.port, values, server.resources, gpus, replicas_each(run))
        for name in replica_names(run)
    )
    # also where it is one replica now: a Service cannot be made headless later
    return tuple(replace(workload, headless=True) for workload in found)


def _judges(run: Run) -> tuple[Workload, ...]:
    spec = run.pipeline.spec
    judge = spec.judge_or_default
    if run.node.name in EVALUATED and hf_options.classifier(spec) != "judge":
        return ()
    name = run.server_name("judge")
    if judge.pocket is not None:
        return (_server(run, "pocket_judge", name, JUDGE_PORT, {}, ComputeResources(), 0),)
    if judge.self_ and run.node.name in EVALUATED:
        # one judge for all three models, or their rates could not be compared: the assistant
        server = spec.stages.evaluate.server
        gpus = spec.default_gpus if server.gpus is None else server.gpus
        values = {"model": _assistant(run), "served_model_name": hf_options.SELF_JUDGE_MODEL}
        return (_server(run, "serve", name, JUDGE_PORT, values, server.resources, gpus),)
    return ()


def _critic(run: Run) -> Workload:
    stage = run.pipeline.spec.stages.ppo
    critic = stage.critic
    gpus = critic.gpus_per_node if critic.gpus_per_node is not None else stage.gpus_per_node
    values = {
        "seed": run.pipeline.spec.seed,
        "reward_model": run.input("rewardModel", "model"),
        # beside the actor's checkpoints, so that both are found again together and go when the model is published
        "checkpoint_dir": f"{run.artifact()}.partial/checkpoints/critic",
        **options.typed("serve_critic", critic.overrides),
    }
    return _server(
        run,
        SERVER_PROGRAMS["critic"],
        run.server_name("critic"),
        critic.port,
        values,
        critic.resources,
        run.pipeline.spec.default_gpus if gpus is None else gpus,
    )


def _kept(run: Run) -> Workload:
    spec = run.pipeline.spec
    stage = spec.stages.serve
    last = run.node.inputs[0]
    model = run.input("models", "base") if last == "models" else run.input(last, "model")
    gpus = spec.default_gpus if stage.gpus_per_node is None else stage.gpus_per_node
    values = {"model": model, "served_model_name": run.pipeline.name, **options.typed("serve", stage.overrides)}
    name = names.serve_name(run.pipeline.name)
    return _server(run, "serve", name, stage.port, values, stage.resources, gpus, stage.replicas)


def _server(
    run: Run,
    program: str,
    name: str,
    port: int,
    values: dict[str, Any],
    asked: ComputeResources,
    gpus: int,
    replicas: int = 1,
) -> Workload:
    stage = run.pipeline.spec.stages.by_name(stage_of(run.node.name))
    resources = compute(program, asked, gpus)
    _, listens_on = run.places.address_of(name, port)
    addressed = {**values, "host": run.places.bind, "port": listens_on}
    return Workload(
        name=name,
        kind=Kind.SERVER,
        node=run.node.name,
        key=run.key,
        command=("python", "-m", f"cai_jobs.{program}", *options.flags(program, addressed)),
        environment=thread_environment(resources),
        resources=resources,
        replicas=replicas,
        image=stage.image or run.pipeline.spec.image or "",
        retries=stage.retries,
        probe=Probe(listens_on, READY_PATHS[program]),
    )


def _assistant(run: Run) -> str:
    spec = run.pipeline.spec
    return run.input("models", "base" if spec.assistant == spec.models.base else "assistant")


def _evaluated(run: Run) -> str:
    if run.node.name == "evaluateBase":
        return run.input("models", "base")
    return run.input("sft" if run.node.name == "evaluateSlCai" else "ppo", "model")
