"""Whether an object lacks something wanted; that defaults of the API server are none is tested against the server."""

from __future__ import annotations

import copy
from decimal import Decimal

import pytest

from cai_operator.manifests.children import shared_children, workload_children
from cai_operator.manifests.drift import differs
from cai_operator.manifests.quantities import canonical, value
from cai_operator.manifests.site import Site

SITE = Site(images={"hf": "cai-jobs:1"})


@pytest.fixture
def deployment(executor, pipeline):
    """The Deployment of a server with much in it."""
    template = {
        "tolerations": [{"key": "a"}, {"key": "b", "operator": "Exists"}],
        "labels": {"team": "red"},
        "shmSize": "1Gi",
    }
    metadata = {"name": "tiny", "uid": "u-1"}
    run = executor(pipeline({"gpusPerNode": 1, "template": template}, metadata=metadata))
    run.run()
    server = next(w for w in run.workloads.values() if w.kind == "server" and w.node == "slData")
    return workload_children(run.pipeline, server, SITE)[-1]


def changed(manifest, change):
    observed = copy.deepcopy(manifest)
    change(observed, observed["spec"]["template"]["spec"], observed["spec"]["template"]["spec"]["containers"][0])
    return observed


def test_every_child_is_like_itself(executor, pipeline):
    run = executor(pipeline())
    run.run()
    manifests = list(shared_children(run.pipeline, SITE))
    manifests += [child for w in run.workloads.values() for child in workload_children(run.pipeline, w, SITE)]
    for manifest in manifests:
        assert not differs(manifest, copy.deepcopy(manifest))


ADDED = {
    "status": lambda top, pod, program: top.update(status={"replicas": 1}),
    "a default": lambda top, pod, program: pod.update(dnsPolicy="ClusterFirst", restartPolicy="Always"),
    "labels": lambda top, pod, program: top["metadata"]["labels"].update(seen="yes"),
    "annotations": lambda top, pod, program: top["metadata"].update(annotations={"deployment.kubernetes.io/r": "1"}),
    "another owner": lambda top, pod, program: top["metadata"]["ownerReferences"].append({"uid": "u-2"}),
    "a node selector of a queue": lambda top, pod, program: pod.update(nodeSelector={"pool": "a"}),
    "a toleration between": lambda top, pod, program: pod["tolerations"].insert(1, {"key": "queue"}),
    "a sidecar": lambda top, pod, program: pod["containers"].insert(0, {"name": "mesh"}),
    "a variable": lambda top, pod, program: program["env"].insert(0, {"name": "X", "value": "1"}),
    "the same quantity": lambda top, pod, program: program["resources"]["requests"].update(cpu="8000m"),
    "the same size": lambda top, pod, program: pod["volumes"][-1]["emptyDir"].update(sizeLimit="1024Mi"),
    "types and versions left out": lambda top, pod, program: (top.pop("kind"), top.pop("apiVersion")),
    "variables in another order": lambda top, pod, program: program["env"].reverse(),
}
MISSING = {
    "replicas": lambda top, pod, program: top["spec"].update(replicas=0),
    "a label": lambda top, pod, program: top["metadata"]["labels"].pop("cai.dev/key"),
    "a pod's label": lambda top, pod, program: top["spec"]["template"]["metadata"]["labels"].update(team="blue"),
    "the owner": lambda top, pod, program: top["metadata"].pop("ownerReferences"),
    "the owner's uid": lambda top, pod, program: top["metadata"]["ownerReferences"][0].update(uid="u-9"),
    "the image": lambda top, pod, program: program.update(image="other"),
    "the command": lambda top, pod, program: program["command"].append("--more"),
    "a variable": lambda top, pod, program: program["env"].pop(),
    "a variable's value": lambda top, pod, program: program["env"][0].update(value="/root"),
    "a quantity": lambda top, pod, program: program["resources"]["limits"].update(memory="1Gi"),
    "a limit": lambda top, pod, program: program["resources"].pop("limits"),
    "a size": lambda top, pod, program: pod["volumes"][-1]["emptyDir"].update(sizeLimit="2Gi"),
    "no token": lambda top, pod, program: pod.pop("automountServiceAccountToken"),
    "privileges": lambda top, pod, program: program["securityContext"].update(allowPrivilegeEscalation=True),
    "the seccomp profile": lambda top, pod, program: pod["securityContext"].pop("seccompProfile"),
    "a toleration": lambda top, pod, program: pod["tolerations"].pop(0),
    "the order of tolerations": lambda top, pod, program: pod["tolerations"].reverse(),
    "the container": lambda top, pod, program: program.update(name="other"),
    "a probe": lambda top, pod, program: program.pop("readinessProbe"),
    "everything": lambda top, pod, program: top.pop("spec"),
}


@pytest.mark.parametrize("change", ADDED.values(), ids=ADDED)
def test_what_is_there_besides_is_no_difference(deployment, change):
    assert not differs(deployment, changed(deployment, change))


@pytest.mark.parametrize("change", MISSING.values(), ids=MISSING)
def test_what_is_missing_or_another_is(deployment, change):
    assert differs(deployment, changed(deployment, change))


def test_more_in_a_selector_or_another_way_in_is_a_difference(executor, pipeline):
    run = executor(pipeline())
    run.run()
    [served] = [workload for workload in run.workloads.values() if workload.node == "serve"]
    service, policy = workload_children(run.pipeline, served, SITE)[0], shared_children(run.pipeline, SITE)[-1]
    narrowed, opened, widened = copy.deepcopy(service), copy.deepcopy(policy), copy.deepcopy(policy)
    narrowed["spec"]["selector"]["app"] = "other"
    opened["spec"]["ingress"].append({})
    widened["spec"]["podSelector"]["matchLabels"]["app"] = "other"
    assert differs(service, narrowed)
    assert differs(policy, opened)
    assert differs(policy, widened)


def test_what_is_empty_may_be_absent():
    wanted = {"kind": "Job", "metadata": {}, "spec": {"a": [], "b": {}, "c": ""}}
    assert not differs(wanted, {"metadata": {}, "spec": {}})
    assert differs({**wanted, "spec": {"a": False}}, {"metadata": {}, "spec": {}})
    assert differs({**wanted, "spec": {"a": 0}}, {"metadata": {}, "spec": {}})
    assert differs({**wanted, "spec": {"a": 1}}, {"metadata": {}, "spec": {"a": True}})


def test_a_claim_may_have_grown_but_not_be_too_small(pipeline):
    claim = shared_children(pipeline({"storage": {"size": "10Gi"}}), SITE)[0]
    for size, is_different in (("10Gi", False), ("20Gi", False), ("9Gi", True)):
        observed = copy.deepcopy(claim)
        observed["spec"]["resources"]["requests"]["storage"] = size
        assert differs(claim, observed) is is_different
    other = copy.deepcopy(claim)
    other["spec"]["resources"]["requests"]["storage"] = "20Gi"
    other["spec"]["accessModes"] = ["ReadWriteMany"]
    assert differs(claim, other)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("1000m", "1"),
        ("2000", "2k"),
        ("1024", "1024"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("0.5Ki", "512"),
        ("1.0000001Ki", "1025"),
        ("4000M", "4G"),
        ("200Gi", "200Gi"),
        ("2048Gi", "2Ti"),
        ("0", "0"),
        ("0.0Gi", "0"),
        ("0.0000000001", "1n"),
        ("100Ei", "100Ei"),
    ],
)
def test_quantities_as_the_api_server_writes_them(text, kept):
    assert canonical(text) == kept
    assert canonical(kept) == kept


def test_values_of_quantities():
    assert value("1Ki") == 1024
    assert value("5m") == Decimal("0.005")
    assert value("1e3") == value("1E+3") == value("1k") == value(1000) == 1000
    assert value("100n") == Decimal("0.0000001")
    for wrong in ("", ".", "Gi", "1 Gi", "-1", "1GiB"):
        with pytest.raises(ValueError, match="no quantity"):
            value(wrong)
