"""The hf engine's settings: which program each node runs, what shapes its result, and what the operator alone sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from cai_operator.api import Spec
from cai_operator.api_base import DatasetSource, Judge
from cai_operator.api_stages import Judging
from cai_operator.engines import options
from cai_operator.stages import EVALUATED
from cai_operator.texts import DATASET_FILES

PROGRAMS: Mapping[str, str] = {
    "models": "fetch_models",
    "datasets": "fetch_datasets",
    "slData": "generate_sl_cai_dataset",
    "sft": "sft",
    "rlData": "generate_rl_cai_dataset",
    "rewardModel": "reward_model",
    "ppo": "ppo_actor",
    "evaluate": "evaluate",
    "serve": "serve",
    "report": "report",
}
"""The program of each stage."""

SERVER_PROGRAMS: Mapping[str, str] = {"server": "serve", "critic": "serve_critic", "judge": "pocket_judge"}

NGC_URL = "https://integrate.api.nvidia.com/v1/chat/completions"
NGC_MODEL = "mistralai/mixtral-8x7b-instruct-v0.1"
POCKET_JUDGE_MODEL = "pocket-judge"
SELF_JUDGE_MODEL = "self"

CHAT_FORMAT: Mapping[str, Any] = {
    "user_format": "<extra_id_1>User\n{MESSAGE}\n<extra_id_1>Assistant\n",
    "assistant_format": "{MESSAGE}\n",
    "system_format": "<extra_id_0>System\n{MESSAGE}\n",
    "system_default_message": "",
    "eos_token": "<extra_id_1>",
    "response_extract_pattern": "<extra_id_1>Assistant\n",
    "end_strings": ["<extra_id_1>"],
}
"""The format of the models trained here, as the tutorial gives it to the generators."""

RUNTIME_OPTIONS = frozenset(
    {
        *("device", "batch_size", "batch_window_ms", "max_batch_size", "grace_s", "requests_in_flight", "in_flight"),
        *("judge_in_flight", "request_timeout", "request_timeout_s", "retry_budget", "retry_s"),
        *("save_to_file_interval", "keep_checkpoints", "critic_timeout", "critic_call_timeout", "log_interval"),
    }
)
"""Options that change how fast and how patiently a program works, not what comes of it: in no key."""

_CONTRACT = "nothing: artifacts, messages and progress are the operator's"
_PATH = "nothing: the operator passes its own paths"
_ADDRESS = "the stage's server.port; hosts are the operator's"
_COMMON = {
    **dict.fromkeys(("artifact_dir", "artifact_header", "termination_message", "progress"), _CONTRACT),
    "output_dir": _PATH,
}


def _owned(paths: tuple[str, ...] = (), addresses: tuple[str, ...] = (), **fields: str) -> Mapping[str, str]:
    named = {name: f"the field {field}" for name, field in fields.items()}
    return {**_COMMON, **dict.fromkeys(paths, _PATH), **dict.fromkeys(addresses, _ADDRESS), **named}


OWNED: Mapping[str, Mapping[str, str]] = {
    "fetch_models": _owned(base="spec.models.base", assistant="spec.models.assistant"),
    "fetch_datasets": _owned(
        red_team="spec.datasets.redTeam",
        helpfulness="spec.datasets.helpfulness",
        preference="spec.datasets.preference",
        held_out="spec.stages.datasets.heldOut",
        seed="spec.seed",
    ),
    "generate_sl_cai_dataset": _owned(
        (
            *("red_teaming_prompts_dataset_path", "few_shot_prompts_dataset_path", "helpfulness_dataset_path"),
            *("critique_revision_instructions_path", "output_filepath", "validation_output_filepath"),
            *("tokenizer_model", "tokenizer_library"),
        ),
        ("host", "port"),
        num_examples="spec.stages.slData.numExamples",
        revisions="spec.stages.slData.revisions",
        critique="spec.stages.slData.critique",
        principle_weights="spec.stages.slData.principleWeights",
        batch_size="spec.stages.slData.batchSize",
        remove_duplicates="spec.stages.slData.removeDuplicates",
        max_seq_length="spec.stages.slData.maxSeqLength",
        blend_ratio="spec.stages.slData.blendRatio",
        validation_split="spec.stages.slData.validationShare",
        max_rejected="spec.stages.slData.maxRejected",
        seed="spec.seed",
    ),
    "generate_rl_cai_dataset": _owned(
        (
            *("red_teaming_file_path", "sys_prompt_constitution_file_path", "comparison_principles_path"),
            *("output_filename_prefix", "blend_with", "tokenizer_model", "tokenizer_library"),
        ),
        ("host", "port"),
        judge="spec.judge",
        ngc_api_key="spec.judge.apiKeySecret",
        ngc_url="spec.judge.url",
        ngc_model="spec.judge.model",
        judge_endpoints="spec.judge.panel",
        judge_mode="spec.stages.rlData.judging.mode",
        judge_chain_of_thought="spec.stages.rlData.judging.chainOfThought",
        comparisons_per_prompt="spec.stages.rlData.judging.comparisonsPerPrompt",
        judge_concurrency="spec.stages.rlData.judging.concurrency",
        judge_rate="spec.stages.rlData.judging.rate",
        num_examples="spec.stages.rlData.numExamples",
        batch_size="spec.stages.rlData.batchSize",
        temperatures="spec.stages.rlData.temperatures",
        max_seq_length="spec.stages.rlData.maxSeqLength",
        splits="spec.stages.rlData.splits",
        max_rejected="spec.stages.rlData.maxRejected",
        seed="spec.seed",
    ),
    "sft": _owned(("model", "train_file", "validation_file"), seed="spec.seed"),
    "reward_model": _owned(("model", "train_comparisons", "validation_comparisons"), seed="spec.seed"),
    "ppo_actor": _owned(
        ("model", "train_prompts", "validation_prompts", "checkpoint_dir"),
        critic_host="spec.stages.ppo.critic.port",
        critic_port="spec.stages.ppo.critic.port",
        seed="spec.seed",
    ),
    "serve_critic": _owned(
        ("reward_model", "checkpoint_dir", "step"),
        host="spec.stages.ppo.critic.port",
        port="spec.stages.ppo.critic.port",
        seed="spec.seed",
    ),
    "serve": _owned(("model", "served_model_name"), ("host", "port")),
    "evaluate": _owned(
        ("red_team", "benign", "baseline", "model_name", "served_model"),
        ("host", "port"),
        classifier="spec.stages.evaluate.classifier",
        num_examples="spec.stages.evaluate.numExamples",
        judge_url="spec.judge.url",
        judge_model="spec.judge.model",
    ),
    "report": _owned(("artifacts", "inputs", "pipeline", "constitution", "judge_prompt", "comparison_principles")),
}
"""Options of each program the manifest may not override -> what to use instead."""


def stage_of(node: str) -> str:
    """The stage of a node."""
    return "evaluate" if node in EVALUATED else node


def node_options(spec: Spec, node: str) -> dict[str, Any]:
    """The job's options that shape its result, by canonical name, the manifest's overrides over ours."""
    stage = stage_of(node)
    overrides = options.typed(PROGRAMS[stage], spec.stages.by_name(stage).overrides)
    own = {name: value for name, value in _own_options(spec, node).items() if value is not None}
    return {**own, **without_runtime(overrides)}


def runtime_overrides(program: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that are in no key."""
    return {name: value for name, value in options.typed(program, overrides).items() if name in RUNTIME_OPTIONS}


def without_runtime(values: Mapping[str, Any]) -> dict[str, Any]:
    """Option values without those that are in no key."""
    return {name: value for name, value in values.items() if name not in RUNTIME_OPTIONS}


def classifier(spec: Spec) -> Literal["rule", "judge"]:
    """Who labels answers."""
    chosen = spec.stages.evaluate.classifier
    if chosen == "auto":
        return "rule" if spec.dataset("redTeam").pocket is not None else "judge"
    return chosen


def judge_identity(judge: Judge, compares: bool = True) -> dict[str, Any]:
    """What of the judge shapes verdicts where it compares answers, or labels where it is asked for these."""
    if judge.pocket is not None:
        return {"pocket": {}}
    if judge.self_:
        return {"self": True}
    if judge.panel is not None and compares:
        return {"panel": [{"url": one.url, "model": one.model} for one in judge.panel]}
    return {"url": judge.first.url or NGC_URL, "model": judge.first.model or NGC_MODEL}


def dataset_source(name: str, source: DatasetSource) -> dict[str, Any]:
    """A data set's source as keys have it: one given as text by its file's name, since the key has its digest."""
    return {"text": DATASET_FILES[name]} if source.config_map is not None else source.given()


def _own_options(spec: Spec, node: str) -> dict[str, Any]:
    stages = spec.stages
    if node == "datasets":
        return {"held_out": stages.datasets.held_out, "seed": spec.seed}
    if node == "slData":
        duplicates, weights = stages.sl_data.remove_duplicates, stages.sl_data.principle_weights
        own = {
            "num_examples": stages.sl_data.num_examples,
            "revisions": stages.sl_data.revisions,
            "critique": None if stages.sl_data.critique else False,
            "principle_weights": json.dumps(weights, sort_keys=True) if weights else None,
            "remove_duplicates": None if duplicates == "none" else duplicates,
            "max_seq_length": stages.sl_data.max_seq_length,
            "blend_ratio": stages.sl_data.blend_ratio,
            "validation_split": stages.sl_data.validation_share,
            "seed": spec.seed,
        }
        # a hub or local model has a chat template, which the server applies; the pocket model is trained on our format
        is_pocket = spec.assistant.pocket is not None
        return {**own, "apply_chat_template": is_pocket, **(CHAT_FORMAT if is_pocket else {})}
    if node == "rlData":
        return {
            "num_examples": stages.rl_data.num_examples,
            "temperatures": list(stages.rl_data.temperatures),
            "max_seq_length": stages.rl_data.max_seq_length,
            "splits": {"train": stages.rl_data.splits.train, "test": stages.rl_data.splits.test},
            **_judging(stages.rl_data.judging),
            "seed": spec.seed,
            **CHAT_FORMAT,
        }
    if node in ("sft", "rewardModel", "ppo"):
        return {"seed": spec.seed}
    if node in EVALUATED:
        return {
            "model_name": EVALUATED[node],
            "classifier": classifier(spec),
            "num_examples": stages.evaluate.num_examples,
        }
    return {}


def _judging(judging: Judging) -> dict[str, Any]:
    if judging.mode == "constitution":
        return {}
    count = judging.comparisons_per_prompt
    return {
        "judge_mode": judging.mode,
        "judge_chain_of_thought": True if judging.chain_of_thought else None,
        "comparisons_per_prompt": "all" if count == -1 else count,
    }
