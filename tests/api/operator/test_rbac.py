"""The role that is shipped is exactly what the operator needs: nothing it does is refused, no right goes unused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml
from tests.api.operator.conftest import INSTALL, SYSTEM
from tests.harness.control_plane import ControlPlane
from tests.harness.fault_proxy import FaultProxy
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Run
from tests.harness.pipelines import pocket
from tests.harness.player import Player

from cai_operator.manifests.kinds import LEASE, NETWORK_POLICY, PIPELINE, ObjectKind

Right = tuple[str, str, str]
QUOTA = ObjectKind("v1", "ResourceQuota", "resourcequotas")


def test_everything_is_needed_and_nothing_more(
    api: Api,
    player: Player,
    proxy: FaultProxy,
    make_operator: Callable[..., OperatorProcess],
    control_plane_with_jobs: ControlPlane,
) -> None:
    with control_plane_with_jobs.client() as client:
        client.delete(LEASE.path(SYSTEM, "cai-operator"))
    # as it is shipped: for all namespaces
    make_operator(proxy.url, CAI_NAMESPACES="", CAI_LEASE_NAMESPACE=SYSTEM).start()
    _do_all_it_ever_does(api, player, proxy)

    # of namespaces of other tests, which are going, it may see more
    ours = [request for request in proxy.requests if request.namespace in ("", SYSTEM, api.namespace)]
    assert [str(request) for request in ours if request.status in (401, 403)] == []
    used = proxy.rights_used()
    allowed = rights_of(INSTALL / "3-role.yaml")
    assert sorted(used - allowed) == []
    assert sorted(allowed - used) == []


def rights_of(path: Path) -> set[Right]:
    """(API group, resource, verb) of all rules of a file's roles."""
    rights: set[Right] = set()
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        for rule in document.get("rules", []):
            rights |= {
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return rights


def _do_all_it_ever_does(api: Api, player: Player, proxy: FaultProxy) -> None:
    # a Job without pods, whose events say why
    api.create(QUOTA, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    wait_for(lambda: (api.get(QUOTA, "none") or {}).get("status", {}).get("hard"), "the quota to be in force")
    principles = {"configMap": {"name": "principles"}}
    api.create(PIPELINE, pocket(spec={"constitution": principles}))
    wait_for(lambda: api.condition("pocket", "Degraded").get("status") == "True", "the quota to be shown")
    text = '[{"critique_request": "Is it kind?", "revision_request": "Make it kind."}]'
    api.client.post(
        f"/api/v1/namespaces/{api.namespace}/configmaps",
        json={"metadata": {"name": "principles"}, "data": {"critique_revision_instructions.json": text}},
    ).raise_for_status()
    player.script("slData", Run(), Run())
    api.delete(QUOTA, "none")
    # a running program, whose log is read, and whose stage changes
    player.wait_for_running("slData")
    wait_for(lambda: api.node("pocket", "slData").get("state") == "Running", "slData to be seen running")
    wait_for(lambda: [r for r in proxy.requests if r.full_resource == "pods/log"], "its log to be read")
    api.patch(PIPELINE, "pocket", {"spec": {"stages": {"slData": {"numExamples": 8}}}})
    wait_for(lambda: len(player.running("slData")) == 2, "slData to run anew")
    # something of an earlier version of the operator
    labels = {"cai.dev/pipeline": "pocket", "app.kubernetes.io/managed-by": "cai-operator"}
    api.create(
        NETWORK_POLICY,
        {"metadata": {"name": "of-old", "labels": labels}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
    )
    player.end("slData")
    api.wait_for_phase("pocket", "Succeeded")
    wait_for(lambda: api.get(NETWORK_POLICY, "of-old"), "the old policy to be taken away", lambda found: found is None)
