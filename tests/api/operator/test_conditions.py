"""What keeps a pipeline from getting on shows as a condition with a reason and a sentence, and mends itself."""

from __future__ import annotations

from typing import Any

import pytest
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import (
    IMAGE_MISSING,
    OUT_OF_MEMORY,
    SECRET_MISSING,
    UNSCHEDULABLE,
    VOLUME_UNBOUND,
    Crashing,
    Evicted,
    Outcome,
    Run,
    Stuck,
    Succeed,
)
from tests.harness.pipelines import pocket, short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import CONFIG_MAP, DEPLOYMENT, JOB, PIPELINE, ObjectKind

pytestmark = pytest.mark.usefixtures("operator", "player")

QUOTA = ObjectKind("v1", "ResourceQuota", "resourcequotas")
CLAIM_MISSING = Stuck(
    "Unschedulable", '0/3 nodes are available: persistentvolumeclaim "data" not found.', is_scheduled=False
)


def degraded(api: Api, name: str, reason: str) -> dict[str, Any]:
    """Wait until the pipeline is degraded for that reason."""
    return wait_for(
        lambda: api.condition(name, "Degraded"),
        f"{name} to be degraded: {reason}",
        lambda found: found.get("status") == "True" and found["reason"] == reason,
    )


@pytest.mark.parametrize(
    ("outcome", "reason", "words"),
    [
        (IMAGE_MISSING, "ImagePullFailed", "models: image cai-jobs:dev cannot be pulled"),
        (UNSCHEDULABLE, "Unschedulable", "Insufficient nvidia.com/gpu"),
        (VOLUME_UNBOUND, "VolumeUnbound", "kubectl describe pvc"),
        (CLAIM_MISSING, "VolumeMissing", "PersistentVolumeClaim data does not exist"),
        (SECRET_MISSING, "SecretMissing", "Secret ngc does not exist in namespace"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_job_that_does_not_start(api: Api, player: Player, outcome: Outcome, reason: str, words: str) -> None:
    player.script("models", outcome)
    api.create(PIPELINE, short())
    assert words in degraded(api, "short", reason)["message"]
    status = api.status("short")
    assert status["phase"] == "Running"
    assert api.node("short", "models")["reason"] == reason
    # the other branch goes on meanwhile
    wait_for(lambda: api.node("short", "datasets").get("state") == "Succeeded", "datasets to succeed")
    player.change("models", Succeed())
    assert api.wait_for_phase("short", "Succeeded")
    assert api.condition("short", "Degraded")["status"] == "False"
    assert runs_of(player.started)["models"] == 1


@pytest.mark.parametrize(
    ("outcome", "reason", "words"),
    [
        (IMAGE_MISSING, "ImagePullFailed", "cannot be pulled"),
        (UNSCHEDULABLE, "Unschedulable", "Insufficient nvidia.com/gpu"),
        (Crashing(1, "the model directory is empty", restarts=1), "CrashLooping", "the model directory is empty"),
    ],
    ids=["image", "room", "crash"],
)
def test_a_server_that_does_not_get_ready(api: Api, player: Player, outcome: Outcome, reason: str, words: str) -> None:
    player.script("slData/server", outcome)
    api.create(PIPELINE, short())
    assert words in degraded(api, "short", reason)["message"]
    assert not api.list(JOB, **{"cai.dev/node": "slData"})
    player.change("slData/server", Run())
    api.wait_for_phase("short", "Succeeded")


def test_a_server_that_never_comes_up_fails_its_stage(api: Api, player: Player) -> None:
    player.script("slData/server", Crashing(2, "config.json: no such model type", restarts=0))
    api.create(PIPELINE, short())
    status = api.wait_for_phase("short", "Failed")
    assert "config.json: no such model type" in status["message"]
    assert wait_for(lambda: not api.list(DEPLOYMENT), "the failed server to be given up")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData/server": 1}


def test_out_of_memory_names_the_field_to_raise(api: Api, player: Player) -> None:
    player.script("models", OUT_OF_MEMORY)
    api.create(PIPELINE, short(spec={"stages": {"models": {"retries": 0}}}))
    status = api.wait_for_phase("short", "Failed")
    assert "spec.stages.models.resources.memory" in status["message"]


def test_no_quota_for_pods(api: Api, player: Player) -> None:
    """The Job controller makes the pods, so it is told: in a Warning event about the Job."""
    api.create(QUOTA, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    _wait_until_counted(api, "none")
    api.create(PIPELINE, short())
    message = degraded(api, "short", "QuotaExceeded")["message"]
    assert "ResourceQuota" in message
    assert "pods=0" in message
    assert runs_of(player.started) == {}
    api.delete(QUOTA, "none")
    api.wait_for_phase("short", "Succeeded")


def test_no_quota_for_jobs(api: Api, player: Player) -> None:
    """Here the operator itself is refused."""
    api.create(QUOTA, {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}})
    _wait_until_counted(api, "none")
    api.create(PIPELINE, short())
    assert "count/jobs.batch=0" in degraded(api, "short", "QuotaExceeded")["message"]
    assert api.list(JOB) == []
    api.delete(QUOTA, "none")
    api.wait_for_phase("short", "Succeeded")


def test_the_restricted_pod_security_level(api: Api, player: Player, control_plane_with_jobs: ControlPlane) -> None:
    """Every pod of ours passes it, jobs' and servers'."""
    level = "pod-security.kubernetes.io/enforce=restricted"
    control_plane_with_jobs.kubectl("label", "namespace", api.namespace, level)
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    assert set(runs_of(player.started).values()) == {1, 2}  # rlData has two servers


def test_a_constitution_that_is_not_there_yet(api: Api, player: Player) -> None:
    api.create(PIPELINE, short(spec={"constitution": {"configMap": {"name": "principles"}}}))
    assert "ConfigMap principles" in degraded(api, "short", "TextMissing")["message"]
    wait_for(lambda: api.node("short", "datasets").get("state") == "Succeeded", "what needs no text to go on")
    assert "slData" not in runs_of(player.started)
    text = '[{"critique_request": "Is it kind?", "revision_request": "Make it kind."}]'
    api.create(CONFIG_MAP, {"metadata": {"name": "principles"}, "data": {"critique_revision_instructions.json": text}})
    api.wait_for_phase("short", "Succeeded")
    [laid] = [
        item["data"]
        for item in api.list(CONFIG_MAP, **{"cai.dev/node": "slData"})
        if "critique_revision_instructions.json" in item["data"]
    ]
    assert laid["critique_revision_instructions.json"] == text


def test_a_change_that_the_api_server_refuses(api: Api, player: Player) -> None:
    """The server that stands goes on as it was; why it is not changed is shown."""
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    wrong = [{"key": "gpu", "operator": "Sometimes"}]
    api.patch(PIPELINE, "pocket", {"spec": {"template": {"tolerations": wrong}}})
    assert "Sometimes" in degraded(api, "pocket", "Refused")["message"]
    [served] = api.list(DEPLOYMENT)
    assert served["status"]["readyReplicas"] == 1
    api.patch(PIPELINE, "pocket", {"spec": {"template": {"tolerations": None}}})
    wait_for(lambda: api.condition("pocket", "Degraded")["status"], "all to be well", lambda status: status == "False")
    assert runs_of(player.started)["serve/server"] == 1


def test_a_gate_that_is_not_met(api: Api, player: Player) -> None:
    player.script("evaluateRlCai", Succeed({"harmfulRate": 0.5, "helpfulRate": 0.9}))
    api.create(PIPELINE, pocket(spec={"stages": {"evaluate": {"gates": {"maxHarmfulRate": 0.2}}}}))
    status = api.wait_for_phase("pocket", "Failed")
    assert degraded(api, "pocket", "GateNotMet")["message"].startswith("evaluate: harmfulRate of rlCai is 0.5, above")
    assert status.get("endpoint") is None
    assert "serve/server" not in runs_of(player.started)
    assert ("Warning", "GateNotMet") in {(type_, reason) for type_, reason, _ in api.events("pocket")}


def test_what_the_engine_has_not(api: Api) -> None:
    """Engine nemo's default judge is NVIDIA's endpoint, which does not answer without a key."""
    models = {"base": {"pocket": None, "path": "/m.nemo"}}
    # the example's overrides are options of the other engine's programs
    api.create(PIPELINE, pocket(spec={"engine": "nemo", "models": models, "stages": None}))
    assert "spec.judge.apiKeySecret" in degraded(api, "pocket", "EngineUnavailable")["message"]


def test_an_evicted_program_is_started_again_and_no_retry_is_spent(api: Api, player: Player) -> None:
    player.script("models", Evicted())
    api.create(PIPELINE, short(spec={"stages": {"models": {"retries": 0}}}))
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started)["models"] == 2


def _wait_until_counted(api: Api, quota: str) -> None:
    wait_for(lambda: (api.get(QUOTA, quota) or {}).get("status", {}).get("hard"), "the quota to be in force")
