"""The hf engine's SFT as two pods of a Job: one rank is killed, both start again, and learn what one pod does."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness.installed import SMALL, Run, Start
from tests.harness.pipelines import merged

from cai_operator.manifests.kinds import JOB
from cai_operator.observing.endings import rank_of

pytestmark = pytest.mark.slow

NODES = 2
OFF = {"rlData": {"enabled": False}, "rewardModel": {"enabled": False}, "ppo": {"enabled": False, "critic": None}}
# the batch of a step is as large as on one node, and dealt out
TWO_NODES = {"stages": {**OFF, "sft": {"nodes": NODES, "overrides": {"micro-batch-size": 2}}}}
TOLERANCE = 1e-4


def test_two_pods_learn_what_one_does_though_one_is_killed(
    namespace: str, start: Start, undisturbed: Run, tmp_path: Path
) -> None:
    small = yaml.safe_load(SMALL.read_text())
    manifest = tmp_path / "two.yaml"
    manifest.write_text(yaml.safe_dump({**small, "spec": merged(small["spec"], TWO_NODES)}))
    run = start(manifest, namespace)

    run.until("a step of sft", lambda: run.trained("sft") > 0)
    run.kill_rank("sft", "job", 1)
    run.until_phase("Succeeded")
    assert run.nodes()["sft"]["attempts"] == 2

    first, second = _attempts(run.pods("sft", "job"))
    assert {rank_of(pod) for pod in first} == {rank_of(pod) for pod in second} == set(range(NODES))
    # the rank that was killed, and the other one for want of it
    assert [_end(pod)["exitCode"] for pod in first] == [1, 137]
    assert [_end(pod)["exitCode"] for pod in second] == [0, 0]
    # restarted together: none is up while one of those before is
    assert max(_time(pod, "finishedAt") for pod in first) <= min(_time(pod, "startedAt") for pod in second)
    (job,) = (job for job in run.api.list(JOB) if job["metadata"]["labels"]["cai.dev/node"] == "sft")
    assert (job["spec"]["completionMode"], job["status"]["succeeded"]) == ("Indexed", NODES)

    undisturbed.until("sft on one node", lambda: undisturbed.nodes()["sft"]["state"] == "Succeeded")
    assert len(_losses(run, "train")) == 4
    assert _losses(run, "train") == pytest.approx(_losses(undisturbed, "train"), rel=TOLERANCE)
    # a mean of micro batches' means, which are smaller here
    assert _losses(run, "validation") == pytest.approx(_losses(undisturbed, "validation"), rel=0.03)


def _attempts(pods: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The pods of the first and of the second attempt, each by rank."""
    assert len(pods) == 2 * NODES
    by_rank = sorted(pods, key=rank_of)
    by_age = [sorted(by_rank[place : place + 2], key=_made) for place in (0, 2)]
    return [pair[0] for pair in by_age], [pair[1] for pair in by_age]


def _made(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["creationTimestamp"])


def _end(pod: dict[str, Any]) -> dict[str, Any]:
    return dict(pod["status"]["containerStatuses"][0]["state"]["terminated"])


def _time(pod: dict[str, Any], what: str) -> datetime:
    return datetime.fromisoformat(_end(pod)[what])


def _losses(run: Run, phase: str) -> dict[int, float]:
    """The loss of every step that was trained, or validated."""
    lines = (run.artifact("sft") / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if row["phase"] == phase}
