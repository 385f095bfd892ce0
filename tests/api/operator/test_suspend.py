"""Suspended, a pipeline gives up everything it holds; resumed, it goes on, and nothing that succeeded runs again."""

from __future__ import annotations

import pytest
from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import NotReady, Run
from tests.harness.pipelines import pocket, short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import CLAIM, DEPLOYMENT, JOB, PIPELINE, POD

pytestmark = pytest.mark.usefixtures("operator", "player")


def suspend(api: Api, name: str, suspended: bool) -> None:
    """What a user does."""
    api.patch(PIPELINE, name, {"spec": {"suspend": suspended}})


def holds_nothing(api: Api) -> bool:
    """Whether no pod, server or unfinished Job is there."""
    running = [job for job in api.list(JOB) if not job.get("status", {}).get("succeeded")]
    return not api.list(POD, **{"cai.dev/kind": "server"}) and not running and not api.list(DEPLOYMENT)


def test_suspended_while_a_program_runs(api: Api, player: Player) -> None:
    player.script("slData", Run(), Run())
    api.create(PIPELINE, short())
    pod = player.wait_for_running("slData")
    suspend(api, "short", True)
    status = api.wait_for_phase("short", "Suspended")
    wait_for(lambda: holds_nothing(api), "everything to be given up")
    assert wait_for(lambda: api.get(POD, pod) is None, "the program to be stopped")
    assert api.condition("short", "Suspended")["status"] == "True"
    assert api.condition("short", "Progressing")["status"] == "False"
    states = {stage["name"]: stage["state"] for stage in status["stages"]}
    assert (states["models"], states["slData"], states["sft"]) == ("Succeeded", "Suspended", "Waiting")
    assert len(api.list(CLAIM)) == 1
    suspend(api, "short", False)
    wait_for(lambda: len(player.running("slData")) == 2, "the program to run again")
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {"models": 1, "datasets": 1, "slData": 2, "slData/server": 2, "sft": 1}
    assert api.condition("short", "Suspended")["status"] == "False"


def test_suspended_while_a_server_loads(api: Api, player: Player) -> None:
    player.script("slData/server", NotReady())
    api.create(PIPELINE, short())
    wait_for(lambda: api.list(DEPLOYMENT), "the server")
    suspend(api, "short", True)
    api.wait_for_phase("short", "Suspended")
    wait_for(lambda: holds_nothing(api), "everything to be given up")
    suspend(api, "short", False)
    api.wait_for_phase("short", "Succeeded")


def test_suspended_while_it_serves(api: Api, player: Player) -> None:
    api.create(PIPELINE, pocket())
    api.wait_for_phase("pocket", "Succeeded")
    before = runs_of(player.started)
    suspend(api, "pocket", True)
    status = api.wait_for_phase("pocket", "Suspended")
    wait_for(lambda: holds_nothing(api), "the served model to be given up")
    assert status.get("endpoint") is None
    suspend(api, "pocket", False)
    status = api.wait_for_phase("pocket", "Succeeded")
    assert status["endpoint"]
    after = runs_of(player.started)
    assert {node for node in after if after[node] != before[node]} == {"serve/server"}


def test_created_suspended(api: Api, player: Player) -> None:
    api.create(PIPELINE, short(spec={"suspend": True}))
    api.wait_for_phase("short", "Suspended")
    assert runs_of(player.started) == {}
    assert api.list(JOB) == []
    suspend(api, "short", False)
    api.wait_for_phase("short", "Succeeded")
