"""A pipeline that is suspended in the middle of training gives up every pod, and goes on later where it stopped.

It has a judge that wants a key, and every other Secret a pipeline can name: their values are searched everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.harness import node_canary
from tests.harness.canary import Canaries
from tests.harness.cluster import Cluster
from tests.harness.installed import SMALL, Run, Start
from tests.harness.objects import Api, wait_for

from cai_operator.manifests.kinds import DEPLOYMENT

pytestmark = pytest.mark.slow

ENDED = ("Succeeded", "Failed")


def test_a_suspended_training_goes_on_where_it_stopped(
    operator: Cluster, namespace: str, start: Start, undisturbed: Run, tmp_path: Path
) -> None:
    canaries = Canaries("ngc", "hub", "registry")
    manifest = tmp_path / "with-secrets.yaml"
    manifest.write_text(yaml.safe_dump(node_canary.with_secrets(yaml.safe_load(SMALL.read_text()), namespace)))
    with operator.client() as client:
        node_canary.prepare(Api(client, namespace), canaries)
    run = start(manifest, namespace)
    with node_canary.watched(run, canaries) as watch:
        run.until("rows of rlData", lambda: run.journalled("rlData") > 1)
        node_canary.search(run, canaries)
        run.until("a step of ppo", lambda: run.trained("ppo") > 0)
        # at once: a search takes as long as some steps
        _suspend(run, True)
    run.until_phase("Suspended")
    assert run.api.condition("small", "Suspended")["status"] == "True"
    wait_for(lambda: _at_work(run), "all pods to go", lambda pods: not pods)
    assert run.api.names(DEPLOYMENT) == {"judge"}  # which is none of its own
    assert run.nodes()["ppo"]["state"] == "Suspended"
    saved = run.trained("ppo")
    assert saved > 0
    node_canary.search(run, canaries)

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

    node_canary.search(run, canaries)
    print(canaries.table())
    assert canaries.found == []
    given = node_canary.given(run)
    assert given == {"ngc": {"rlData/job"}, "hub": {"models/job", "datasets/job"}}
    # one that ends within a moment may not have been seen
    assert all(holders <= given[name] for name, holders in watch.holders.items())
    assert watch.holders["ngc"] == given["ngc"]
    assert min(canaries.searched.values()) > 2


def _suspend(run: Run, value: bool) -> None:
    change = json.dumps({"spec": {"suspend": value}})
    run.cluster.kubectl("patch", "caip", run.name, "-n", run.api.namespace, "--type=merge", f"--patch={change}")


def _at_work(run: Run) -> list[str]:
    return [pod["metadata"]["name"] for pod in run.pods() if pod["status"]["phase"] not in ENDED]
