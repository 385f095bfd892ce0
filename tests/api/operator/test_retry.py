"""Failures: tried again or final, shown with the program's last sentence, and sticky until somebody asks."""

from __future__ import annotations

import pytest
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Fail, Succeed
from tests.harness.pipelines import pocket, short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import JOB, PIPELINE, POD

pytestmark = pytest.mark.usefixtures("operator", "player")

WRONG_INPUT = Fail(2, "train.jsonl, line 3: no field prompt; add it")


def retry(plane: ControlPlane, api: Api, name: str, token: str) -> None:
    """What a user does."""
    plane.kubectl("annotate", "caip", name, "-n", api.namespace, "--overwrite", f"cai.dev/retry={token}")


def test_exit_code_2_is_final(api: Api, player: Player) -> None:
    player.script("sft", WRONG_INPUT)
    api.create(PIPELINE, short())
    status = api.wait_for_phase("short", "Failed")
    job = next(iter(player.jobs["sft"]))
    assert status["message"] == (
        f"sft failed: train.jsonl, line 3: no field prompt; add it (log: kubectl logs -n {api.namespace} job/{job})"
    )
    node = api.node("short", "sft")
    assert (node["state"], node["attempts"], node["reason"]) == ("Failed", 1, "InputError")
    degraded = api.condition("short", "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "StageFailed")
    assert api.condition("short", "Ready")["status"] == "False"
    assert runs_of(player.started)["sft"] == 1
    warnings = [(reason, message) for type_, reason, message in api.events("short") if type_ == "Warning"]
    assert ("Failed", "sft failed: train.jsonl, line 3: no field prompt; add it") in warnings


def test_another_exit_code_is_tried_again(api: Api, player: Player) -> None:
    player.script("models", Fail(1, "the hub did not answer"))
    api.create(PIPELINE, short())
    node = wait_for(
        lambda: api.node("short", "models"),
        "the failure to be shown",
        lambda node: "the hub" in node.get("message", ""),
    )
    assert node["message"] == "attempt 1 failed: the hub did not answer; trying again"
    assert api.condition("short", "Degraded")["status"] == "False"
    api.wait_for_phase("short", "Succeeded")
    assert (runs_of(player.started)["models"], api.node("short", "models")["attempts"]) == (2, 2)
    assert "message" not in api.node("short", "models") or not api.node("short", "models")["message"]


def test_retries_end(api: Api, player: Player) -> None:
    player.script("models", Fail(1, "the hub did not answer"))
    api.create(PIPELINE, short(spec={"stages": {"models": {"retries": 0}}}))
    status = api.wait_for_phase("short", "Failed")
    assert status["message"].startswith("models failed: the hub did not answer")
    assert runs_of(player.started)["models"] == 1


def test_a_failure_stays_whatever_becomes_of_its_job(api: Api, player: Player, operator: OperatorProcess) -> None:
    player.script("sft", WRONG_INPUT)
    api.create(PIPELINE, short())
    failed = api.wait_for_phase("short", "Failed")
    for job in api.list(JOB):
        api.delete(JOB, job["metadata"]["name"])
    wait_for(lambda: not api.list(JOB) and not api.list(POD), "the Jobs to be gone")
    operator.kill()
    operator.start()
    # a change that the operator shows, so that it is known to have looked
    generation = api.patch(PIPELINE, "short", {"spec": {"stages": {"sft": {"resources": {"memory": "3Gi"}}}}})
    status = wait_for(
        lambda: api.status("short"),
        "the operator to look again",
        lambda status: status.get("observedGeneration") == generation["metadata"]["generation"],
    )
    assert (status["phase"], status["message"]) == ("Failed", failed["message"])
    assert api.list(JOB) == []
    assert runs_of(player.started)["sft"] == 1


def test_a_retry_runs_what_failed_and_what_comes_after(
    api: Api, player: Player, control_plane_with_jobs: ControlPlane
) -> None:
    player.script("rewardModel", WRONG_INPUT)
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Failed")
    before = runs_of(player.started)
    assert "ppo" not in before
    retry(control_plane_with_jobs, api, "pocket", "1")
    api.wait_for_phase("pocket", "Succeeded")
    after = runs_of(player.started)
    new = {node: count - before.get(node, 0) for node, count in after.items() if count != before.get(node, 0)}
    again = ("rewardModel", "ppo", "ppo/server", "evaluateRlCai", "evaluateRlCai/server", "serve/server", "report")
    assert new == dict.fromkeys(again, 1)
    assert len(player.jobs["rewardModel"]) == 2  # another Job: what failed stays to be looked at
    assert api.node("pocket", "rewardModel")["retry"] == "1"


def test_a_retry_works_once_for_each_value(api: Api, player: Player, control_plane_with_jobs: ControlPlane) -> None:
    player.script("sft", WRONG_INPUT, WRONG_INPUT, Succeed())
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Failed")
    retry(control_plane_with_jobs, api, "short", "1")
    wait_for(lambda: runs_of(player.started)["sft"] == 2, "sft to run again")
    wait_for(
        lambda: api.node("short", "sft"),
        "sft to fail again",
        lambda node: (node.get("state"), node.get("retry")) == ("Failed", "1"),
    )
    # the annotation stays as it is, the operator looks again and again: nothing runs
    api.patch(PIPELINE, "short", {"spec": {"stages": {"sft": {"resources": {"memory": "3Gi"}}}}})
    wait_for(lambda: api.status("short")["observedGeneration"] == 2, "the operator to look again")
    assert runs_of(player.started)["sft"] == 2
    retry(control_plane_with_jobs, api, "short", "2")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 3}


def test_one_asking_does_not_start_what_fails_later(
    api: Api, player: Player, control_plane_with_jobs: ControlPlane
) -> None:
    player.script("sft", WRONG_INPUT)
    api.create(PIPELINE, short(annotations={"cai.dev/retry": "early"}))
    api.wait_for_phase("short", "Failed")
    api.patch(PIPELINE, "short", {"spec": {"stages": {"sft": {"resources": {"memory": "3Gi"}}}}})
    wait_for(lambda: api.status("short")["observedGeneration"] == 2, "the operator to look again")
    assert runs_of(player.started)["sft"] == 1
    retry(control_plane_with_jobs, api, "short", "late")
    api.wait_for_phase("short", "Succeeded")
