"""The API server takes every child, keeps of it what was asked for, and admits its pods at the restricted level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api
from tests.harness.pipelines import merged, pocket

from cai_operator.manifests.children import shared_children
from cai_operator.manifests.drift import differs
from cai_operator.manifests.kinds import CHILD_KINDS, PIPELINE, POD, kind_of
from cai_operator.manifests.site import Site
from cai_operator.render import manifests_by_node, render
from cai_operator.validation import parse_pipeline

SITE = Site(images={"hf": "cai-jobs:1"}, pull_policy="IfNotPresent")
MANAGER = "cai-operator"
EVERYTHING = {
    "gpusPerNode": 8,
    "judge": {"url": "https://host/v1/chat", "model": "m", "apiKeySecret": {"name": "judge", "key": "t"}},
    "hubTokenSecret": {"name": "hub", "key": "t"},
    "storage": {"size": "0.5Gi", "storageClassName": "rwx", "retain": False},
    "template": {
        "nodeSelector": {"zone": "a"},
        "tolerations": [
            {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
        ],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}
                ]
            },
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 5,
                        "podAffinityTerm": {"topologyKey": "rack", "labelSelector": {"matchLabels": {"c": "d"}}},
                    }
                ]
            },
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"},
            {
                "maxSkew": 2,
                "topologyKey": "room",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"team": "red"}},
            },
        ],
        "interconnect": {
            "interface": "eth1",
            "devices": [{"resource": "rdma/hca", "count": 1}, {"resource": "vpc.amazonaws.com/efa", "count": 1000}],
            "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}],
        },
        "priorityClassName": "system-node-critical",
        "runtimeClassName": "nvidia",
        "schedulerName": "packer",
        "imagePullSecrets": [{"name": "registry"}],
        "imagePullPolicy": "Always",
        "queueName": "gpus",
        "shmSize": "1024Mi",
        "labels": {"team": "red"},
        "annotations": {"note": "$(HOME)"},
    },
    "stages": {
        "sft": {"nodes": 3, "retries": 0, "deadline": "1d", "resources": {"cpu": "1.5", "memory": "4000M"}},
        "slData": {"server": {"replicas": 3}, "overrides": {"end_strings": ["</s>", "$(HOME)"]}},
        "serve": {"port": 80},
    },
}
SPECS: dict[str, dict[str, Any]] = {
    "pocket": {},
    "everything": EVERYTHING,
    "a claim that is there": {"storage": {"size": None, "claimName": "mine", "accessMode": "ReadWriteOnce"}},
}


@pytest.fixture
def api(control_plane: ControlPlane, crd: None) -> Iterator[Api]:
    """A namespace in which only restricted pods are admitted."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    with control_plane.namespace(labels) as namespace, control_plane.client() as client:
        yield Api(client, namespace)


@pytest.fixture
def children(api: Api) -> Callable[..., list[dict[str, Any]]]:
    """The children of a pipeline that is on the API server."""

    def make(spec: dict[str, Any]) -> list[dict[str, Any]]:
        pipeline = parse_pipeline(api.create(PIPELINE, pocket(spec=spec)))
        assert pipeline.metadata.uid is not None
        return [child for _, group in manifests_by_node(pipeline, {}, SITE) for child in group]

    return make


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_the_api_server_keeps_is_no_drift(api: Api, children: Callable[..., Any], spec: dict[str, Any]) -> None:
    made = children(spec)
    assert {manifest["kind"] for manifest in made} | {"PersistentVolumeClaim"} == {kind.kind for kind in CHILD_KINDS}
    for manifest in made:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        applied = api.apply(kind, manifest, MANAGER)
        assert not differs(manifest, applied), (manifest, applied)
        observed = api.get(kind, name)
        assert observed is not None
        assert not differs(manifest, observed)
        again = api.apply(kind, manifest, MANAGER)
        assert {**again, "metadata": None} == {**observed, "metadata": None}


def test_quantities_are_written_as_the_api_server_writes_them(api: Api, children: Callable[..., Any]) -> None:
    for manifest in children(EVERYTHING):
        observed = api.apply(kind_of(manifest), manifest, MANAGER)
        if manifest["kind"] == "PersistentVolumeClaim":
            assert observed["spec"]["resources"] == manifest["spec"]["resources"]
        elif manifest["kind"] in ("Job", "Deployment"):
            wanted, found = (item["spec"]["template"]["spec"] for item in (manifest, observed))
            assert found["containers"][0]["resources"] == wanted["containers"][0]["resources"]
            assert found["volumes"][-1]["emptyDir"] == wanted["volumes"][-1]["emptyDir"]


def test_a_child_changed_by_hand_differs_until_it_is_applied_again(api: Api, children: Callable[..., Any]) -> None:
    made = children({})
    by_kind = {manifest["kind"]: manifest for manifest in made}
    changes = {
        "Deployment": {"spec": {"replicas": 4}},
        "Service": {"spec": {"selector": {"cai.dev/pipeline": "other"}}},
        "NetworkPolicy": {"spec": {"ingress": [{}]}},
        "Job": {"metadata": {"labels": {"cai.dev/key": None}}},
        "PersistentVolumeClaim": {"metadata": {"labels": {"cai.dev/pipeline": None}}},
        "ConfigMap": {"metadata": {"ownerReferences": None}},
    }
    assert set(changes) == set(by_kind)
    for name, change in changes.items():
        manifest = by_kind[name]
        kind = kind_of(manifest)
        api.apply(kind, manifest, MANAGER)
        changed = api.patch(kind, manifest["metadata"]["name"], change)
        assert differs(manifest, changed), name
        assert not differs(manifest, api.apply(kind, manifest, MANAGER)), name


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_pods_are_admitted_at_the_restricted_level(
    api: Api, children: Callable[..., Any], spec: dict[str, Any]
) -> None:
    # neither the class of priority nor of runtime is there, nor would a quota let a test use the system's
    absent = {"template": {**spec.get("template", {}), "priorityClassName": None, "runtimeClassName": None}}
    made = children(merged(spec, absent))
    templates = [manifest["spec"]["template"] for manifest in made if manifest["kind"] in ("Job", "Deployment")]
    assert len(templates) > 10
    for number, template in enumerate(templates):
        api.create(POD, {"metadata": {**template["metadata"], "name": f"pod-{number}"}, "spec": template["spec"]})


def test_a_pod_that_is_not_restricted_is_refused(api: Api, children: Callable[..., Any]) -> None:
    [template, *_] = [manifest["spec"]["template"] for manifest in children({}) if manifest["kind"] == "Job"]
    del template["spec"]["securityContext"]
    with pytest.raises(httpx.HTTPStatusError, match="restricted"):
        api.create(POD, {"metadata": {"name": "pod"}, "spec": template["spec"]})


def test_ipc_lock_is_an_exception_to_the_restricted_level(api: Api, children: Callable[..., Any]) -> None:
    spec = {"stages": {"sft": {"nodes": 2, "template": {"interconnect": {"ipcLock": True}}}}}
    [template] = [
        manifest["spec"]["template"]
        for manifest in children(spec)
        if manifest["kind"] == "Job" and manifest["metadata"]["labels"]["cai.dev/stage"] == "sft"
    ]
    pod = {"metadata": {"name": "pod"}, "spec": template["spec"]}
    with pytest.raises(httpx.HTTPStatusError, match=r"unrestricted capabilities.*IPC_LOCK"):
        api.create(POD, pod)
    template["spec"]["containers"][0]["securityContext"]["capabilities"].pop("add")
    api.create(POD, pod)


def test_a_kept_server_changes_its_model_in_place(api: Api) -> None:
    first = parse_pipeline(api.create(PIPELINE, pocket()))
    second = parse_pipeline({**pocket(spec={"seed": 7}), "metadata": first.document()["metadata"]})
    seen = []
    for pipeline in (first, second):
        served = dict(manifests_by_node(pipeline, {}, SITE))["serve"]
        seen.append([api.apply(kind_of(manifest), manifest, MANAGER) for manifest in served])
    (old_service, old), (new_service, new) = seen
    assert old["metadata"]["uid"] == new["metadata"]["uid"]
    assert old["spec"]["template"] != new["spec"]["template"]
    assert old_service["spec"] == new_service["spec"]


def test_a_claim_is_let_go_when_the_spec_comes_to_retain_it(api: Api) -> None:
    document = api.create(PIPELINE, pocket(spec={"storage": {"retain": False}}))
    owned = shared_children(parse_pipeline(document), SITE)[0]
    kind = kind_of(owned)
    assert "ownerReferences" in api.apply(kind, owned, MANAGER)["metadata"]
    document["spec"]["storage"]["retain"] = True
    retained = shared_children(parse_pipeline(document), SITE)[0]
    assert "ownerReferences" not in api.apply(kind, retained, MANAGER)["metadata"]


def test_rendered_manifests_are_what_kubectl_takes(control_plane: ControlPlane, api: Api, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    document = pocket()
    document["metadata"]["namespace"] = api.namespace
    path.write_text(yaml.safe_dump(document))
    out = control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=render([path])).stdout
    assert len(out.splitlines()) == len(list(yaml.safe_load_all(render([path]))))
