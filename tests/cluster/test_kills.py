"""SIGKILL and lost pods of everything that works on a pipeline, the operator too: the result is the same."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from tests.harness.chart import SYSTEM
from tests.harness.cluster import Cluster
from tests.harness.installed import DEPLOYMENT, SMALL, Run, Start, force_delete, process_of
from tests.harness.objects import Api

from cai_operator.manifests.kinds import POD

pytestmark = pytest.mark.slow


def test_whatever_is_killed_the_rows_are_the_same(
    operator: Cluster, namespace: str, start: Start, undisturbed: Run
) -> None:
    run = start(SMALL, namespace)
    run.until("rows of slData", lambda: run.journalled("slData") > 2)
    run.kill_program("slData", "job")
    run.until("more rows of slData", lambda: run.journalled("slData") > 5)
    run.kill_pod("slData", "server")

    run.until("sft to run", lambda: run.running("sft", "job"))
    _kill_operator(operator)
    # its stage ends while nobody looks
    run.until("rows of rlData", lambda: run.journalled("rlData") > 3)
    _lose_operator(operator)

    run.until("a step of ppo", lambda: run.trained("ppo") > 0)
    run.kill_program("ppo", "server")
    step = run.trained("ppo")
    run.until("another step of ppo", lambda: run.trained("ppo") > step)
    run.kill_program("ppo", "job")

    run.until_phase("Succeeded")
    nodes = run.nodes()
    attempts = {name: nodes[name]["attempts"] for name in ("models", "datasets", "slData", "sft", "rewardModel", "ppo")}
    assert attempts == {"models": 1, "datasets": 1, "slData": 2, "sft": 1, "rewardModel": 1, "ppo": 2}
    undisturbed.until_phase("Succeeded")
    expected = undisturbed.rows()
    assert {"slData/sl_cai_train.jsonl", "rlData/cai_preference_dataset.json", "ppo/model/model.safetensors"} < set(
        expected
    )
    assert run.rows() == expected
    assert list(run.volume.rglob("*.partial")) == []


def _kill_operator(operator: Cluster) -> None:
    """SIGKILL its program; the same pod starts it again."""
    os.kill(process_of(_operator_pod(operator)), signal.SIGKILL)


def _lose_operator(operator: Cluster) -> None:
    """Take its pod away without any grace: the next one is another, and has to wait for the Lease to expire."""
    force_delete(operator, SYSTEM, _operator_pod(operator)["metadata"]["name"])


def _operator_pod(operator: Cluster) -> dict[str, Any]:
    with operator.client() as client:
        pods = Api(client, SYSTEM).list(POD, **{"app.kubernetes.io/name": DEPLOYMENT})
    return next(
        pod for pod in pods if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    )
