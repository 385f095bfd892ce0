"""A pipeline of engine nemo on a cluster, with the kubelet played by the test: the operator's part of the unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Fail, NotReady, Run
from tests.harness.pipelines import JOBS
from tests.harness.player import Player, runs_of
from tests.harness.recorder import Recorder

from cai_operator.manifests.kinds import DEPLOYMENT, JOB, PIPELINE, POD

EXAMPLE = Path(__file__).parents[3] / "examples" / "mistral-7b.yaml"
NAME = "mistral-7b"


def tutorial() -> dict[str, Any]:
    """The tutorial's manifest, as it is shipped."""
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    return document


def test_from_apply_to_a_served_model_though_the_critic_dies(
    api: Api, operator: OperatorProcess, player: Player, recorder: Recorder
) -> None:
    player.script("ppo", Run(), Run())
    player.script("ppo/server", NotReady())
    api.create(PIPELINE, tutorial())

    node = wait_for(lambda: api.node(NAME, "ppo"), "ppo to start", lambda node: node.get("state") == "Starting")
    [critic] = wait_for(lambda: api.list(DEPLOYMENT, **{"cai.dev/node": "ppo"}), "the critic")
    assert node["message"] == f"waits for {critic['metadata']['name']} to be ready"
    assert api.list(JOB, **{"cai.dev/node": "ppo"}) == []
    player.change("ppo/server", Run())
    actor = player.wait_for_running("ppo")

    # the critic's machine is gone, the operator too, and the actor's wrapper stops the actor
    player.script("ppo/server", NotReady())
    [pod] = api.list(POD, **{"cai.dev/node": "ppo", "cai.dev/kind": "server"})
    operator.kill()
    api.delete(POD, pod["metadata"]["name"])
    player.end("ppo", Fail(1, "the actor was stopped, saved at step 2 of 6: the critic was started again"))
    operator.start()

    # the Job makes the next one at once, whose wrapper waits for the critic
    assert player.wait_for_running("ppo") != actor
    node = wait_for(lambda: api.node(NAME, "ppo"), "the second attempt", lambda node: node.get("attempts") == 2)
    assert node["state"] == "Running"
    assert "the critic was started again" in node["message"]
    [same] = api.list(DEPLOYMENT, **{"cai.dev/node": "ppo"})
    assert same["metadata"]["uid"] == critic["metadata"]["uid"]
    player.change("ppo/server", Run())
    player.end("ppo")

    status = api.wait_for_phase(NAME, "Succeeded")
    assert status["endpoint"] == f"http://{NAME}-serve.{api.namespace}.svc:1427"
    assert recorder.made(JOB) == dict.fromkeys(JOBS, 1)
    assert recorder.made(DEPLOYMENT)["ppo"] == 1
    assert runs_of(player.started)["ppo"] == 2
    wait_for(lambda: not api.list(DEPLOYMENT, **{"cai.dev/node": "ppo"}), "the critic to be given up")
