"""A pipeline that is suspended in the middle of training gives up every pod, and goes on later where it stopped."""

from __future__ import annotations

import json

import pytest
from tests.harness.cluster import Cluster
from tests.harness.installed import SMALL, Run, Start
from tests.harness.objects import wait_for

from cai_operator.manifests.kinds import DEPLOYMENT

pytestmark = pytest.mark.slow

ENDED = ("Succeeded", "Failed")


def test_a_suspended_training_goes_on_where_it_stopped(
    operator: Cluster, namespace: str, start: Start, undisturbed: Run
) -> None:
    run = start(SMALL, namespace)
    run.until("a step of ppo", lambda: run.trained("ppo") > 0)
    _suspend(run, True)
    run.until_phase("Suspended")
    assert run.api.condition("small", "Suspended")["status"] == "True"
    wait_for(lambda: _at_work(run), "all pods to go", lambda pods: not pods)
    assert run.api.names(DEPLOYMENT) == set()
    assert run.nodes()["ppo"]["state"] == "Suspended"
    saved = run.trained("ppo")
    assert saved > 0

    _suspend(run, False)
    run.until_phase("Succeeded")
    nodes = run.nodes()
    assert nodes["sft"]["attempts"] == 1
    (actor,) = run.pods("ppo", "job")
    log = operator.kubectl("logs", actor["metadata"]["name"], "-n", namespace).stdout
    progress = [json.loads(line)["progress"] for line in log.splitlines() if line.startswith('{"progress"')]
    assert progress[0]["done"] == saved
    undisturbed.until_phase("Succeeded")
    assert run.rows() == undisturbed.rows()


def _suspend(run: Run, value: bool) -> None:
    change = json.dumps({"spec": {"suspend": value}})
    run.cluster.kubectl("patch", "caip", run.name, "-n", run.api.namespace, "--type=merge", f"--patch={change}")


def _at_work(run: Run) -> list[str]:
    return [pod["metadata"]["name"] for pod in run.pods() if pod["status"]["phase"] not in ENDED]
