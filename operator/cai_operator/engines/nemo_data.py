"""What of engine nemo is not Megatron's: data sets, generators, evaluation and report are our own programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cai_operator.api import Spec
from cai_operator.api_base import Judge, PanelJudge
from cai_operator.engines import EngineError, hf_options, nemo_parallel, options, shared
from cai_operator.engines.hf_options import PROGRAMS, stage_of
from cai_operator.engines.nemo_hydra import value_of
from cai_operator.engines.nemo_models import TOKENIZER
from cai_operator.engines.nemo_programs import own
from cai_operator.engines.nemo_settings import SEQUENCE_LENGTH
from cai_operator.engines.run import Run
from cai_operator.problems import Problem
from cai_operator.stages import EVALUATED

STAGES = ("datasets", "slData", "rlData", "evaluate", "report")

_SAMPLING: Mapping[str, Mapping[str, Any]] = {
    "slData": {
        "add_bos": False,
        "top_k": 1,
        "top_p": 0.9,
        "all_probs": False,
        "repetition_penalty": 1.2,
        "min_tokens_to_generate": 1,
        "temperature": 1.0,
        "greedy": True,
        "tokens_to_generate": 1024,
        "end_strings": ["</s>"],
        "response_extract_pattern": "[/INST]",
    },
    "rlData": {
        "add_bos": False,
        "top_k": 50,
        "top_p": 0.95,
        "all_probs": False,
        "repetition_penalty": 1.0,
        "min_tokens_to_generate": 1,
        "temperature": 1.0,
        "greedy": False,
        "tokens_to_generate": 1024,
    },
}
"""How the tutorial's generators sample."""


def judge(spec: Spec) -> Judge:
    """Who compares answers: the manifest's judge, by default the tutorial's, Mixtral at NVIDIA's."""
    return spec.judge or Judge(url=hf_options.NGC_URL, model=hf_options.NGC_MODEL)


def require(spec: Spec) -> None:
    """Refuse judges and classifiers this engine has not.

    Raises:
        EngineError: with the field.
    """
    asked = judge(spec)
    judged = [node for node in ("rlData", *EVALUATED) if _judges(spec, node)]
    if spec.stages.evaluate.enabled and hf_options.classifier(spec) == "rule":
        raise EngineError(
            "spec.stages.evaluate.classifier: the rule knows answers of the pocket model only, which engine nemo has "
            "not; set classifier: judge"
        )
    if not judged or not any(spec.stages.by_name(stage_of(node)).enabled for node in judged):
        return
    if asked.self_ or asked.pocket is not None:
        kind = "self" if asked.self_ else "pocket"
        raise EngineError(
            f"spec.judge.{kind}: Megatron's model server has no chat API, by which a judge is asked; give url, model "
            "and apiKeySecret of one that has"
        )
    for field, one in _endpoints(asked):
        if one.api_key_secret is None and (one.url or hf_options.NGC_URL) == hf_options.NGC_URL:
            whose = "NVIDIA's endpoint" if asked.panel else "NVIDIA's endpoint, the default judge,"
            raise EngineError(f"{field}.apiKeySecret: {whose} wants a key; name the Secret that holds it")


def problems(spec: Spec) -> Iterator[Problem]:
    """What contradicts itself in the settings of these programs."""
    for name in STAGES:
        program = PROGRAMS[name]
        stage = spec.stages.by_name(name)
        overrides = stage.overrides if stage.enabled else {}
        for found in options.check(program, overrides, hf_options.OWNED[program]):
            yield Problem(f"spec.stages.{name}.overrides.{found.option}", found.found, found.allowed)
    # the trainers cut longer rows, mask longer prompts and choke on longer pairs
    for name, given, whose in (
        ("slData", spec.stages.sl_data.max_seq_length, "of sft"),
        ("rlData", spec.stages.rl_data.max_seq_length, "of the reward model and of PPO"),
    ):
        longest = _longest(spec, name)
        if given is not None and given > longest:
            where = f"spec.stages.{name}.maxSeqLength"
            yield Problem(where, str(given), f"at most {longest}, the sequence length {whose}")


def parameters(spec: Spec, node: str) -> dict[str, Any]:
    """What shapes the result of one of these programs, but for its server."""
    found: dict[str, Any] = {"options": _options(spec, node)}
    if node == "datasets":
        for name in ("redTeam", "helpfulness", "preference"):
            found[name] = hf_options.dataset_source(name, spec.dataset(name))
    if node in ("slData", "rlData") and _samples(found["options"]):
        # Megatron's server has one seed for a request: what a row draws depends on the rows it is asked with
        found["batch_size"] = (spec.stages.sl_data if node == "slData" else spec.stages.rl_data).batch_size
    if _judges(spec, node):
        found["judge"] = hf_options.judge_identity(judge(spec), compares=node == "rlData")
    return found


def command(run: Run, contract: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The program of a node and its command."""
    spec, stage = run.pipeline.spec, stage_of(run.node.name)
    program = PROGRAMS[stage]
    runtime = hf_options.runtime_overrides(program, spec.stages.by_name(stage).overrides)
    values = {**_options(spec, run.node.name), **runtime, **_paths(run), **contract}
    if isinstance(values.get("splits"), dict):
        values["splits"] = str(values["splits"])
    return program, own(program, values)


def _samples(values: Mapping[str, Any]) -> bool:
    return not values["greedy"] and values["top_k"] != 1


def _options(spec: Spec, node: str) -> dict[str, Any]:
    found = {**_SAMPLING.get(node, {}), **hf_options.node_options(spec, node)}
    if node in ("slData", "rlData"):
        found.setdefault("max_seq_length", _longest(spec, node))
    return found


_LENGTHS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "slData": (("sft", "model.data.train_ds.max_seq_length"), ("sft", "model.encoder_seq_length")),
    "rlData": (
        ("rewardModel", "model.data.seq_length"),
        ("rewardModel", "model.encoder_seq_length"),
        ("ppo", "model.data.seq_length"),
        ("ppo", "model.encoder_seq_length"),
    ),
}
"""The settings that bound what a generator's rows may have, by the stage that is trained on them."""


def _longest(spec: Spec, node: str) -> int:
    """The most tokens that every trainer of a generator's rows takes."""
    lengths = (value_of(nemo_parallel.trainer(spec, stage).settings, key) for stage, key in _LENGTHS[node])
    return min((length for length in lengths if isinstance(length, int)), default=SEQUENCE_LENGTH)


def _paths(run: Run) -> dict[str, Any]:
    node = run.node.name
    # by the tokenizer that came with the base model: a directory of sentencepiece's or Hugging Face's files
    tokenizer = {"tokenizer_model": run.input("models", f"base/{TOKENIZER}")}
    if node == "datasets":
        return shared.dataset_flags(run)
    if node == "slData":
        return shared.sl_data_flags(run, tokenizer)
    asked = judge(run.pipeline.spec)
    if node == "rlData":
        return shared.rl_data_flags(run, tokenizer, shared.comparing_judge(asked))
    if node in EVALUATED:
        by_judge = shared.labelling_judge(asked) if _judges(run.pipeline.spec, node) else {}
        return {**shared.evaluation_flags(run), **by_judge}
    return shared.report_flags(run)


def _endpoints(asked: Judge) -> list[tuple[str, Judge | PanelJudge]]:
    """Whom a judge's requests go to, by field."""
    if asked.panel is None:
        return [("spec.judge", asked)]
    return [(f"spec.judge.panel[{place}]", one) for place, one in enumerate(asked.panel)]


def _judges(spec: Spec, node: str) -> bool:
    return node == "rlData" or (node in EVALUATED and hf_options.classifier(spec) == "judge")
