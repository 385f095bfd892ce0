"""Manifests whose every pod is looked at: the examples, the operator's own, and pipelines made by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from cai_operator.api_base import APP_ARMOR_ANNOTATION
from cai_operator.manifests.site import Site
from cai_operator.render import manifests_by_node
from cai_operator.stages import STAGES
from cai_operator.validation import parse_pipeline

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
INSTALL = ROOT / "operator" / "install"
SITE = Site(images={"hf": "cai-jobs:1", "nemo": "cai-nemo:1"})

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    """The objects of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def rendered(pipeline: Mapping[str, Any], site: Site = SITE) -> list[Object]:
    """Everything that is made for a pipeline."""
    groups = manifests_by_node(parse_pipeline(pipeline), {}, site)
    return [manifest for _, manifests in groups for manifest in manifests]


def templates(manifests: list[Object]) -> Iterator[tuple[str, Object]]:
    """The pod template of every Job and Deployment, by kind and name."""
    for manifest in manifests:
        if manifest["kind"] in ("Job", "Deployment", "Pod"):
            template = manifest if manifest["kind"] == "Pod" else manifest["spec"]["template"]
            yield f"{manifest['kind']} {manifest['metadata']['name']}", template


_WORDS = st.text("abcdefghij", min_size=1, max_size=8)
_LABELS = st.dictionaries(_WORDS, _WORDS, max_size=2)
_INTERCONNECT = st.fixed_dictionaries(
    {},
    optional={
        "interface": st.just("eth0"),
        "devices": st.just([{"resource": "rdma/hca", "count": 2}]),
        "env": st.just([{"name": "NCCL_IB_HCA", "value": "mlx5"}]),
        "ipcLock": st.booleans(),
    },
)
# whatever of a pod's own fields a template passes on, its safety is none of them
_ANY = st.dictionaries(
    st.sampled_from(["privileged", "hostNetwork", "securityContext", "key", "hostPath"]),
    st.recursive(st.booleans() | _WORDS, lambda inner: st.dictionaries(_WORDS, inner, max_size=2), max_leaves=4),
    max_size=2,
)
TEMPLATES = st.fixed_dictionaries(
    {},
    optional={
        "labels": _LABELS,
        "annotations": st.dictionaries(
            st.sampled_from(["note", APP_ARMOR_ANNOTATION, "seccomp.security.alpha.kubernetes.io/pod"]),
            st.sampled_from(["unconfined", "runtime/default"]),
        ),
        "nodeSelector": _LABELS,
        "tolerations": st.lists(_ANY, max_size=2),
        "affinity": st.fixed_dictionaries({}, optional={"nodeAffinity": _ANY, "podAntiAffinity": _ANY}),
        "topologySpreadConstraints": st.lists(_ANY, max_size=2),
        "runtimeClassName": st.just("nvidia"),
        "imagePullSecrets": st.just([{"name": "registry"}]),
        "shmSize": st.just("1Gi"),
        "queueName": st.just("queue"),
        "interconnect": _INTERCONNECT,
    },
)


def _stage(engine: str) -> st.SearchStrategy[Object]:
    gpus = st.integers(0, 8) if engine == "hf" else st.just(8)
    return st.fixed_dictionaries({}, optional={"template": TEMPLATES, "gpusPerNode": gpus, "image": st.just("own:1")})


@st.composite
def pipelines(draw: st.DrawFn) -> Object:
    """A pipeline of either engine with templates, GPUs and several machines here and there."""
    engine = draw(st.sampled_from(["hf", "nemo"]))
    stages: Object = {name: draw(_stage(engine)) for name in draw(st.sets(st.sampled_from(STAGES)))}
    for name in draw(st.sets(st.sampled_from(["sft", "rewardModel", "ppo"]))):
        stages.setdefault(name, {})["nodes"] = draw(st.sampled_from([1, 2, 4]))
    spec: Object = {
        "engine": engine,
        "models": {"base": {"huggingFace": {"repo": "owner/mistral"}}},
        "judge": {"url": "https://judge/v1", "model": "m", "apiKeySecret": {"name": "ngc", "key": "api-key"}},
        "hubTokenSecret": {"name": "hub", "key": "token"},
        "template": draw(TEMPLATES),
        "stages": stages,
        "gpusPerNode": draw(st.sampled_from([0, 1, 8] if engine == "hf" else [8])),
    }
    metadata = {"name": draw(_WORDS), "namespace": "lab"}
    return {"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "metadata": metadata, "spec": spec}
