"""The rules that the API server checks when a pipeline is applied, as data: CEL, with a sentence for who meets them.

The operator checks all but the `on_change` ones again, and what CEL cannot say (`contradictions.py`), so that `cai run`
refuses the same. Constant defaults are filled in before a rule is looked at, so only fields without one need `has`.
CEL in Kubernetes: https://kubernetes.io/docs/reference/using-api/cel/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cai_operator.api import DEFAULT_CLAIM_SIZE
from cai_operator.api_base import (
    APP_ARMOR_ANNOTATION,
    ARGO_CD,
    GPU,
    INTERFACE_VARIABLES,
    Constitution,
    DatasetSource,
    ModelSource,
    Source,
)
from cai_operator.contradictions import LONGEST_PIPELINE_NAME
from cai_operator.stages import EXPORTING_STAGES, STAGE_NEEDS, STAGES, TRAINING_STAGES

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: what tests call it.
        paths: the objects it is checked on, as `spec.stages.rlData.temperatures[]`.
        expression: CEL, true where all is well; `self` is the object.
        message: what is wrong and what to do about it.
        field: the field of the object that the complaint names; none: the object itself.
        reason: the kind of complaint.
        found: CEL for a message that names what was found; none: the message as it stands.
        on_change: whether it compares with the resource as it was, so says nothing about a new one.
    """

    name: str
    paths: tuple[str, ...]
    expression: str
    message: str
    field: str = ""
    reason: Reason = "FieldValueInvalid"
    found: str = ""
    on_change: bool = False

    def validation(self) -> dict[str, str]:
        """The rule as an item of `x-kubernetes-validations`."""
        made = {"rule": self.expression, "message": self.message, "reason": self.reason}
        more = {"messageExpression": self.found, "fieldPath": f".{self.field}" if self.field else ""}
        return made | {name: text for name, text in more.items() if text}


def _exactly_one(name: str, source: type[Source], paths: Sequence[str]) -> Rule:
    fields = [info.alias or field for field, info in source.model_fields.items()]
    given = ", ".join(f"has(self.{field})" for field in fields)
    return Rule(
        f"oneSourceOf{name}",
        tuple(paths),
        f"[{given}].exists_one(given, given)",
        f"exactly one of {_listed(fields, 'and')} is wanted; give one and take the others away",
    )


def _needs(stage: str, needs: Sequence[str]) -> Rule:
    off = " + ".join(f"(self.{need}.enabled ? '' : '{need}, ')" for need in needs)
    cure = f"switch on what it needs, or set {stage}.enabled: false"
    return Rule(
        f"{stage}Needs",
        ("spec.stages",),
        f"!self.{stage}.enabled || ({' && '.join(f'self.{need}.enabled' for need in needs)})",
        f"{stage} needs {_listed(needs, 'and')}; {cure}",
        field=f"{stage}.enabled",
        found=f"'{stage} needs ' + {off} + 'switched off here; {cure}'",
    )


def _not_with_own_judge(field: str) -> Rule:
    return Rule(
        f"ownJudgeWithout{field[0].upper()}{field[1:]}",
        ("spec.judge",),
        f"!has(self.{field}) || !(has(self.self) || has(self.pocket))",
        f"the self judge and the pocket judge need no {field}; take it away, or take away self or pocket",
        field=field,
        reason="FieldValueForbidden",
    )


def _made_or_given(field: str) -> Rule:
    return Rule(
        f"claimNameWithout{field[0].upper()}{field[1:]}",
        ("spec.storage",),
        f"!has(self.claimName) || !has(self.{field})",
        f"{field} is for a claim that is made, and claimName names an existing one; keep one of the two",
        field=field,
        reason="FieldValueForbidden",
    )


def _hub_format(model: str) -> Rule:
    path = f"self.models.{model}.path"
    given = f"has(self.models.{model}) && has({path})" if model == "assistant" else f"has({path})"
    return Rule(
        f"hfReadsNoNemo{model.capitalize()}",
        ("spec",),
        f"self.engine != 'hf' || !({given}) || !{path}.endsWith('.nemo')",
        "engine hf reads no .nemo file; give a directory in Hugging Face format, or set engine: nemo",
        field=f"models.{model}.path",
    )


def _exports(stage: str, name: str, allowed: str, message: str) -> Rule:
    field = f"stages.{stage}.exportHuggingFace"
    return Rule(f"{name}{stage.capitalize()}", ("spec",), f"!self.{field} || {allowed}", message, field=field)


def _stays(field: str, words: str) -> Rule:
    return Rule(
        f"{field}Stays",
        ("spec.storage",),
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{words} cannot change, as the artifacts would stay behind; delete the pipeline and apply it again",
        field=field,
        reason="FieldValueForbidden",
        on_change=True,
    )


def _listed(names: Sequence[str], word: str) -> str:
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _several_nodes(spec: str) -> str:
    critic = f"{spec}.stages.ppo.critic"
    counts = " || ".join(f"{spec}.stages.{stage}.nodes > 1" for stage in STAGES if stage in TRAINING_STAGES)
    return f"({counts} || has({critic}) && {critic}.nodes > 1)"


def _access_mode(spec: str) -> str:
    mode = f"{spec}.storage.accessMode"
    return f"(has({mode}) ? {mode} : {_several_nodes(spec)} ? 'ReadWriteMany' : 'ReadWriteOnce')"


def _size(storage: str) -> str:
    return f"quantity(has({storage}.size) ? string({storage}.size) : '{DEFAULT_CLAIM_SIZE}')"


_SOME_JUDGE = "has(self.url) || has(self.model) || has(self.apiKeySecret) || has(self.self) || has(self.pocket)"
_POCKET_JUDGE = "(has(self.judge) ? has(self.judge.pocket) : has(self.models.base.pocket))"
_TEMPLATES = ("spec.template", *(f"spec.stages.{stage}.template" for stage in STAGES))
_COUNTED = ("spec.stages.slData", "spec.stages.rlData", "spec.stages.evaluate")

RULES: tuple[Rule, ...] = (
    Rule(
        "nameFitsLabels",
        ("metadata.name",),
        f"self.size() <= {LONGEST_PIPELINE_NAME}",
        f"a pipeline's name has at most {LONGEST_PIPELINE_NAME} characters, as labels carry it; choose a shorter one",
    ),
    _exactly_one("Model", ModelSource, ("spec.models.base", "spec.models.assistant")),
    _exactly_one(
        "Dataset",
        DatasetSource,
        ("spec.datasets.redTeam", "spec.datasets.helpfulness", "spec.datasets.preference"),
    ),
    _exactly_one("Constitution", Constitution, ("spec.constitution",)),
    _made_or_given("size"),
    _made_or_given("storageClassName"),
    Rule(
        "accessModeForSeveralNodes",
        ("spec",),
        f"!has(self.storage.accessMode) || self.storage.accessMode != 'ReadWriteOnce' || !{_several_nodes('self')}",
        "a stage has several nodes, and a ReadWriteOnce volume serves one; set accessMode: ReadWriteMany, or nodes: 1",
        field="storage.accessMode",
    ),
    Rule(
        "oneOwnJudge",
        ("spec.judge",),
        "!(has(self.self) && has(self.pocket))",
        "self and pocket are two judges; keep one of them, or give url, model and apiKeySecret instead",
    ),
    Rule(
        "someJudge",
        ("spec.judge",),
        f"has(self.panel) || {_SOME_JUDGE}",
        "no judge is named; give url, model and apiKeySecret, or several of them in panel, or self: true, "
        "or pocket: {}, or leave judge out",
    ),
    *map(_not_with_own_judge, ("url", "model", "apiKeySecret")),
    Rule(
        "judgeModelWithUrl",
        ("spec.judge",),
        "!has(self.url) || has(self.model) || has(self.self) || has(self.pocket)",
        "url is given without model; name the model to ask for at that url",
        field="model",
        reason="FieldValueRequired",
    ),
    Rule(
        "panelAlone",
        ("spec.judge",),
        f"!has(self.panel) || !({_SOME_JUDGE})",
        "panel names every judge that votes, and another is named beside it; put all into panel, or take panel away",
        field="panel",
        reason="FieldValueForbidden",
    ),
    Rule(
        "panelDiffers",
        ("spec.judge.panel",),
        "self.all(one, self.exists_one(other, other.url == one.url && other.model == one.model))",
        "a judge is given twice and would have two votes; give each another url or model",
    ),
    *(_needs(stage, needs) for stage, needs in STAGE_NEEDS.items()),
    Rule(
        "oneNode",
        tuple(f"spec.stages.{stage}" for stage in STAGES if stage not in TRAINING_STAGES),
        "!self.enabled || self.nodes == 1",
        f"this stage runs on 1 node; only {_listed([s for s in STAGES if s in TRAINING_STAGES], 'and')} use several",
        field="nodes",
    ),
    Rule(
        "exportOnlyWhereTrained",
        tuple(f"spec.stages.{stage}" for stage in EXPORTING_STAGES),
        "self.enabled || !self.exportHuggingFace",
        "this stage is off, so there is no model to export; take exportHuggingFace away, or set enabled: true",
        field="exportHuggingFace",
        reason="FieldValueForbidden",
    ),
    Rule(
        "criticOnlyWithPpo",
        ("spec.stages.ppo",),
        "self.enabled || !has(self.critic)",
        "the critic is set though ppo is off; take its settings away, or set enabled: true",
        field="critic",
        reason="FieldValueForbidden",
    ),
    Rule(
        "gatesOnlyWithEvaluate",
        ("spec.stages.evaluate",),
        "self.enabled || !has(self.gates) || !(has(self.gates.maxHarmfulRate) || has(self.gates.minHelpfulRate))",
        "gates are set though evaluate is off, so nothing would measure them; take them away, or set enabled: true",
        field="gates",
        reason="FieldValueForbidden",
    ),
    Rule(
        "someExamples",
        _COUNTED,
        "self.numExamples != 0",
        "with 0 examples there is nothing to do; give -1 for all of them, or at least 1",
        field="numExamples",
    ),
    Rule(
        "temperatureInRange",
        ("spec.stages.rlData.temperatures[]",),
        "self > 0.0 && self <= 100.0",
        "a temperature is above 0 and at most 100",
    ),
    Rule(
        "temperaturesDiffer",
        ("spec.stages.rlData.temperatures",),
        "self.all(one, self.exists_one(other, other == one))",
        "a temperature is given twice; give each candidate answer one of its own",
    ),
    Rule(
        "splitsSumToOne",
        ("spec.stages.rlData.splits",),
        "self.train + self.test - 1.0 <= 0.000001 && 1.0 - self.train - self.test <= 0.000001",
        "train and test are shares of the same pairs and have to be 1 together, such as 0.8 and 0.2",
    ),
    Rule(
        "someComparisons",
        ("spec.stages.rlData.judging",),
        "self.comparisonsPerPrompt != 0",
        "with 0 comparisons nothing is judged; give -1 for all pairs of candidates, or at least 1",
        field="comparisonsPerPrompt",
    ),
    Rule(
        "comparisonsOnlyByPrinciple",
        ("spec.stages.rlData.judging",),
        "self.mode == 'principle' || self.comparisonsPerPrompt in [0, 1]",
        "in mode constitution all candidates of a prompt are judged at once; leave comparisonsPerPrompt out, "
        "or set mode: principle",
        field="comparisonsPerPrompt",
    ),
    Rule(
        "thoughtOnlyByPrinciple",
        ("spec.stages.rlData.judging",),
        "self.mode == 'principle' || !self.chainOfThought",
        "in mode constitution the judge explains its verdict anyway; leave chainOfThought out, or set mode: principle",
        field="chainOfThought",
    ),
    _hub_format("base"),
    _hub_format("assistant"),
    *(
        _exports(
            stage,
            "onlyNemoExports",
            "self.engine != 'hf'",
            "the models of engine hf are in Hugging Face format already; take exportHuggingFace away",
        )
        for stage in EXPORTING_STAGES
    ),
    *(
        _exports(
            stage,
            "noExportFromNemo",
            "self.engine != 'nemo' || !has(self.models.base.path) || !self.models.base.path.endsWith('.nemo')",
            "a ready .nemo file has no configuration in Hugging Face format to export with; give the base model from "
            "the hub or as a directory in that format, or take exportHuggingFace away",
        )
        for stage in EXPORTING_STAGES
    ),
    Rule(
        "hfCriticOnOneNode",
        ("spec",),
        "self.engine != 'hf' || !has(self.stages.ppo.critic) || self.stages.ppo.critic.nodes == 1",
        "the critic of engine hf is one process; set nodes: 1",
        field="stages.ppo.critic.nodes",
    ),
    Rule(
        "pocketJudgeOnlyCompares",
        ("spec",),
        f"self.engine != 'hf' || self.stages.evaluate.classifier != 'judge' || !{_POCKET_JUDGE}",
        "the pocket judge only compares answers and labels none; set classifier: rule, or name another judge",
        field="stages.evaluate.classifier",
    ),
    Rule(
        "ruleOnlyForPocket",
        ("spec",),
        "self.engine != 'hf' || self.stages.evaluate.classifier != 'rule' || has(self.models.base.pocket)",
        "the rule knows answers of the pocket world only, and the base model is another; set classifier: judge",
        field="stages.evaluate.classifier",
    ),
    Rule(
        "nothingOfArgoCd",
        tuple(f"{template}.{field}" for template in _TEMPLATES for field in ("labels", "annotations")),
        f"self.all(key, !key.startsWith('{ARGO_CD}'))",
        f"{ARGO_CD} is for what Argo CD deploys itself, and pods are made by the operator; take it away, or put it on "
        "the pipeline's own metadata",
        reason="FieldValueForbidden",
    ),
    Rule(
        "deviceOnce",
        tuple(f"{template}.interconnect.devices" for template in _TEMPLATES),
        "self.all(one, self.exists_one(other, other.resource == one.resource))",
        "a device is asked for twice; add the counts up",
    ),
    Rule(
        "gpusByTheirOwnField",
        tuple(f"{template}.interconnect.devices[].resource" for template in _TEMPLATES),
        f"self != '{GPU}'",
        "GPUs are asked for by gpusPerNode; take this device away",
        reason="FieldValueForbidden",
    ),
    Rule(
        "appArmorOfTheRuntime",
        tuple(f"{template}.annotations" for template in _TEMPLATES),
        f"!('{APP_ARMOR_ANNOTATION}' in self)",
        f"pods keep the runtime's AppArmor profile; take {APP_ARMOR_ANNOTATION} away",
        reason="FieldValueForbidden",
    ),
    Rule(
        "variableOnce",
        tuple(f"{template}.interconnect.env" for template in _TEMPLATES),
        "self.all(one, self.exists_one(other, other.name == one.name))",
        "a variable is given twice; keep one of them",
    ),
    Rule(
        "interfaceOnce",
        tuple(f"{template}.interconnect" for template in _TEMPLATES),
        f"!has(self.interface) || !has(self.env) || !self.env.exists(one, one.name in {list(INTERFACE_VARIABLES)})",
        f"interface sets {' and '.join(INTERFACE_VARIABLES)}; take them out of env, or interface away",
        field="env",
        reason="FieldValueForbidden",
    ),
    _stays("claimName", "the claim in use"),
    _stays("storageClassName", "a claim's storage class"),
    Rule(
        "accessModeStays",
        ("spec",),
        "has(self.storage.claimName) || has(oldSelf.storage.claimName)"
        f" || {_access_mode('self')} == {_access_mode('oldSelf')}",
        "a claim's access mode cannot change, and with these settings it would; set accessMode to what the claim has, "
        "or delete the pipeline and apply it again",
        field="storage.accessMode",
        reason="FieldValueForbidden",
        on_change=True,
    ),
    Rule(
        "sizeGrows",
        ("spec.storage",),
        "has(self.claimName) || has(oldSelf.claimName) || has(self.size) && !isQuantity(string(self.size))"
        f" || {_size('self')}.compareTo({_size('oldSelf')}) >= 0",
        f"a claim can grow but not shrink (without size it has {DEFAULT_CLAIM_SIZE}); give at least the size it has",
        field="size",
        reason="FieldValueForbidden",
        on_change=True,
    ),
)
