"""A deleted pipeline goes with all its children, in every state, operator or not; its data stays if asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import UNSCHEDULABLE, Fail, NotReady, Run
from tests.harness.pipelines import pocket, short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import CHILD_KINDS, CLAIM, DEPLOYMENT, PIPELINE, POD

State = Callable[[Api, Player], str]


def starting(api: Api, player: Player) -> str:
    """Its server is not ready yet."""
    player.script("slData/server", NotReady())
    api.create(PIPELINE, short())
    wait_for(lambda: api.list(DEPLOYMENT), "the server")
    return "short"


def running(api: Api, player: Player) -> str:
    """A program runs, and its server."""
    player.script("slData", Run())
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    return "short"


def stuck(api: Api, player: Player) -> str:
    """No node has room for its pods."""
    player.script("models", UNSCHEDULABLE)
    api.create(PIPELINE, short())
    wait_for(lambda: api.condition("short", "Degraded").get("reason") == "Unschedulable", "the pod to be seen stuck")
    return "short"


def failed(api: Api, player: Player) -> str:
    """A stage failed."""
    player.script("sft", Fail(2))
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Failed")
    return "short"


def suspended(api: Api, player: Player) -> str:
    """It was suspended while a program ran."""
    running(api, player)
    api.patch(PIPELINE, "short", {"spec": {"suspend": True}})
    api.wait_for_phase("short", "Suspended")
    return "short"


def serving(api: Api, player: Player) -> str:
    """It serves its model."""
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    return "pocket"


STATES = (starting, running, stuck, failed, suspended, serving)


def children(api: Api) -> list[str]:
    """All objects of all pipelines that are there, being deleted or not, but data that is to stay."""
    kinds = [kind for kind in (*CHILD_KINDS, POD) if kind != CLAIM]
    selector = {"app.kubernetes.io/managed-by": "cai-operator"}
    return [f"{kind.kind}/{item['metadata']['name']}" for kind in kinds for item in api.list(kind, **selector)]


def nothing_is_left(api: Api, name: str) -> None:
    """Wait until the pipeline and all its children are gone."""
    wait_for(lambda: api.get(PIPELINE, name), "the pipeline to go", lambda found: found is None)
    wait_for(lambda: children(api), "its children to go", lambda left: not left)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_with_the_operator(api: Api, player: Player, operator: OperatorProcess, state: State, propagation: str) -> None:
    name = state(api, player)
    api.delete(PIPELINE, name, propagation)
    nothing_is_left(api, name)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_without_the_operator(api: Api, player: Player, operator: OperatorProcess, state: State) -> None:
    name = state(api, player)
    operator.kill()
    api.delete(PIPELINE, name)
    nothing_is_left(api, name)


@pytest.mark.parametrize("has_operator", [True, False], ids=["with-operator", "without-operator"])
def test_with_its_namespace(
    api: Api, player: Player, operator: OperatorProcess, control_plane_with_jobs: ControlPlane, has_operator: bool
) -> None:
    running(api, player)
    if not has_operator:
        operator.kill()
    namespace = f"/api/v1/namespaces/{api.namespace}"
    api.client.delete(namespace)
    wait_for(lambda: api.client.get(namespace).status_code, "the namespace to be gone", lambda code: code == 404)


def test_nothing_of_ours_holds_it_back(api: Api, player: Player, operator: OperatorProcess) -> None:
    """No finalizer of the operator's on the pipeline, and no mark of its framework either."""
    running(api, player)
    metadata = api.pipeline("short")["metadata"]
    assert "finalizers" not in metadata
    assert "annotations" not in metadata


@pytest.mark.parametrize("retain", [True, False], ids=["retained", "not-retained"])
def test_the_data(api: Api, player: Player, operator: OperatorProcess, retain: bool) -> None:
    api.create(PIPELINE, short(spec={"storage": {"retain": retain}}))
    api.wait_for_phase("short", "Succeeded")
    [claim] = api.list(CLAIM)
    api.delete(PIPELINE, "short")
    nothing_is_left(api, "short")
    if retain:
        assert api.list(CLAIM)[0]["metadata"]["uid"] == claim["metadata"]["uid"]
    else:
        wait_for(lambda: api.list(CLAIM), "the claim to go", lambda left: not left)


def test_the_same_name_again(api: Api, player: Player, operator: OperatorProcess) -> None:
    """Children of the old pipeline that are still going are not taken for the new one's; the claim is used again."""
    player.script("slData", Run())
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    [claim] = api.list(CLAIM)
    api.delete(PIPELINE, "short")
    wait_for(lambda: api.get(PIPELINE, "short"), "the old one to go", lambda found: found is None)
    new = api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    for kind in CHILD_KINDS:
        for item in api.list(kind, **{"app.kubernetes.io/managed-by": "cai-operator"}):
            assert kind == CLAIM or item["metadata"]["ownerReferences"][0]["uid"] == new["metadata"]["uid"]
    assert api.list(CLAIM)[0]["metadata"]["uid"] == claim["metadata"]["uid"]
    assert runs_of(player.started) == {"models": 2, "datasets": 2, "slData": 2, "slData/server": 2, "sft": 1}


def test_children_left_behind_are_taken_over(api: Api, player: Player, operator: OperatorProcess) -> None:
    """`kubectl delete --cascade=orphan`, and the same pipeline again: what runs goes on."""
    player.script("slData", Run())
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    api.delete(PIPELINE, "short", "Orphan")
    wait_for(lambda: api.get(PIPELINE, "short"), "the old one to go", lambda found: found is None)
    api.create(PIPELINE, short())
    wait_for(lambda: api.node("short", "slData").get("state"), "slData to run", lambda state: state == "Running")
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 1}
