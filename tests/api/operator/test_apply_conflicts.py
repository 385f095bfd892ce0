"""Others write to our children too: what is ours stays as we want it, what is theirs is left alone."""

from __future__ import annotations

import json

import pytest
from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import Run
from tests.harness.pipelines import short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import (
    CLAIM,
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    NETWORK_POLICY,
    PIPELINE,
    SERVICE,
    ObjectKind,
)

pytestmark = pytest.mark.usefixtures("operator", "player")


@pytest.fixture
def running(api: Api, player: Player) -> str:
    """A pipeline whose slData runs, with its server; the server's name."""
    player.script("slData", Run())
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    [server] = api.list(DEPLOYMENT)
    return str(server["metadata"]["name"])


def finish(api: Api, player: Player) -> None:
    """Let the pipeline end, with every program run once."""
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 1}


def test_another_manager_takes_a_field_of_ours(api: Api, player: Player, running: str) -> None:
    """Server-side apply with force, as another tool would use it on a field the operator owns."""
    port = {"name": "http", "port": 5999, "targetPort": 80, "protocol": "TCP"}
    api.apply(SERVICE, {"metadata": {"name": running}, "spec": {"ports": [port]}}, manager="another-tool")
    wait_for(
        lambda: [port["targetPort"] for port in api.list(SERVICE)[0]["spec"]["ports"]],
        "the port to be ours again",
        lambda ports: ports == [5999],
    )
    finish(api, player)


def test_a_field_another_manager_adds_stays(api: Api, player: Player, running: str) -> None:
    added = {"metadata": {"name": running, "annotations": {"mesh.example/inject": "false"}, "labels": {"team": "a"}}}
    api.apply(DEPLOYMENT, added, manager="another-tool")
    # the operator sets right a field of its own: what was added must outlive that
    api.patch(DEPLOYMENT, running, {"spec": {"progressDeadlineSeconds": 60}})
    [found] = wait_for(
        lambda: api.list(DEPLOYMENT),
        "the deadline to be ours again",
        lambda found: found[0]["spec"]["progressDeadlineSeconds"] != 60,
    )
    assert found["metadata"]["annotations"]["mesh.example/inject"] == "false"
    assert found["metadata"]["labels"]["team"] == "a"
    finish(api, player)


def test_our_fields_are_under_our_name(api: Api, player: Player, running: str) -> None:
    for kind in (DEPLOYMENT, SERVICE, JOB, CONFIG_MAP):
        for item in api.list(kind, **{"cai.dev/pipeline": "short"}):
            ours = [entry for entry in item["metadata"]["managedFields"] if entry["manager"] == "cai-operator"]
            assert [entry["operation"] for entry in ours] == ["Apply"]
    status = [entry for entry in api.pipeline("short")["metadata"]["managedFields"] if entry.get("subresource")]
    assert {entry["manager"] for entry in status} == {"cai-operator"}
    assert "f:spec" not in json.dumps([entry["fieldsV1"] for entry in status])
    finish(api, player)


def test_the_status_is_ours_alone(api: Api, player: Player, running: str) -> None:
    """What others write into it is written over, and never taken for work done."""
    api.patch(PIPELINE, "short", {"status": {"phase": "Succeeded", "message": "says who?"}}, "status")
    status = wait_for(
        lambda: api.status("short"), "the status to be true again", lambda status: status["phase"] == "Running"
    )
    assert "says who?" not in status["message"]
    finish(api, player)


def test_a_lost_status_is_put_together_again(api: Api, player: Player, running: str) -> None:
    api.patch(PIPELINE, "short", {"status": None}, "status")
    wait_for(
        lambda: api.node("short", "slData").get("state"), "the status to come again", lambda state: state == "Running"
    )
    assert api.node("short", "models")["state"] == "Succeeded"
    assert api.node("short", "models")["metrics"] == {"rows": 12}
    finish(api, player)


@pytest.mark.parametrize(
    ("kind", "name", "theirs"),
    [
        (CLAIM, "short-artifacts", {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
        (NETWORK_POLICY, "short-stages-access", {"podSelector": {}, "policyTypes": ["Egress"]}),
    ],
)
def test_an_object_of_the_users_own_with_a_childs_name_is_left_alone(
    api: Api, player: Player, kind: ObjectKind, name: str, theirs: dict[str, object]
) -> None:
    api.create(kind, {"metadata": {"name": name, "labels": {"team": "a"}}, "spec": theirs})
    made = api.get(kind, name)
    api.create(PIPELINE, short())
    condition = wait_for(
        lambda: [c for c in api.status("short").get("conditions", []) if "is not of this pipeline" in c["message"]],
        "the condition that names the object",
    )[0]
    assert {stage.get("reason") for stage in api.status("short")["stages"] if stage["name"] == "models"} == {"Refused"}
    assert f"{kind.kind} {name} exists already" in condition["message"]
    after = api.get(kind, name)
    assert made is not None
    assert after is not None
    assert after["metadata"]["labels"] == {"team": "a"}
    assert after["metadata"]["managedFields"] == made["metadata"]["managedFields"]
    api.delete(kind, name)
    api.wait_for_phase("short", "Succeeded")
