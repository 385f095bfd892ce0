"""The hf engine: this product's own programs, on Hugging Face libraries, as jobs and servers."""

from __future__ import annotations

from typing import Any

from cai_operator.api import Spec, Stage
from cai_operator.engines import hf_options, options, shared
from cai_operator.engines.addresses import server_address
from cai_operator.engines.hf_options import PROGRAMS, stage_of
from cai_operator.engines.hf_servers import server_workloads
from cai_operator.engines.pods import compute, thread_environment
from cai_operator.engines.run import Run
from cai_operator.stages import EVALUATED, TRAINING_STAGES
from cai_operator.workloads import Workload


def parameters(spec: Spec, node: str) -> dict[str, Any]:
    """What shapes the result of a node's programs, as JSON values."""
    stages = spec.stages
    found: dict[str, Any] = {"options": hf_options.node_options(spec, node)}
    if node == "models":
        found["base"] = spec.models.base.given()
        if spec.assistant != spec.models.base:
            found["assistant"] = spec.assistant.given()
    if node == "datasets":
        for name in ("redTeam", "helpfulness", "preference"):
            found[name] = hf_options.dataset_source(name, spec.dataset(name))
    if node in ("slData", "rlData") or node in EVALUATED:
        server = {"slData": stages.sl_data.server, "rlData": stages.rl_data.server}.get(node, stages.evaluate.server)
        found["server"] = hf_options.without_runtime(options.typed("serve", server.overrides))
    if node == "ppo":
        found["critic"] = hf_options.without_runtime(options.typed("serve_critic", stages.ppo.critic.overrides))
    if node == "rlData" or (node in EVALUATED and hf_options.classifier(spec) == "judge"):
        found["judge"] = hf_options.judge_identity(spec.judge_or_default, compares=node == "rlData")
    return found


def job(run: Run) -> Workload:
    """The job of a node."""
    spec = run.pipeline.spec
    stage_name = stage_of(run.node.name)
    stage = spec.stages.by_name(stage_name)
    program = PROGRAMS[stage_name]
    values = {
        **hf_options.node_options(spec, run.node.name),
        **hf_options.runtime_overrides(program, stage.overrides),
        **_paths_and_addresses(run),
        "artifact_dir": run.artifact(),
        "artifact_header": shared.header(run, parameters(spec, run.node.name)),
    }
    if isinstance(values.get("splits"), dict):
        values["splits"] = str(values["splits"])
    resources = compute(program, stage.resources, _gpus(spec, stage_name, stage))
    return shared.job_workload(
        run,
        stage,
        command=(*_launcher(program, stage.nodes, resources.gpus), *options.flags(program, values)),
        environment=thread_environment(resources),
        secrets=shared.secrets(spec, run.node.name, spec.judge_or_default),
        resources=resources,
    )


def servers(run: Run) -> tuple[Workload, ...]:
    """The servers a node's job uses, or the kept server itself."""
    return server_workloads(run)


def _launcher(program: str, nodes: int, gpus: int) -> tuple[str, ...]:
    if nodes * max(gpus, 1) == 1:
        return ("python", "-m", f"cai_jobs.{program}")
    # a node's rank and the master's address come from its environment: PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT
    launch = ("python", "-m", "cai_jobs.launch", f"--nodes={nodes}", f"--processes={max(gpus, 1)}")
    return (*launch, "-m", f"cai_jobs.{program}")


def _paths_and_addresses(run: Run) -> dict[str, Any]:
    spec, node = run.pipeline.spec, run.node.name
    if node == "models":
        different = spec.assistant != spec.models.base
        return {
            "base": shared.model_source(run, spec.models.base),
            "assistant": shared.model_source(run, spec.assistant) if different else None,
        }
    if node == "datasets":
        return shared.dataset_flags(run)
    if node == "slData":
        return shared.sl_data_flags(run, _tokenizer(run, spec.stages.sl_data.max_seq_length))
    if node == "rlData":
        return shared.rl_data_flags(run, _tokenizer(run, spec.stages.rl_data.max_seq_length), _rl_judge(run))
    if node == "sft":
        return {
            "model": run.input("models", "base"),
            "train_file": run.input("slData", shared.SL_TRAIN),
            "validation_file": run.input("slData", shared.SL_VALIDATION),
        }
    if node == "rewardModel":
        return {
            "model": run.input("sft", "model"),
            "train_comparisons": shared.preferences(run, "train", "comparisons"),
            "validation_comparisons": shared.preferences(run, "test", "comparisons"),
        }
    if node == "ppo":
        host, port = server_address(run, "critic")
        return {
            "model": run.input("sft", "model"),
            "train_prompts": shared.preferences(run, "train", "prompts"),
            "validation_prompts": shared.preferences(run, "test", "prompts"),
            "critic_host": host,
            "critic_port": port,
        }
    if node in EVALUATED:
        return {**shared.evaluation_flags(run), **_evaluation_judge(run)}
    return shared.report_flags(run)


def _tokenizer(run: Run, max_seq_length: int | None) -> dict[str, Any]:
    if max_seq_length is None:
        return {}
    return {"tokenizer_model": run.input("models", "base"), "tokenizer_library": "huggingface"}


def _rl_judge(run: Run) -> dict[str, Any]:
    judge = run.pipeline.spec.judge_or_default
    if judge.self_:
        return {"judge": "self"}
    if judge.pocket is not None:
        host, port = server_address(run, "judge")
        return {"ngc_url": f"http://{host}:{port}/v1/chat/completions", "ngc_model": hf_options.POCKET_JUDGE_MODEL}
    return shared.comparing_judge(judge)


def _evaluation_judge(run: Run) -> dict[str, Any]:
    if hf_options.classifier(run.pipeline.spec) != "judge":
        return {}
    judge = run.pipeline.spec.judge_or_default
    if judge.pocket is not None or judge.self_:
        host, port = server_address(run, "judge")
        name = hf_options.POCKET_JUDGE_MODEL if judge.pocket is not None else hf_options.SELF_JUDGE_MODEL
        return {"judge_url": f"http://{host}:{port}/v1/chat/completions", "judge_model": name}
    return shared.labelling_judge(judge)


def _gpus(spec: Spec, stage_name: str, stage: Stage) -> int:
    if stage.gpus_per_node is not None:
        return stage.gpus_per_node
    return spec.default_gpus if stage_name in TRAINING_STAGES else 0
