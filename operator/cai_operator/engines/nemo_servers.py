"""Engine nemo's servers: the model's while a job asks it, the critic and reward model while PPO runs, the kept one."""

from __future__ import annotations

from dataclasses import replace

from cai_operator import names
from cai_operator.api_base import ComputeResources
from cai_operator.engines import nemo_models, nemo_parallel, nemo_training
from cai_operator.engines.addresses import replica_names, replicas_each, server_settings
from cai_operator.engines.hf_options import stage_of
from cai_operator.engines.nemo_hydra import merged
from cai_operator.engines.nemo_models import MODEL_FILE
from cai_operator.engines.nemo_parallel import Use
from cai_operator.engines.nemo_programs import ENVIRONMENT, PPO_ENVIRONMENT, WRAPPER, reference, wrapped
from cai_operator.engines.pods import compute
from cai_operator.engines.run import Run
from cai_operator.stages import EVALUATED
from cai_operator.workloads import Kind, Probe, Workload

CRITIC_READY = "/v2/models/critic_save/ready"
"""The model that is bound last. The server as a whole may be called ready before it has any; that all three are is what
the actor's wrapper asks itself before it starts the actor."""


def server_workloads(run: Run) -> tuple[Workload, ...]:
    """The servers a node's job uses, or the kept server itself."""
    node, spec = run.node.name, run.pipeline.spec
    if node == "serve":
        stage = spec.stages.serve
        name = names.serve_name(run.pipeline.name)
        return (_model_server(run, name, stage.port, stage.resources, stage.replicas),)
    if node in ("slData", "rlData") or node in EVALUATED:
        server = server_settings(run)
        found = (
            _model_server(run, name, server.port, server.resources, replicas_each(run)) for name in replica_names(run)
        )
        # the generators spread their requests over the replicas themselves
        return tuple(replace(workload, headless=True) for workload in found)
    return (_critic(run),) if node == "ppo" else ()


def _model_server(run: Run, name: str, port: int, asked: ComputeResources, replicas: int) -> Workload:
    this = nemo_parallel.model_server(run.pipeline.spec, stage_of(run.node.name))
    artifact, below = _served(run)
    _, listens_on = run.places.address_of(name, port)
    own = {
        "gpt_model_file": run.input(artifact, below),
        "server": True,
        **nemo_training.places(this),
        "port": listens_on,
        "web_server": False,
    }
    flags = {"serve": True, "input": [run.input(artifact)]}
    command = wrapped(WRAPPER, flags, reference(this.program, merged(own, this.settings)))
    # it generates twice before it listens, and has no page that says so: an open port is the sign
    return _server(run, name, command, this, asked, Probe(listens_on), replicas)


def _served(run: Run) -> tuple[str, str]:
    """The node whose model is served, and the model's file in its artifact."""
    spec, node = run.pipeline.spec, run.node.name
    if node == "slData":
        return "models", f"{'assistant' if 'assistant' in nemo_models.sources(spec) else 'base'}/{MODEL_FILE}"
    trained = {"rlData": "sft", "evaluateBase": "models", "evaluateSlCai": "sft", "evaluateRlCai": "ppo"}
    source = run.node.inputs[0] if node == "serve" else trained[node]
    return source, f"base/{MODEL_FILE}" if source == "models" else MODEL_FILE


def _critic(run: Run) -> Workload:
    critic = run.pipeline.spec.stages.ppo.critic
    this = nemo_parallel.critic(run.pipeline.spec)
    name = run.server_name("critic")
    _, listens_on = run.places.address_of(name, critic.port)
    command = nemo_training.critic_command(run, listens_on)
    # its wrapper starts the program again for every start of the actor, and loading it may take longer than minutes
    probe = Probe(listens_on, CRITIC_READY, is_life=False)
    return _server(run, name, command, this, critic.resources, probe, 1)


def _server(
    run: Run, name: str, command: tuple[str, ...], this: Use, asked: ComputeResources, probe: Probe, replicas: int
) -> Workload:
    spec = run.pipeline.spec
    stage = spec.stages.by_name(stage_of(run.node.name))
    return Workload(
        name=name,
        kind=Kind.SERVER,
        node=run.node.name,
        key=run.key,
        command=command,
        environment={**ENVIRONMENT, **(PPO_ENVIRONMENT if run.node.name == "ppo" else {})},
        secrets=nemo_models.tokenizer_secrets(spec),
        resources=compute(WRAPPER, asked, this.gpus),
        replicas=replicas,
        nodes=this.nodes,
        image=stage.image or spec.image or "",
        retries=stage.retries,
        probe=probe,
    )
