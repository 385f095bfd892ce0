"""A pipeline from `kubectl apply` to a served model, with the kubelet played by the test."""

from __future__ import annotations

import pytest
import yaml
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import NotReady, Run, Succeed
from tests.harness.pipelines import AFTER, JOBS, SERVERS, pocket, short
from tests.harness.player import Player, runs_of
from tests.harness.recorder import Change, Recorder

from cai_operator.manifests.kinds import (
    CLAIM,
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    NETWORK_POLICY,
    PIPELINE,
    POD,
    SERVICE,
    ObjectKind,
)

pytestmark = pytest.mark.usefixtures("operator", "player")


def test_from_apply_to_a_served_model(api: Api, recorder: Recorder, control_plane_with_jobs: ControlPlane) -> None:
    manifest = yaml.safe_dump(pocket())
    control_plane_with_jobs.kubectl("apply", "-n", api.namespace, "-f", "-", stdin=manifest)

    status = api.wait_for_phase("pocket", "Succeeded")

    assert {stage["name"]: stage["state"] for stage in status["stages"]} == {
        **dict.fromkeys(("models", "datasets", "slData", "sft", "rlData", "rewardModel", "ppo"), "Succeeded"),
        **{"evaluate": "Succeeded", "serve": "Running", "report": "Succeeded"},
    }
    assert recorder.made(JOB) == dict.fromkeys(JOBS, 1)
    assert recorder.made(DEPLOYMENT) == SERVERS
    _assert_every_job_came_after_what_it_needs(recorder)
    _assert_servers_stood_only_while_needed(recorder)


def test_what_is_seen_of_a_finished_pipeline(api: Api, control_plane_with_jobs: ControlPlane) -> None:
    generation = api.create(PIPELINE, pocket())["metadata"]["generation"]
    status = api.wait_for_phase("pocket", "Succeeded")

    listing = control_plane_with_jobs.kubectl("get", "caip", "-n", api.namespace).stdout
    head, row = (line.split() for line in listing.strip().splitlines())
    assert head[:3] == ["NAME", "ENGINE", "PHASE"]
    assert row[:3] == ["pocket", "hf", "Succeeded"]
    assert "10/10" in row
    assert status["observedGeneration"] == generation
    assert status["endpoint"] == f"http://pocket-serve.{api.namespace}.svc:1427"
    report = api.node("pocket", "report")
    assert status["report"] == f"pocket/report/{report['key']}/report.html"
    evaluation = api.node("pocket", "evaluateRlCai")
    assert evaluation["metrics"] == {"harmfulRate": 0.05, "helpfulRate": 0.9}
    assert evaluation["artifact"] == {
        "path": f"pocket/evaluateRlCai/{evaluation['key']}",
        "digest": f"sha256:{evaluation['key'] * 4}",
        "files": 3,
        "sizeBytes": 4096,
    }
    conditions = {one["type"]: one["status"] for one in status["conditions"]}
    assert conditions == {"Ready": "True", "Progressing": "False", "Degraded": "False", "Suspended": "False"}
    told = {(reason, message) for _, reason, message in api.events("pocket")}
    assert {(reason, message) for reason, message in told if reason == "Succeeded"} == {
        ("Succeeded", f"{node} succeeded") for node in JOBS
    }
    assert "PipelineSucceeded" in {reason for reason, _ in told}
    assert "sft succeeded" in control_plane_with_jobs.kubectl("describe", "caip", "pocket", "-n", api.namespace).stdout


def test_nothing_of_the_status_is_pruned(api: Api, player: Player) -> None:
    """What the schema does not know the API server drops silently; so what comes back must be all that was meant."""
    from cai_operator.status import parse_status

    player.script("sft", Succeed({"loss": 0.5, "nested": {"deep": [1, 2]}, "text": "words"}))
    api.create(PIPELINE, pocket())
    status = api.wait_for_phase("pocket", "Succeeded")
    assert api.node("pocket", "sft")["metrics"] == {"loss": 0.5, "nested": {"deep": [1, 2]}, "text": "words"}
    assert parse_status(status).document() == status


def test_what_does_not_need_each_other_runs_side_by_side(api: Api, player: Player) -> None:
    for node in ("models", "datasets", "slData", "evaluateBase"):
        player.script(node, Run())
    api.create(PIPELINE, pocket())
    player.wait_for_running("models")
    player.wait_for_running("datasets")
    player.end("models")
    player.end("datasets")
    player.wait_for_running("slData")
    player.wait_for_running("evaluateBase")
    wait_for(
        lambda: {node: api.node("pocket", node).get("state") for node in ("slData", "evaluateBase")},
        "both to be shown as running",
        lambda states: set(states.values()) == {"Running"},
    )


def test_a_job_waits_until_its_server_is_ready(api: Api, player: Player) -> None:
    player.script("slData/server", NotReady())
    api.create(PIPELINE, short())
    node = wait_for(
        lambda: api.node("short", "slData"), "slData to start", lambda node: node.get("state") == "Starting"
    )
    [server] = wait_for(lambda: api.list(DEPLOYMENT), "the server")
    assert node["message"] == f"waits for {server['metadata']['name']} to be ready"
    assert api.list(JOB, **{"cai.dev/node": "slData"}) == []
    player.change("slData/server", Run())
    api.wait_for_phase("short", "Succeeded")
    assert wait_for(lambda: not api.list(DEPLOYMENT), "the server to go")


@pytest.mark.parametrize(
    ("kind", "node"),
    [(JOB, "slData"), (DEPLOYMENT, "slData"), (SERVICE, "slData"), (CONFIG_MAP, "slData"), (NETWORK_POLICY, None)],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_child_deleted_by_hand_is_made_again(api: Api, player: Player, kind: ObjectKind, node: str | None) -> None:
    player.script("slData", Run(), Run())
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    before = api.list(kind, **({"cai.dev/node": node} if node else {}))[0]
    name = before["metadata"]["name"]
    api.delete(kind, name)
    after = wait_for(
        lambda: api.get(kind, name),
        f"{kind.kind} {name} to be made again",
        lambda found: found is not None and found["metadata"]["uid"] != before["metadata"]["uid"],
    )
    assert after is not None
    assert after["spec" if "spec" in after else "data"]
    if kind == JOB:
        # of the deleted Job only the pod is gone
        wait_for(lambda: runs_of(player.started)["slData"] == 2, "the program to run again")
    player.wait_for_running("slData")
    _end_what_still_runs(api, player, "slData")
    api.wait_for_phase("short", "Succeeded")


@pytest.mark.parametrize(
    ("kind", "change", "back"),
    [
        (DEPLOYMENT, {"spec": {"replicas": 0}}, lambda found: found["spec"]["replicas"] == 1),
        (SERVICE, {"spec": {"selector": {"app": "other"}}}, lambda found: "app" not in found["spec"]["selector"]),
        (SERVICE, {"metadata": {"labels": {"cai.dev/node": "other"}}}, lambda f: f["metadata"]["labels"]),
    ],
    ids=["replicas", "selector", "label"],
)
def test_a_child_changed_by_hand_is_set_right(api, player, kind, change, back) -> None:  # type: ignore[no-untyped-def]
    player.script("slData", Run())
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    [child] = api.list(kind, **{"cai.dev/node": "slData"})
    labels = child["metadata"]["labels"]
    changed = api.patch(kind, child["metadata"]["name"], change)
    wait_for(
        lambda: api.get(kind, child["metadata"]["name"]),
        f"{kind.kind} to be set right",
        lambda found: (
            found["metadata"]["resourceVersion"] != changed["metadata"]["resourceVersion"]
            and found["metadata"]["labels"] == labels
            and back(found)
        ),
    )
    assert runs_of(player.started)["slData"] == 1


def test_finished_jobs_may_go_without_running_again(api: Api, player: Player) -> None:
    """What the TTL controller does after a week."""
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    assert all(job["spec"]["ttlSecondsAfterFinished"] == 7 * 86400 for job in api.list(JOB))
    runs = runs_of(player.started)
    before = api.status("short")
    for job in api.list(JOB):
        api.delete(JOB, job["metadata"]["name"])
    wait_for(lambda: not api.list(JOB) and not api.list(POD), "the Jobs and their pods to be gone")
    # something the operator must act on, so that it has looked since
    api.patch(PIPELINE, "short", {"spec": {"suspend": True}})
    api.wait_for_phase("short", "Suspended")
    api.patch(PIPELINE, "short", {"spec": {"suspend": False}})
    after = api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == runs
    assert api.list(JOB) == []
    assert [stage.get("metrics") for stage in after["stages"]] == [stage.get("metrics") for stage in before["stages"]]


def test_the_claim_is_made_unless_one_is_named(api: Api, player: Player) -> None:
    player.script("models", Run())
    player.script("models", Run())
    api.create(PIPELINE, short("makes"))
    api.create(PIPELINE, short("uses", {"storage": {"size": None, "claimName": "shared-data"}}))
    wait_for(lambda: len(player.running("models")) == 2, "both to run")
    [claim] = api.list(CLAIM)
    assert claim["metadata"]["labels"]["cai.dev/pipeline"] == "makes"
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    claims = {
        pod["metadata"]["labels"]["cai.dev/pipeline"]: pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        for pod in api.list(POD, **{"cai.dev/node": "models"})
    }
    assert claims == {"makes": claim["metadata"]["name"], "uses": "shared-data"}


def test_pipelines_of_long_names_find_their_children(api: Api, player: Player) -> None:
    """A pipeline's name has as many characters as a label has room for; its children's have something after it."""
    name = "a-pipeline-with-a-name-that-goes-on-and-on-for-63-characters-xy"
    assert len(name) == 63
    api.create(PIPELINE, short(name))
    api.wait_for_phase(name, "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 1}
    assert wait_for(lambda: not api.list(DEPLOYMENT), "the server to go")


def test_pipelines_do_not_mix(api: Api, player: Player) -> None:
    for name in ("one", "two"):
        api.create(PIPELINE, short(name))
    for name in ("one", "two"):
        api.wait_for_phase(name, "Succeeded")
    assert set(runs_of(player.started).values()) == {2}


def _assert_every_job_came_after_what_it_needs(recorder: Recorder) -> None:
    for node, needs in AFTER.items():
        came = recorder.first(JOB, node, lambda change: change.what == "ADDED")
        for other in needs:
            ended = recorder.first(JOB, other, lambda change: change.is_complete)
            assert ended < came, f"the Job of {node} was made before that of {other} had ended"


def _assert_servers_stood_only_while_needed(recorder: Recorder) -> None:
    for node in SERVERS:
        if node == "serve":
            continue
        job_came = recorder.first(JOB, node, lambda change: change.what == "ADDED")
        job_ended = recorder.first(JOB, node, lambda change: change.is_complete)
        by_name: dict[str, list[Change]] = {}
        for change in recorder.changes(DEPLOYMENT, node):
            by_name.setdefault(change.name, []).append(change)
        for name, changes in by_name.items():
            ready = next(change.version for change in changes if change.is_ready)
            gone = next((change.version for change in changes if change.is_going), None)
            assert ready < job_came, f"the Job of {node} was made before its server {name} was ready"
            assert gone is not None, f"server {name} of {node} still stands"
            assert job_ended < gone, f"server {name} of {node} went before its Job had ended"
            for other in (other for other, needs in AFTER.items() if node in needs):
                came = recorder.first(JOB, other, lambda change: change.what == "ADDED")
                assert gone < came, f"the Job of {other} was made before server {name} was given up"


def _end_what_still_runs(api: Api, player: Player, node: str) -> None:
    def running() -> set[str]:
        there = {pod["metadata"]["name"] for pod in api.list(POD, **{"cai.dev/node": node})}
        return there & set(player.running(node))

    # those of a deleted Job run on by the script only
    wait_for(running, f"a pod of {node} that is there to run")
    player.end(node)
