"""`helm test`, `helm uninstall` and `helm install` again on the node: what goes, what stays, what is found again."""

from __future__ import annotations

import json

import pytest
from tests.harness import installed
from tests.harness.chart import RELEASE, SYSTEM, Object, helm
from tests.harness.cluster import Cluster
from tests.harness.installed import Run
from tests.harness.objects import Api, wait_for

from cai_operator.manifests.kinds import CLAIM, JOB, PIPELINE, POD

pytestmark = pytest.mark.slow

NAMED_AFTER_IT = f"--selector=app.kubernetes.io/instance={RELEASE}"
CLUSTER_WIDE = "customresourcedefinition,clusterrole,clusterrolebinding"
NAMESPACED = "all,serviceaccount,role,rolebinding,networkpolicy,configmap,secret,persistentvolumeclaim"


def test_helm_test_trains_a_tiny_model_and_leaves_nothing(operator: Cluster) -> None:
    installed.upgrade(operator)
    words = ["test", RELEASE, "--namespace", SYSTEM, "--logs", "--timeout=20m"]
    said = helm(*words, cluster=operator).stdout
    assert "it became Ready, and is taken away again" in said
    with operator.client() as client:
        api = Api(client, SYSTEM)
        wait_for(
            lambda: [api.names(kind) for kind in (PIPELINE, JOB, CLAIM)], "all it made to go", lambda it: not any(it)
        )
        wait_for(lambda: len(api.list(POD)), "its pods to go, but the operator's", lambda pods: pods == 1)
    accounts = operator.kubectl("get", "serviceaccount,role,rolebinding,configmap", "-n", SYSTEM, "-o", "name").stdout
    assert f"{RELEASE}-test" not in accounts


def test_uninstalling_leaves_pipelines_and_data_which_the_next_install_finds(
    operator: Cluster, undisturbed: Run
) -> None:
    installed.upgrade(operator)
    undisturbed.until_phase("Succeeded")
    before, rows = undisturbed.api.pipeline("small"), undisturbed.rows()
    jobs = undisturbed.api.names(JOB)

    helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout=5m", cluster=operator)
    left = operator.kubectl("get", CLUSTER_WIDE, NAMED_AFTER_IT, "-o", "name").stdout.split()
    assert left == ["customresourcedefinition.apiextensions.k8s.io/caipipelines.cai.dev"]
    # pods and replica sets are the garbage collector's
    words = ["get", NAMESPACED, "-n", SYSTEM, NAMED_AFTER_IT, "-o", "name"]
    wait_for(lambda: operator.kubectl(*words).stdout, "all of its namespace to go", lambda found: not found)
    assert json.loads(helm("list", "--all-namespaces", "--output", "json", cluster=operator).stdout) == []
    # by itself, and it goes with the namespace
    leases = operator.kubectl("get", "lease", "-n", SYSTEM, "-o", "name").stdout.split()
    assert leases == [f"lease.coordination.k8s.io/{RELEASE}"]
    assert _lasting(undisturbed.api.pipeline("small")) == _lasting(before)
    assert undisturbed.rows() == rows

    installed.upgrade(operator)
    # in no stage's key, and so a reason to look and none to run anything again
    change = json.dumps({"spec": {"template": {"labels": {"looked": "again"}}}})
    operator.kubectl("patch", "caip", "small", "-n", undisturbed.api.namespace, "--type=merge", f"--patch={change}")
    generation = before["metadata"]["generation"] + 1
    wait_for(undisturbed.status, "the operator to look", lambda status: status["observedGeneration"] == generation)
    after = undisturbed.api.pipeline("small")
    assert _lasting(after)["stages"] == _lasting(before)["stages"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert undisturbed.api.names(JOB) == jobs


def _lasting(pipeline: Object) -> Object:
    """What of a pipeline an operator that comes and goes must not change."""
    stages = pipeline["status"]["stages"]
    told = [{name: one.get(name) for name in ("name", "state", "key", "attempts", "artifact")} for one in stages]
    return {"uid": pipeline["metadata"]["uid"], "spec": pipeline["spec"], "stages": told}
