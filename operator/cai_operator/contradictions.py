"""What a CAIPipeline may not say though every field of it is well formed: rules that span fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cai_operator.api import CAIPipeline, Spec, Stage
from cai_operator.api_base import (
    APP_ARMOR_ANNOTATION,
    ARGO_CD,
    GPU,
    INTERFACE_VARIABLES,
    Interconnect,
    PanelJudge,
    PodTemplate,
    Source,
)
from cai_operator.api_stages import Judging
from cai_operator.engines import hf_options, options
from cai_operator.engines.hf_options import PROGRAMS
from cai_operator.engines.nemo_problems import nemo_problems
from cai_operator.problems import Problem, shown
from cai_operator.stages import STAGE_NEEDS, STAGES, TRAINING_STAGES

LONGEST_PIPELINE_NAME = 63


def contradictions(pipeline: CAIPipeline) -> list[Problem]:
    """Everything that contradicts itself or the engine, in the order of the fields."""
    spec = pipeline.spec
    return [
        *_name(pipeline),
        *_storage(spec),
        *_sources(spec),
        *_judge(spec),
        *_stages(spec),
        *_templates(spec),
        *_numbers(spec),
        *(_hf(spec) if spec.engine == "hf" else nemo_problems(spec)),
    ]


def _name(pipeline: CAIPipeline) -> Iterator[Problem]:
    if len(pipeline.name) > LONGEST_PIPELINE_NAME:
        yield Problem(
            "metadata.name", f"{len(pipeline.name)} characters", f"at most {LONGEST_PIPELINE_NAME}: labels carry it"
        )


def _storage(spec: Spec) -> Iterator[Problem]:
    storage = spec.storage
    if storage.claim_name is not None:
        for field, value in (("size", storage.size), ("storageClassName", storage.storage_class_name)):
            if value is not None:
                yield Problem(
                    f"spec.storage.{field}",
                    f"{shown(value)} beside claimName",
                    "either claimName or a claim to be made",
                )
    if storage.access_mode == "ReadWriteOnce" and spec.uses_several_nodes:
        yield Problem(
            "spec.storage.accessMode",
            "ReadWriteOnce, while a stage has several nodes",
            "ReadWriteMany, with a storage class that can do that",
        )


def _sources(spec: Spec) -> Iterator[Problem]:
    yield from _exactly_one("spec.models.base", spec.models.base)
    if spec.models.assistant is not None:
        yield from _exactly_one("spec.models.assistant", spec.models.assistant)
    for name, source in (
        ("redTeam", spec.datasets.red_team),
        ("helpfulness", spec.datasets.helpfulness),
        ("preference", spec.datasets.preference),
    ):
        if source is not None:
            yield from _exactly_one(f"spec.datasets.{name}", source)
    if spec.constitution is not None:
        yield from _exactly_one("spec.constitution", spec.constitution)


def _exactly_one(where: str, source: Source) -> Iterator[Problem]:
    fields = {info.alias or field: getattr(source, field) for field, info in type(source).model_fields.items()}
    given = [name for name, value in fields.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "an empty mapping"
        yield Problem(where, found, f"exactly one of {', '.join(fields)}")


def _judge(spec: Spec) -> Iterator[Problem]:
    judge = spec.judge
    if judge is None:
        return
    remote = {"url": judge.url, "model": judge.model, "apiKeySecret": judge.api_key_secret}
    given = [name for name, value in remote.items() if value is not None]
    own = [name for name, value in (("self", judge.self_), ("pocket", judge.pocket)) if value is not None]
    if len(own) == 2:
        yield Problem("spec.judge", "self and pocket", "one of them, or url, model and apiKeySecret")
    if own:
        for name in given:
            yield Problem(f"spec.judge.{name}", f"set beside {own[0]}", f"nothing: the {own[0]} judge needs none")
    elif judge.url is not None and judge.model is None:
        yield Problem("spec.judge.model", "nothing beside url", "the model's name at that url")
    if judge.panel is None and not own and not given:
        yield Problem(
            "spec.judge",
            "an empty mapping",
            "url, model and apiKeySecret; or several of them in panel; or self: true; or pocket: {}",
        )
    if judge.panel is not None:
        yield from _panel(judge.panel, [*own, *given])


def _panel(panel: Sequence[PanelJudge], others: Sequence[str]) -> Iterator[Problem]:
    if others:
        found = f"set beside {' and '.join(others)}"
        yield Problem("spec.judge.panel", found, "all judges in panel, or one without it")
    if len({(one.url, one.model) for one in panel}) != len(panel):
        yield Problem("spec.judge.panel", "one judge twice", "judges that differ in url or model")


def _stages(spec: Spec) -> Iterator[Problem]:
    for name in STAGES:
        stage = spec.stages.by_name(name)
        where = f"spec.stages.{name}"
        if not stage.enabled:
            continue
        off = [need for need in STAGE_NEEDS.get(name, ()) if not spec.stages.by_name(need).enabled]
        if off:
            yield Problem(
                f"{where}.enabled", f"true, while {' and '.join(off)} is off", f"false, or {' and '.join(off)} enabled"
            )
        if stage.nodes > 1 and name not in TRAINING_STAGES:
            yield Problem(f"{where}.nodes", str(stage.nodes), "1: only sft, rewardModel and ppo use several")
    for name in spec.stages.exporting:
        if not spec.stages.by_name(name).enabled:
            where = f"spec.stages.{name}.exportHuggingFace"
            yield Problem(where, f"true, while {name} is off", "false, or enabled: true")
    ppo = spec.stages.ppo
    if not ppo.enabled and "critic" in ppo.model_fields_set:
        yield Problem("spec.stages.ppo.critic", "set while ppo is off", "nothing, or enabled: true")
    gates = spec.stages.evaluate.gates
    if not spec.stages.evaluate.enabled and (gates.max_harmful_rate is not None or gates.min_helpful_rate is not None):
        yield Problem("spec.stages.evaluate.gates", "set while evaluate is off", "nothing, or enabled: true")


def _templates(spec: Spec) -> Iterator[Problem]:
    templates: dict[str, PodTemplate | None] = {"spec.template": spec.template}
    templates |= {f"spec.stages.{name}.template": spec.stages.by_name(name).template for name in STAGES}
    for where, template in templates.items():
        if template is None:
            continue
        for field, given in (("labels", template.labels), ("annotations", template.annotations)):
            if found := [key for key in given or {} if key.startswith(ARGO_CD)]:
                wanted = "on the pipeline's own metadata: pods are the operator's, not Argo CD's"
                yield Problem(f"{where}.{field}", " and ".join(found), wanted)
        if APP_ARMOR_ANNOTATION in (template.annotations or {}):
            yield Problem(f"{where}.annotations", APP_ARMOR_ANNOTATION, "others: pods keep the runtime's profile")
        if template.interconnect is not None:
            yield from _interconnect(f"{where}.interconnect", template.interconnect)


def _interconnect(where: str, given: Interconnect) -> Iterator[Problem]:
    devices = [device.resource for device in given.devices or ()]
    if len(set(devices)) != len(devices):
        yield Problem(f"{where}.devices", "one resource twice", "each resource once, with its whole count")
    if GPU in devices:
        place = devices.index(GPU)
        yield Problem(f"{where}.devices[{place}].resource", GPU, "other devices: GPUs are asked for by gpusPerNode")
    names = [variable.name for variable in given.env or ()]
    if len(set(names)) != len(names):
        yield Problem(f"{where}.env", "one variable twice", "each variable once")
    twice = [name for name in INTERFACE_VARIABLES if name in names]
    if given.interface is not None and twice:
        yield Problem(f"{where}.env", f"{' and '.join(twice)} beside interface", "either of them")


def _numbers(spec: Spec) -> Iterator[Problem]:
    for name, count in (
        ("slData", spec.stages.sl_data.num_examples),
        ("rlData", spec.stages.rl_data.num_examples),
        ("evaluate", spec.stages.evaluate.num_examples),
    ):
        if count == 0:
            yield Problem(f"spec.stages.{name}.numExamples", "0", "-1 (all) or at least 1")
    temperatures = spec.stages.rl_data.temperatures
    for place, temperature in enumerate(temperatures):
        if not 0 < temperature <= 100:
            where = f"spec.stages.rlData.temperatures[{place}]"
            yield Problem(where, shown(temperature), "above 0 and at most 100")
    if len(set(temperatures)) != len(temperatures):
        yield Problem("spec.stages.rlData.temperatures", shown(list(temperatures)), "temperatures that all differ")
    splits = spec.stages.rl_data.splits
    if abs(splits.train + splits.test - 1) > 1e-6:
        found = f"train {splits.train:g} and test {splits.test:g}, together {splits.train + splits.test:g}"
        yield Problem("spec.stages.rlData.splits", found, "shares that are 1 together")
    yield from _judging(spec.stages.rl_data.judging)


def _judging(judging: Judging) -> Iterator[Problem]:
    where = "spec.stages.rlData.judging"
    count = judging.comparisons_per_prompt
    if count == 0:
        yield Problem(f"{where}.comparisonsPerPrompt", "0", "-1 (all) or at least 1")
    if judging.mode == "principle":
        return
    if count not in (0, 1):
        yield Problem(
            f"{where}.comparisonsPerPrompt",
            f"{count} in mode {judging.mode}",
            "1, or mode: principle, which compares pairs",
        )
    if judging.chain_of_thought:
        yield Problem(f"{where}.chainOfThought", f"true in mode {judging.mode}", "false, or mode: principle")


def _hf(spec: Spec) -> Iterator[Problem]:
    for name, source in (("base", spec.models.base), ("assistant", spec.models.assistant)):
        if source is not None and source.path is not None and source.path.endswith(".nemo"):
            where = f"spec.models.{name}.path"
            yield Problem(
                where, shown(source.path), "a directory in Hugging Face format: engine hf reads no .nemo file"
            )
    for name in spec.stages.exporting:
        where = f"spec.stages.{name}.exportHuggingFace"
        yield Problem(where, "true, with engine hf", "false: the models of engine hf are in that format already")
    if spec.stages.ppo.critic.nodes > 1:
        yield Problem(
            "spec.stages.ppo.critic.nodes", str(spec.stages.ppo.critic.nodes), "1: the hf critic is one process"
        )
    for name in STAGES:
        stage = spec.stages.by_name(name)
        yield from _overrides(f"spec.stages.{name}.overrides", PROGRAMS[name], stage.overrides)
        yield from _servers(name, stage)
    if spec.stages.evaluate.classifier == "judge" and spec.judge_or_default.pocket is not None:
        yield Problem(
            "spec.stages.evaluate.classifier",
            "judge, which is the pocket judge",
            "rule: the pocket judge only compares answers; or another judge",
        )
    if not spec.is_pocket and spec.stages.evaluate.classifier == "rule":
        yield Problem(
            "spec.stages.evaluate.classifier",
            "rule, with a base model that is not pocket",
            "judge: the rule knows pocket answers",
        )


def _servers(name: str, stage: Stage) -> Iterator[Problem]:
    server = getattr(stage, "server", None)
    if server is not None:
        yield from _overrides(f"spec.stages.{name}.server.overrides", "serve", server.overrides)
    critic = getattr(stage, "critic", None)
    if critic is not None:
        yield from _overrides(f"spec.stages.{name}.critic.overrides", "serve_critic", critic.overrides)


def _overrides(where: str, program: str, overrides: Mapping[str, object]) -> Iterator[Problem]:
    if not overrides:
        return
    for problem in options.check(program, overrides, hf_options.OWNED[program]):
        yield Problem(f"{where}.{problem.option}", problem.found, problem.allowed)
