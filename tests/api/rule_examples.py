"""For every rule of the CustomResourceDefinition, specs it lets pass and specs it refuses.

Each is a change laid over the smallest pipeline (engine hf, base model pocket); None takes a field away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.harness.pipelines import merged

from cai_operator.stages import EXPORTING_STAGES, STAGES

Change = dict[str, Any]

SMALLEST: Change = {
    "apiVersion": "cai.dev/v1alpha1",
    "kind": "CAIPipeline",
    "metadata": {"name": "tiny"},
    "spec": {"engine": "hf", "models": {"base": {"pocket": {}}}},
}


@dataclass(frozen=True)
class Example:
    """What one rule says: `refused` maps the path complained of to a spec, and `old` is what an update starts from."""

    accepted: tuple[Change, ...]
    refused: tuple[tuple[str, Change], ...]
    old: Change | None = None


def pipeline(spec: Change, name: str = "tiny") -> Change:
    """The smallest pipeline with a change laid over its spec."""
    return merged(SMALLEST, {"metadata": {"name": name}, "spec": spec})


def document(change: Change) -> Change:
    """The pipeline of an example: a name, where the change holds one, belongs to its metadata."""
    spec = {field: value for field, value in change.items() if field != "name"}
    return pipeline(spec, change.get("name", "tiny"))


def stages(**settings: Change) -> Change:
    """A change of stages' settings."""
    return {"stages": settings}


def off(*names: str, **settings: Change) -> Change:
    """A change that switches stages off, and sets others."""
    return {"stages": {**{name: {"enabled": False} for name in names}, **settings}}


def judging(**settings: Any) -> Change:
    """A change of how the judge is asked."""
    return stages(rlData={"judging": settings})


def interconnect(**settings: Any) -> Change:
    """A change of the network among several machines."""
    return {"template": {"interconnect": settings}}


def in_every_template(settings: Change) -> tuple[tuple[str, Change], ...]:
    """For each template there is, its path and the spec that has these settings in it."""
    own = ((f"spec.stages.{name}.template", stages(**{name: {"template": settings}})) for name in STAGES)
    return (("spec.template", {"template": settings}), *own)


def in_every_interconnect(field: str, **settings: Any) -> tuple[tuple[str, Change], ...]:
    """The path complained of, and the spec, for a wrong interconnect in each template there is."""
    return tuple(
        (f"{where}.interconnect.{field}", change) for where, change in in_every_template({"interconnect": settings})
    )


UNCONFINED: Change = {
    "template": {"annotations": {"container.apparmor.security.beta.kubernetes.io/program": "unconfined"}}
}
NCCL_DEBUG = {"name": "NCCL_DEBUG", "value": "INFO"}
JUDGING = "spec.stages.rlData.judging"
HUB = {"huggingFace": {"repo": "a/b"}}
SECRET = {"name": "ngc", "key": "api-key"}
REMOTE = {"url": "https://host/v1/chat/completions", "model": "m", "apiKeySecret": SECRET}
PANEL = [{"url": "https://one", "model": "m"}, {"url": "https://two", "model": "m", "apiKeySecret": SECRET}]
EXPORT, NO_EXPORT = {"exportHuggingFace": True}, {"exportHuggingFace": False}
FROM_NEMO = {"engine": "nemo", "models": {"base": {"pocket": None, "path": "m.nemo"}}}
NOT_POCKET = {"models": {"base": {"pocket": None, **HUB}}}


def _needs(stage: str, need: str, *off_too: str) -> Example:
    """A stage that lacks one it needs; what else needs that is off as well."""
    refused = off(need, *off_too)
    return Example((off(need, *off_too, stage),), ((f"spec.stages.{stage}.enabled", refused),))


EXAMPLES: dict[str, Example] = {
    "nameFitsLabels": Example(({"name": "a" * 63},), (("metadata.name", {"name": "a" * 64}),)),
    "oneSourceOfModel": Example(
        ({}, NOT_POCKET, {"models": {"base": {"pocket": None, "path": "m"}, "assistant": HUB}}),
        (
            ("spec.models.base", {"models": {"base": {"pocket": None}}}),
            ("spec.models.base", {"models": {"base": {"path": "m"}}}),
            ("spec.models.assistant", {"models": {"assistant": {}}}),
            ("spec.models.assistant", {"models": {"assistant": {**HUB, "pocket": {}, "path": "m"}}}),
        ),
    ),
    "oneSourceOfDataset": Example(
        (
            {"datasets": {"redTeam": {"path": "x"}, "helpfulness": HUB}},
            {"datasets": {"preference": {"configMap": {"name": "a", "key": "b"}}}},
        ),
        (
            ("spec.datasets.redTeam", {"datasets": {"redTeam": {}}}),
            ("spec.datasets.helpfulness", {"datasets": {"helpfulness": {**HUB, "path": "x"}}}),
            ("spec.datasets.preference", {"datasets": {"preference": {"pocket": {}, "path": "x"}}}),
        ),
    ),
    "oneSourceOfConstitution": Example(
        ({"constitution": {"configMap": {"name": "mine"}}}, {"constitution": {"path": "texts"}}),
        (
            ("spec.constitution", {"constitution": {}}),
            ("spec.constitution", {"constitution": {"configMap": {"name": "mine"}, "path": "texts"}}),
        ),
    ),
    "claimNameWithoutSize": Example(
        ({"storage": {"size": "1Gi"}}, {"storage": {"claimName": "c"}}),
        (("spec.storage.size", {"storage": {"claimName": "c", "size": "1Gi"}}),),
    ),
    "claimNameWithoutStorageClassName": Example(
        ({"storage": {"storageClassName": "rwx"}},),
        (("spec.storage.storageClassName", {"storage": {"claimName": "c", "storageClassName": "rwx"}}),),
    ),
    "accessModeForSeveralNodes": Example(
        (
            {"storage": {"accessMode": "ReadWriteOnce"}},
            {"storage": {"accessMode": "ReadWriteMany"}, **stages(ppo={"nodes": 2})},
            stages(rewardModel={"nodes": 2}),
        ),
        (
            *(
                (
                    "spec.storage.accessMode",
                    {"storage": {"accessMode": "ReadWriteOnce"}, **stages(**{name: {"nodes": 2}})},
                )
                for name in ("sft", "rewardModel", "ppo")
            ),
            (
                "spec.storage.accessMode",
                {"engine": "nemo", "storage": {"accessMode": "ReadWriteOnce"}, **stages(ppo={"critic": {"nodes": 2}})},
            ),
        ),
    ),
    "oneOwnJudge": Example(
        ({"judge": {"self": True}}, {"judge": {"pocket": {}}}),
        (("spec.judge", {"judge": {"self": True, "pocket": {}}}),),
    ),
    "someJudge": Example(
        ({"judge": REMOTE}, {"judge": {"apiKeySecret": SECRET}}, {"judge": {"panel": PANEL}}),
        (("spec.judge", {"judge": {}}),),
    ),
    "ownJudgeWithoutUrl": Example(
        ({"judge": {"self": True}},), (("spec.judge.url", {"judge": {"self": True, "url": "https://host"}}),)
    ),
    "ownJudgeWithoutModel": Example(
        ({"judge": {"model": "m"}},), (("spec.judge.model", {"judge": {"pocket": {}, "model": "m"}}),)
    ),
    "ownJudgeWithoutApiKeySecret": Example(
        ({"judge": {"self": True}},), (("spec.judge.apiKeySecret", {"judge": {"self": True, "apiKeySecret": SECRET}}),)
    ),
    "judgeModelWithUrl": Example(
        ({"judge": {"url": "https://host", "model": "m"}},), (("spec.judge.model", {"judge": {"url": "https://host"}}),)
    ),
    "panelAlone": Example(
        ({"judge": {"panel": PANEL}}, {**NOT_POCKET, "judge": {"panel": [*PANEL, {**PANEL[0], "model": "n"}]}}),
        (
            ("spec.judge.panel", {"judge": {**REMOTE, "panel": PANEL}}),
            ("spec.judge.panel", {"judge": {"apiKeySecret": SECRET, "panel": PANEL}}),
            ("spec.judge.panel", {"judge": {"self": True, "panel": PANEL}}),
            ("spec.judge.panel", {"judge": {"pocket": {}, "panel": PANEL}}),
        ),
    ),
    "panelDiffers": Example(
        ({"judge": {"panel": [{"url": "https://a", "model": "m"}, {"url": "https://a", "model": "n"}]}},),
        (
            ("spec.judge.panel", {"judge": {"panel": [PANEL[0], PANEL[0]]}}),
            ("spec.judge.panel", {"judge": {"panel": [*PANEL, {**PANEL[1], "apiKeySecret": SECRET}]}}),
        ),
    ),
    "slDataNeeds": _needs("slData", "datasets", "sft", "rlData", "rewardModel", "ppo", "evaluate"),
    "sftNeeds": _needs("sft", "slData", "rlData", "rewardModel", "ppo"),
    "rlDataNeeds": _needs("rlData", "sft", "rewardModel", "ppo"),
    "rewardModelNeeds": _needs("rewardModel", "rlData", "ppo"),
    "ppoNeeds": _needs("ppo", "rewardModel"),
    "evaluateNeeds": _needs("evaluate", "datasets", "slData", "sft", "rlData", "rewardModel", "ppo"),
    "serveNeeds": _needs("serve", "models", "slData", "sft", "rlData", "rewardModel", "ppo", "evaluate"),
    "oneNode": Example(
        (
            stages(sft={"nodes": 4}, rewardModel={"nodes": 2}, ppo={"nodes": 2}),
            stages(evaluate={"nodes": 2, "enabled": False}),
        ),
        tuple(
            (f"spec.stages.{name}.nodes", stages(**{name: {"nodes": 2}}))
            for name in ("models", "datasets", "slData", "rlData", "evaluate", "serve", "report")
        ),
    ),
    "criticOnlyWithPpo": Example(
        (off("ppo"), stages(ppo={"critic": {"port": 9}})),
        (
            ("spec.stages.ppo.critic", stages(ppo={"enabled": False, "critic": {"port": 9}})),
            ("spec.stages.ppo.critic", stages(ppo={"enabled": False, "critic": {"overrides": {"learning-rate": 1}}})),
            ("spec.stages.ppo.critic", stages(ppo={"enabled": False, "critic": {}})),
        ),
    ),
    "gatesOnlyWithEvaluate": Example(
        (
            off("evaluate"),
            stages(evaluate={"enabled": False, "gates": {}}),
            stages(evaluate={"gates": {"maxHarmfulRate": 0.2}}),
        ),
        (
            ("spec.stages.evaluate.gates", stages(evaluate={"enabled": False, "gates": {"minHelpfulRate": 0}})),
            ("spec.stages.evaluate.gates", stages(evaluate={"enabled": False, "gates": {"maxHarmfulRate": 1}})),
        ),
    ),
    "someExamples": Example(
        (stages(slData={"numExamples": 1}, rlData={"numExamples": -1}, evaluate={"numExamples": 7}),),
        tuple(
            (f"spec.stages.{name}.numExamples", stages(**{name: {"numExamples": 0}}))
            for name in ("slData", "rlData", "evaluate")
        ),
    ),
    "temperatureInRange": Example(
        (stages(rlData={"temperatures": [1, 100]}), stages(rlData={"temperatures": [0.001, 99.9]})),
        (
            ("spec.stages.rlData.temperatures[0]", stages(rlData={"temperatures": [0, 0.5]})),
            ("spec.stages.rlData.temperatures[1]", stages(rlData={"temperatures": [0.5, 100.5]})),
            ("spec.stages.rlData.temperatures[1]", stages(rlData={"temperatures": [0.5, -1]})),
        ),
    ),
    "temperaturesDiffer": Example(
        (stages(rlData={"temperatures": [0.5, 0.6, 0.7]}),),
        (
            ("spec.stages.rlData.temperatures", stages(rlData={"temperatures": [0.5, 0.6, 0.5]})),
            ("spec.stages.rlData.temperatures", stages(rlData={"temperatures": [1, 1.0]})),
        ),
    ),
    "splitsSumToOne": Example(
        (
            stages(rlData={"splits": {"train": 0.9, "test": 0.1}}),
            stages(rlData={"splits": {"train": 0.7, "test": 0.3}}),
        ),
        (
            ("spec.stages.rlData.splits", stages(rlData={"splits": {"train": 0.9}})),
            ("spec.stages.rlData.splits", stages(rlData={"splits": {"train": 0.5, "test": 0.4}})),
        ),
    ),
    "someComparisons": Example(
        (judging(mode="principle", comparisonsPerPrompt=1), judging(mode="principle", comparisonsPerPrompt=-1)),
        (
            (f"{JUDGING}.comparisonsPerPrompt", judging(mode="principle", comparisonsPerPrompt=0)),
            (f"{JUDGING}.comparisonsPerPrompt", judging(comparisonsPerPrompt=0)),
        ),
    ),
    "comparisonsOnlyByPrinciple": Example(
        (judging(mode="principle", comparisonsPerPrompt=6), judging(comparisonsPerPrompt=1), judging(rate=0.5)),
        (
            (f"{JUDGING}.comparisonsPerPrompt", judging(comparisonsPerPrompt=2)),
            (f"{JUDGING}.comparisonsPerPrompt", judging(mode="constitution", comparisonsPerPrompt=-1)),
        ),
    ),
    "thoughtOnlyByPrinciple": Example(
        (judging(mode="principle", chainOfThought=True), judging(chainOfThought=False)),
        ((f"{JUDGING}.chainOfThought", judging(chainOfThought=True)),),
    ),
    "hfReadsNoNemoBase": Example(
        (
            {"models": {"base": {"pocket": None, "path": "m.nemo"}}, "engine": "nemo"},
            {"models": {"base": {"pocket": None, "path": "nemo"}}},
        ),
        (("spec.models.base.path", {"models": {"base": {"pocket": None, "path": "m.nemo"}}}),),
    ),
    "hfReadsNoNemoAssistant": Example(
        ({"models": {"assistant": {"path": "a.nemo"}}, "engine": "nemo"}, {"models": {"assistant": {"path": "a"}}}),
        (("spec.models.assistant.path", {"models": {"assistant": {"path": "a.nemo"}}}),),
    ),
    "nothingOfArgoCd": Example(
        (
            {"template": {"labels": {"app.kubernetes.io/instance": "cost-centre"}, "annotations": {"note": "x"}}},
            stages(sft={"template": {"labels": {"example.com/argocd.argoproj.io": "x"}}}),
        ),
        tuple(
            (f"{where}.{field}", change)
            for field, key in (("labels", "instance"), ("annotations", "tracking-id"))
            for where, change in in_every_template({field: {"team": "red", f"argocd.argoproj.io/{key}": "x"}})
        ),
    ),
    "deviceOnce": Example(
        (interconnect(devices=[{"resource": "rdma/hca", "count": 2}, {"resource": "rdma/other"}]),),
        in_every_interconnect("devices", devices=[{"resource": "rdma/hca"}, {"resource": "rdma/hca", "count": 2}]),
    ),
    "gpusByTheirOwnField": Example(
        (interconnect(devices=[{"resource": "nvidia.com/mlnxnics"}]),),
        in_every_interconnect(
            "devices[1].resource", devices=[{"resource": "rdma/hca"}, {"resource": "nvidia.com/gpu", "count": 8}]
        ),
    ),
    "appArmorOfTheRuntime": Example(
        ({"template": {"annotations": {"team": "red"}}},),
        (
            ("spec.template.annotations", UNCONFINED),
            *((f"spec.stages.{name}.template.annotations", stages(**{name: UNCONFINED})) for name in STAGES),
        ),
    ),
    "variableOnce": Example(
        (interconnect(env=[NCCL_DEBUG, {"name": "NCCL_IB_HCA", "value": "mlx5"}]),),
        in_every_interconnect("env", env=[NCCL_DEBUG, NCCL_DEBUG]),
    ),
    "interfaceOnce": Example(
        (
            interconnect(interface="eth1", env=[NCCL_DEBUG]),
            interconnect(env=[{"name": "NCCL_SOCKET_IFNAME", "value": "^lo"}]),
        ),
        (
            *in_every_interconnect("env", interface="eth1", env=[{"name": "NCCL_SOCKET_IFNAME", "value": "eth1"}]),
            *in_every_interconnect("env", interface="eth1", env=[{"name": "GLOO_SOCKET_IFNAME", "value": "eth1"}]),
        ),
    ),
    "exportOnlyWhereTrained": Example(
        (off("ppo"), {"engine": "nemo", **NOT_POCKET, **off("ppo", sft=EXPORT)}),
        (
            ("spec.stages.ppo.exportHuggingFace", {"engine": "nemo", **off(ppo={"enabled": False, **EXPORT})}),
            (
                "spec.stages.sft.exportHuggingFace",
                {"engine": "nemo", **off("rlData", "rewardModel", "ppo", sft={"enabled": False, **EXPORT})},
            ),
        ),
    ),
    **{
        f"onlyNemoExports{stage.capitalize()}": Example(
            ({"engine": "nemo", **NOT_POCKET, **stages(**{stage: EXPORT})}, stages(**{stage: {**EXPORT, **NO_EXPORT}})),
            ((f"spec.stages.{stage}.exportHuggingFace", stages(**{stage: EXPORT})),),
        )
        for stage in EXPORTING_STAGES
    },
    **{
        f"noExportFromNemo{stage.capitalize()}": Example(
            (
                {"engine": "nemo", "models": {"base": {"pocket": None, "path": "m"}}, **stages(**{stage: EXPORT})},
                {
                    "engine": "nemo",
                    "models": {**NOT_POCKET["models"], "assistant": {"path": "a.nemo"}},
                    **stages(**{stage: EXPORT}),
                },
            ),
            ((f"spec.stages.{stage}.exportHuggingFace", {**FROM_NEMO, **stages(**{stage: EXPORT})}),),
        )
        for stage in EXPORTING_STAGES
    },
    "hfCriticOnOneNode": Example(
        (stages(ppo={"critic": {"nodes": 1}}), {"engine": "nemo", **stages(ppo={"critic": {"nodes": 2}})}),
        (("spec.stages.ppo.critic.nodes", stages(ppo={"critic": {"nodes": 2}})),),
    ),
    "pocketJudgeOnlyCompares": Example(
        (
            stages(evaluate={"classifier": "rule"}),
            {"judge": {"self": True}, **stages(evaluate={"classifier": "judge"})},
            {**NOT_POCKET, **stages(evaluate={"classifier": "judge"})},
            {"engine": "nemo", **stages(evaluate={"classifier": "judge"})},
        ),
        (
            ("spec.stages.evaluate.classifier", stages(evaluate={"classifier": "judge"})),
            (
                "spec.stages.evaluate.classifier",
                {**NOT_POCKET, "judge": {"pocket": {}}, **stages(evaluate={"classifier": "judge"})},
            ),
        ),
    ),
    "ruleOnlyForPocket": Example(
        ({**NOT_POCKET, "engine": "nemo", **stages(evaluate={"classifier": "rule"})}, NOT_POCKET),
        (("spec.stages.evaluate.classifier", {**NOT_POCKET, **stages(evaluate={"classifier": "rule"})}),),
    ),
    "claimNameStays": Example(
        ({"storage": {"claimName": "c", "retain": False}, "seed": 2},),
        (
            ("spec.storage.claimName", {"storage": {"claimName": "d"}}),
            ("spec.storage.claimName", {"storage": {"size": "1Gi"}}),
            ("spec.storage.claimName", {}),
        ),
        old={"storage": {"claimName": "c"}},
    ),
    "storageClassNameStays": Example(
        ({"storage": {"storageClassName": "rwx", "retain": False}, "engine": "nemo"},),
        (
            ("spec.storage.storageClassName", {"storage": {"storageClassName": "rwo"}}),
            ("spec.storage.storageClassName", {}),
        ),
        old={"storage": {"storageClassName": "rwx"}},
    ),
    "accessModeStays": Example(
        (
            {"storage": {"accessMode": "ReadWriteOnce"}},
            stages(ppo={"critic": {"gpusPerNode": 0}}),
            stages(sft={"retries": 1}),
        ),
        (
            ("spec.storage.accessMode", {"storage": {"accessMode": "ReadWriteMany"}}),
            ("spec.storage.accessMode", stages(sft={"nodes": 2})),
            ("spec.storage.accessMode", {"engine": "nemo", **stages(ppo={"critic": {"nodes": 2}})}),
        ),
        old={},
    ),
    "sizeGrows": Example(
        ({"storage": {"size": "300Gi"}}, {"storage": {"size": "0.5Ti"}}, {"storage": {"size": 400000000000}}),
        (
            ("spec.storage.size", {"storage": {"size": "299Gi"}}),
            ("spec.storage.size", {"storage": {"size": 300}}),
            ("spec.storage.size", {}),
        ),
        old={"storage": {"size": "300Gi"}},
    ),
}
