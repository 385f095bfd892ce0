"""Jobs that Kueue admits, takes back and admits again; the test plays Kueue, by the fields it changes of a Job.

https://kueue.sigs.k8s.io/docs/concepts/workload/ and, for what it writes into a Job, pkg/controller/jobs/job of its
source: it suspends a Job as it is created, lets an admitted one go with the node selector of its flavour, and suspends
a preempted one again, with the template it had before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Run
from tests.harness.pipelines import merged, short
from tests.harness.player import Player
from tests.harness.recorder import Recorder

from cai_operator.manifests.kinds import JOB, PIPELINE, POD
from cai_operator.manifests.pod import QUEUE_LABEL
from cai_operator.names import KIND_LABEL, NODE_LABEL

QUEUE, FLAVOUR = "team-a", {"cloud/flavour": "h100"}
SFT = {NODE_LABEL: "sft"}
PPO_CRITIC = {NODE_LABEL: "ppo", KIND_LABEL: "server"}
TUTORIAL = Path(__file__).parents[3] / "examples" / "mistral-7b.yaml"


@pytest.fixture
def webhook(control_plane_with_jobs: ControlPlane) -> Iterator[None]:
    """Jobs with a queue are suspended as they are created, as Kueue's webhook does it."""
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    queued = f"'{QUEUE_LABEL}' in object.metadata.?labels.orValue({{}})"
    version, name = "admissionregistration.k8s.io/v1beta1", {"name": "kueue"}
    policy = {
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicy",
        "metadata": name,
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [{"name": "queued", "expression": queued}],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": "Object{spec: Object.spec{suspend: true}}"},
                }
            ],
        },
    }
    binding = {"apiVersion": version, "kind": "MutatingAdmissionPolicyBinding", "metadata": name}
    both = json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": [policy, {**binding, "spec": {"policyName": "kueue"}}]}
    )
    control_plane_with_jobs.kubectl("apply", "-f", "-", stdin=both)
    yield
    control_plane_with_jobs.kubectl("delete", "-f", "-", stdin=both)


@pytest.mark.usefixtures("webhook")
def test_admitted_preempted_and_admitted_again(
    api: Api, operator: OperatorProcess, player: Player, recorder: Recorder
) -> None:
    player.script("sft", *[Run()] * 4)
    queued = {"nodes": 2, "template": {"queueName": QUEUE}}
    api.create(PIPELINE, short(spec={"stages": {"sft": queued}}))

    waits = {"state": "Starting", "message": f"waits for Kueue to admit it to queue {QUEUE}"}
    wait_for(lambda: api.node("short", "sft"), "sft to wait", lambda node: waits.items() <= node.items())
    assert api.list(POD, **SFT) == []
    (job,) = api.list(JOB, **SFT)
    _let_go(api, job)
    wait_for(lambda: player.running("sft"), "both pods, at once", lambda pods: len(pods) == 2)
    assert {tuple(pod["spec"]["nodeSelector"].items()) for pod in api.list(POD, **SFT)} == {
        *map(tuple, [FLAVOUR.items()])
    }

    # another operator looks at what its predecessor left
    operator.kill()
    operator.start()
    wait_for(lambda: api.node("short", "sft"), "sft to run", lambda node: node["state"] == "Running")
    _take_back(api, job)
    wait_for(lambda: api.list(POD, **SFT), "the pods to go", lambda pods: not pods)
    wait_for(lambda: api.node("short", "sft"), "sft to wait again", lambda node: waits.items() <= node.items())

    _let_go(api, job)
    wait_for(lambda: player.running("sft"), "both pods once more", lambda pods: len(pods) == 4)
    found = api.get(JOB, job["metadata"]["name"])
    assert found is not None
    assert (found["metadata"]["uid"], found["spec"]["suspend"]) == (job["metadata"]["uid"], False)
    assert found["spec"]["template"]["spec"]["nodeSelector"] == FLAVOUR
    player.end("sft")
    api.wait_for_phase("short", "Succeeded")
    assert api.node("short", "sft")["attempts"] == 1
    assert recorder.made(JOB)["sft"] == 1


def _let_go(api: Api, job: dict[str, Any]) -> None:
    """Admit it."""
    change = {"suspend": False, "template": {"spec": {"nodeSelector": FLAVOUR}}}
    api.patch(JOB, job["metadata"]["name"], {"spec": change})


def _take_back(api: Api, job: dict[str, Any]) -> None:
    """Preempt it; its template can be as before once it has no start."""
    name = job["metadata"]["name"]
    api.patch(JOB, name, {"spec": {"suspend": True}})
    wait_for(lambda: api.get(JOB, name), "it to stop", lambda it: not (it or {})["status"].get("active"))
    api.patch(JOB, name, {"status": {"startTime": None}}, "status")
    api.patch(JOB, name, {"spec": {"template": {"spec": {"nodeSelector": dict.fromkeys(FLAVOUR)}}}})


@pytest.mark.usefixtures("operator", "webhook")
def test_an_actor_is_in_the_queue_only_once_its_critic_is_up(api: Api, player: Player) -> None:
    """So what waits for quota waits for nothing that is behind it in a queue."""
    player.script("ppo", *[Run()] * 2)
    ppo = {"nodes": 2, "template": {"queueName": QUEUE}, "critic": {"nodes": 2, "queueName": "critics"}}
    spec = yaml.safe_load(TUTORIAL.read_text())["spec"]
    api.create(PIPELINE, {"metadata": {"name": "two"}, "spec": merged(spec, {"stages": {"ppo": ppo}})})

    (critic,) = wait_for(lambda: _of_ppo(api, "server"), "the critic's job")
    assert critic["metadata"]["labels"][QUEUE_LABEL] == "critics"
    reason = "waits for Kueue to admit it to queue critics"
    wait_for(lambda: api.node("two", "ppo"), "it to wait", lambda node: reason in node.get("message", ""))
    assert _of_ppo(api, "job") == []
    _let_go(api, critic)
    (actor,) = wait_for(lambda: _of_ppo(api, "job"), "the actor's job")
    assert (actor["metadata"]["labels"][QUEUE_LABEL], actor["spec"]["suspend"]) == (QUEUE, True)
    assert sorted(pod["status"]["phase"] for pod in api.list(POD, **PPO_CRITIC)) == ["Running"] * 2

    _let_go(api, actor)
    wait_for(lambda: player.running("ppo"), "both pods of the actor", lambda pods: len(pods) == 2)
    player.end("ppo")
    wait_for(lambda: api.node("two", "ppo"), "ppo to succeed", lambda node: node["state"] == "Succeeded")
    wait_for(lambda: _of_ppo(api, "server"), "the critic to be given up", lambda jobs: not jobs)


def _of_ppo(api: Api, kind: str) -> list[dict[str, Any]]:
    return api.list(JOB, **{NODE_LABEL: "ppo", KIND_LABEL: kind})
