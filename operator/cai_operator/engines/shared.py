"""What the jobs of both engines have in common: data sets, generators, evaluation and report are the same programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cai_operator.api import Spec, Stage
from cai_operator.api_base import DatasetSource, Judge, ModelSource, SecretKey
from cai_operator.engines import hf_options
from cai_operator.engines.addresses import model_server_address
from cai_operator.engines.pods import seconds
from cai_operator.engines.run import Run
from cai_operator.stages import EVALUATED
from cai_operator.texts import COMPARISON_PRINCIPLES, DATASET_FILES, FEW_SHOTS, INSTRUCTIONS, JUDGE_PROMPT, judge_text
from cai_operator.workloads import Kind, Resources, SecretReference, Workload

API_KEY_VARIABLE = "NGC_API_KEY"
PANEL_KEY_VARIABLE = "JUDGE_API_KEY_"
"""With the judge's place in the panel behind it, counted from 1."""
HUB_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the variable's name
RLAIF_PREFIX = "cai_rlaif"
BLEND_NAME = "preference"
SL_TRAIN, SL_VALIDATION = "sl_cai_train.jsonl", "sl_cai_validation.jsonl"


def header(run: Run, parameters: Mapping[str, Any]) -> str:
    """The head of the manifest of what a node's job publishes, as its flag has it."""
    fields = {
        "stage": run.node.name,
        "key": run.key,
        "parameters": parameters,
        "inputs": {name: run.keys[name] for name in run.node.inputs},
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def job_workload(
    run: Run,
    stage: Stage,
    command: tuple[str, ...],
    environment: Mapping[str, str],
    secrets: Mapping[str, SecretReference],
    resources: Resources,
) -> Workload:
    """The job of a node: what its engine says it runs, and what its stage says of every job."""
    return Workload(
        name=run.job_name,
        kind=Kind.JOB,
        node=run.node.name,
        key=run.key,
        command=command,
        environment=environment,
        secrets=secrets,
        texts=run.laid_texts(),
        resources=resources,
        nodes=stage.nodes,
        image=stage.image or run.pipeline.spec.image or "",
        retries=stage.retries,
        deadline_s=seconds(stage.deadline),
        artifact=run.artifact_path(),
    )


def dataset_flags(run: Run) -> dict[str, Any]:
    """Where the data sets come from."""
    spec = run.pipeline.spec
    return {
        "red_team": _dataset_source(run, "redTeam", spec.dataset("redTeam")),
        "helpfulness": _dataset_source(run, "helpfulness", spec.dataset("helpfulness")),
        "preference": _dataset_source(run, "preference", spec.dataset("preference")),
    }


def sl_data_flags(run: Run, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Paths and addresses of the critique and revision generator; `tokenizer` says by which tokenizer it counts."""
    settings = run.pipeline.spec.stages.sl_data
    return {
        "red_teaming_prompts_dataset_path": run.input("datasets", "red_team_train.jsonl"),
        "few_shot_prompts_dataset_path": run.text(FEW_SHOTS),
        "critique_revision_instructions_path": run.text(INSTRUCTIONS),
        "helpfulness_dataset_path": run.input("datasets", "helpfulness.jsonl"),
        "output_filepath": SL_TRAIN,
        "validation_output_filepath": SL_VALIDATION,
        **tokenizer,
        "batch_size": settings.batch_size,
        "max_rejected": settings.max_rejected,
        **model_server_address(run),
    }


def rl_data_flags(run: Run, tokenizer: Mapping[str, Any], judge: Mapping[str, Any]) -> dict[str, Any]:
    """Paths and addresses of the preference generator; `tokenizer` says by which it counts, `judge` who judges."""
    settings = run.pipeline.spec.stages.rl_data
    blend: dict[str, Any] = {"name": BLEND_NAME}
    for split in ("train", "test"):
        blend[split] = {
            kind: [run.input("datasets", f"preference_{split}_{kind}_with_chat_prompt.jsonl")]
            for kind in ("prompts", "comparisons")
        }
    return {
        "red_teaming_file_path": run.input("datasets", "red_team_train.jsonl"),
        "output_filename_prefix": RLAIF_PREFIX,
        "blend_with": str(blend),
        **tokenizer,
        "batch_size": settings.batch_size,
        "max_rejected": settings.max_rejected,
        **model_server_address(run),
        "judge_concurrency": settings.judging.concurrency,
        "judge_rate": settings.judging.rate,
        **_judged_by(
            run,
            {
                JUDGE_PROMPT: "sys_prompt_constitution_file_path",
                COMPARISON_PRINCIPLES: "comparison_principles_path",
            },
        ),
        **judge,
    }


def comparing_judge(judge: Judge) -> dict[str, Any]:
    """How the preference generator asks a judge with an endpoint of its own, or a panel of them."""
    if judge.panel is None:
        return {"ngc_url": judge.url or hf_options.NGC_URL, "ngc_model": judge.model or hf_options.NGC_MODEL}
    panel = [
        {
            "url": one.url,
            "model": one.model,
            **({"key_variable": f"{PANEL_KEY_VARIABLE}{place}"} if one.api_key_secret else {}),
        }
        for place, one in enumerate(judge.panel, start=1)
    ]
    return {"judge_endpoints": json.dumps(panel, separators=(",", ":"))}


def evaluation_flags(run: Run) -> dict[str, Any]:
    """Paths and addresses of an evaluation, but for the judge's."""
    flags: dict[str, Any] = {
        **model_server_address(run),
        "red_team": run.input("datasets", "red_team_held_out.jsonl"),
        "benign": run.input("datasets", "benign_held_out.jsonl"),
    }
    if run.node.name != "evaluateBase":
        flags["baseline"] = run.input("evaluateBase", "transcripts.jsonl")
    return flags


def labelling_judge(judge: Judge) -> dict[str, Any]:
    """How an evaluation asks a judge with an endpoint of its own; of a panel it asks the first."""
    first = judge.first
    return {"judge_url": first.url or hf_options.NGC_URL, "judge_model": first.model or hf_options.NGC_MODEL}


def report_flags(run: Run) -> dict[str, Any]:
    """Where the report finds what it tells of."""
    return {
        "pipeline": run.pipeline.name,
        "artifacts": run.places.artifact(run.pipeline.name),
        "constitution": run.text(INSTRUCTIONS),
        **_judged_by(run, {JUDGE_PROMPT: "judge_prompt", COMPARISON_PRINCIPLES: "comparison_principles"}),
        "inputs": json.dumps({name: run.input(name) for name in run.node.inputs}, separators=(",", ":")),
    }


def preferences(run: Run, split: str, kind: str) -> str:
    """The file of blended `prompts` or `comparisons` of a split, "train" or "test"."""
    return run.input("rlData", f"blend_{BLEND_NAME}_with_{RLAIF_PREFIX}_{split}_{kind}_with_chat_prompt.jsonl")


def model_source(run: Run, source: ModelSource) -> str:
    """Where a model comes from, as the fetching programs take it."""
    document = source.given()
    if source.path is not None:
        document["path"] = run.places.path_of(source.path)
    return json.dumps(document, separators=(",", ":"))


def secrets(spec: Spec, node: str, judge: Judge) -> dict[str, SecretReference]:
    """The secrets a node's job gets, by variable: the hub's token to fetch with, the judge's key to judge with."""
    found = {}
    if node in ("models", "datasets") and spec.hub_token_secret is not None:
        found[HUB_TOKEN_VARIABLE] = reference(spec.hub_token_secret)
    keys: dict[str, SecretKey | None] = {}
    if node == "rlData" and judge.panel is not None:
        keys = {f"{PANEL_KEY_VARIABLE}{place}": one.api_key_secret for place, one in enumerate(judge.panel, start=1)}
    elif node == "rlData" or (node in EVALUATED and hf_options.classifier(spec) == "judge"):
        keys = {API_KEY_VARIABLE: judge.first.api_key_secret}
    return found | {variable: reference(key) for variable, key in keys.items() if key is not None}


def reference(secret: SecretKey) -> SecretReference:
    """A secret of the spec as workloads refer to it."""
    return SecretReference(secret.name, secret.key)


def _judged_by(run: Run, flags: Mapping[str, str]) -> dict[str, str]:
    """The path of the text the judge goes by, as the option that `flags` has for it."""
    name = judge_text(run.pipeline.spec)
    return {flags[name]: run.text(name)}


def _dataset_source(run: Run, name: str, source: DatasetSource) -> str:
    document = source.given()
    if source.path is not None:
        document["path"] = run.places.path_of(source.path)
    if source.config_map is not None:
        document = {"path": run.text(DATASET_FILES[name])}
    return json.dumps(document, separators=(",", ":"))
