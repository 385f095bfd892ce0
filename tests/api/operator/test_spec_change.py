"""A spec that changes while the pipeline runs: only what depends on the change is stopped and done anew."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import Fail, Run
from tests.harness.pipelines import pocket, short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import CONFIG_MAP, DEPLOYMENT, JOB, PIPELINE, POD

pytestmark = pytest.mark.usefixtures("operator", "player")


def job_of(api: Api, node: str) -> dict[str, Any]:
    """The one Job of a node."""
    [job] = api.list(JOB, **{"cai.dev/node": node})
    return job


def programs_of(api: Api, node: str) -> list[str]:
    """The pods of a node's Job."""
    pods = api.list(POD, **{"cai.dev/node": node, "cai.dev/kind": "job"})
    return [pod["metadata"]["name"] for pod in pods]


def change(api: Api, name: str, spec: dict[str, Any]) -> int:
    """Change a spec, and wait until the operator has taken note."""
    generation = int(api.patch(PIPELINE, name, {"spec": spec})["metadata"]["generation"])
    wait_for(
        lambda: api.status(name).get("observedGeneration"), f"{name} to be looked at", lambda seen: seen == generation
    )
    return generation


def test_a_later_stage_changes_while_an_earlier_one_runs(api: Api, player: Player) -> None:
    player.script("slData", Run())
    api.create(PIPELINE, short())
    pod = player.wait_for_running("slData")
    old_key = api.node("short", "sft")["key"]
    change(api, "short", {"stages": {"sft": {"overrides": {"max-steps": 7}}}})
    assert api.node("short", "sft")["key"] != old_key
    assert programs_of(api, "slData") == [pod]
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 1}
    command = job_of(api, "sft")["spec"]["template"]["spec"]["containers"][0]["command"]
    assert "7" in command[command.index("--max-steps") + 1 :][:1] or "--max-steps=7" in command


def test_the_running_stage_changes(api: Api, player: Player) -> None:
    player.script("slData", Run(), Run())
    api.create(PIPELINE, short())
    old = player.wait_for_running("slData")
    old_server = api.list(DEPLOYMENT)[0]["metadata"]["name"]
    change(api, "short", {"stages": {"slData": {"numExamples": 8}}})
    wait_for(lambda: len(player.running("slData")) == 2, "slData to run anew")
    assert wait_for(lambda: api.get(POD, old) is None, "the old program to be stopped")
    servers = {found["metadata"]["name"] for found in api.list(DEPLOYMENT)}
    assert old_server not in servers
    assert len(servers) == 1
    assert ("Normal", "Renewed") in {(type_, reason) for type_, reason, _ in api.events("short")}
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 2, "slData/server": 2, "sft": 1}


@pytest.mark.parametrize(
    "harmless",
    [
        {"stages": {"slData": {"resources": {"memory": "4Gi"}}}},
        {"template": {"nodeSelector": {"disk": "fast"}}},
        {"image": "other:1"},
        {"stages": {"slData": {"retries": 7}}},
    ],
    ids=["resources", "nodeSelector", "image", "retries"],
)
def test_what_does_not_shape_the_result_stops_nothing_that_runs(
    api: Api, player: Player, harmless: dict[str, Any]
) -> None:
    player.script("slData", Run())
    api.create(PIPELINE, short())
    pod = player.wait_for_running("slData")
    wait_for(lambda: api.node("short", "slData")["state"] == "Running", "slData to be seen running")
    change(api, "short", harmless)
    assert programs_of(api, "slData") == [pod]
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert {node: count for node, count in runs_of(player.started).items() if not node.endswith("/server")} == {
        "models": 1,
        "datasets": 1,
        "slData": 1,
        "sft": 1,
    }


def test_a_change_after_the_end(api: Api, player: Player) -> None:
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    served = api.list(DEPLOYMENT)[0]["metadata"]["uid"]
    before = runs_of(player.started)
    change(api, "pocket", {"stages": {"evaluate": {"numExamples": 5}}})
    api.wait_for_phase("pocket", "Succeeded")
    after = runs_of(player.started)
    new = {node: after[node] - before[node] for node in after if after[node] != before[node]}
    evaluations = ("evaluateBase", "evaluateSlCai", "evaluateRlCai")
    assert new == {**dict.fromkeys(evaluations, 1), **{f"{node}/server": 1 for node in evaluations}, "report": 1}
    assert [found["metadata"]["uid"] for found in api.list(DEPLOYMENT)] == [served]


def test_the_served_model_stays_until_the_new_one_is_there(api: Api, player: Player) -> None:
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    [served] = api.list(DEPLOYMENT)
    player.script("ppo", Run())
    change(api, "pocket", {"stages": {"ppo": {"overrides": {"max-steps": 9}}}})
    player.wait_for_running("ppo")
    assert api.get(DEPLOYMENT, "pocket-serve") is not None
    node = api.node("pocket", "serve")
    assert (node["state"], node["message"]) == (
        "Running",
        "serves the model of an earlier spec until the new one is there",
    )
    player.end("ppo")
    api.wait_for_phase("pocket", "Succeeded")
    [renewed] = api.list(DEPLOYMENT)
    assert renewed["metadata"]["uid"] == served["metadata"]["uid"]
    assert renewed["metadata"]["labels"]["cai.dev/key"] != served["metadata"]["labels"]["cai.dev/key"]


def test_more_replicas_rerun_nothing(api: Api, player: Player) -> None:
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    before = runs_of(player.started)
    change(api, "pocket", {"stages": {"serve": {"replicas": 2}}})
    wait_for(
        lambda: (api.get(DEPLOYMENT, "pocket-serve") or {}).get("status", {}).get("readyReplicas"),
        "two replicas",
        lambda ready: ready == 2,
    )
    api.wait_for_phase("pocket", "Succeeded")
    after = runs_of(player.started)
    assert {node for node in after if after[node] != before[node]} == {"serve/server"}


def test_a_failed_stage_runs_anew_when_its_spec_is_mended(api: Api, player: Player) -> None:
    player.script("sft", Fail(2, "learning-rate must be above 0"))
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Failed")
    change(api, "short", {"stages": {"sft": {"overrides": {"learning-rate": 0.001}}}})
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 2}


def test_the_old_spec_again(api: Api, player: Player) -> None:
    """The artifacts of the old spec still stand; its programs find them and end at once."""
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    key = api.node("short", "sft")["key"]
    change(api, "short", {"stages": {"sft": {"overrides": {"max-steps": 7}}}})
    api.wait_for_phase("short", "Succeeded")
    change(api, "short", {"stages": {"sft": {"overrides": {"max-steps": 60}}}})
    api.wait_for_phase("short", "Succeeded")
    assert api.node("short", "sft")["key"] == key
    assert runs_of(player.started)["slData"] == 1


def test_an_edited_constitution_reruns_what_reads_it(api: Api, player: Player) -> None:
    def text(question: str) -> dict[str, str]:
        answer = f'[{{"critique_request": "{question}", "revision_request": "Make it so."}}]'
        return {"critique_revision_instructions.json": answer}

    api.create(CONFIG_MAP, {"metadata": {"name": "principles"}, "data": text("Is it kind?")})
    api.create(PIPELINE, short(spec={"constitution": {"configMap": {"name": "principles"}}}))
    api.wait_for_phase("short", "Succeeded")
    key = api.node("short", "slData")["key"]
    api.patch(CONFIG_MAP, "principles", {"data": text("Is it true?")})
    looks = itertools.count()

    def look_again() -> bool:
        # nobody watches a user's own ConfigMaps; a finished pipeline's are read when something else happens to it
        api.patch(PIPELINE, "short", {"metadata": {"labels": {"look": str(next(looks))}}})
        return bool(api.node("short", "slData")["key"] != key)

    wait_for(look_again, "slData to be done anew")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 2, "slData/server": 2, "sft": 2}
