"""Warnings: only events that say what nothing else does, and only as long as they are about what is there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from cai_operator.cluster import Cluster
from cai_operator.gathering import Memory, read_warnings
from cai_operator.names import WORKLOAD_LABEL
from cai_operator.snapshot import Snapshot
from cai_operator.workloads import JobSeen, JobState, Observed

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB = {"metadata": {"name": "tiny-sft"}, "spec": {}}
POD = {
    "metadata": {
        "name": "tiny-sft-x",
        "labels": {WORKLOAD_LABEL: "tiny-sft"},
        "creationTimestamp": "2026-01-01T11:59:00Z",
    },
    "status": {"phase": "Pending"},
}


class Told(Cluster):
    """An API server that has these warnings about Jobs and pods."""

    def __init__(self, **events: list[tuple[str, str]]) -> None:
        self.events = events

    async def warnings(self, namespace: str, kind: str, name: str) -> list[dict[str, Any]]:
        return [{"reason": reason, "message": message} for reason, message in self.events.get(kind, [])]


def read(cluster: Cluster, memory: Memory, now: datetime, pods: dict[str, Any], problem: str | None = None) -> None:
    snapshot = Snapshot(None, {"Job": {"tiny-sft": JOB}, "Pod": pods})
    observed = Observed(jobs={"tiny-sft": JobSeen("tiny-sft", JobState.PENDING, problem=problem)})
    asyncio.run(read_warnings(cluster, "lab", snapshot, observed, memory, now))


def test_a_job_without_pods_says_why_in_an_event():
    memory = Memory()
    read(Told(Job=[("FailedCreate", "exceeded quota")]), memory, NOW, {})
    assert memory.warnings == {"tiny-sft": "exceeded quota"}


def test_what_was_said_before_there_was_a_pod_is_over():
    memory = Memory()
    cluster = Told(Job=[("FailedCreate", "no service account yet")], Pod=[("FailedScheduling", "unbound claim")])
    read(cluster, memory, NOW, {})
    read(cluster, memory, NOW + timedelta(seconds=20), {"tiny-sft-x": POD}, problem="no service account yet")
    assert memory.warnings == {}


def test_a_volume_that_cannot_be_mounted_is_told_of_the_pod():
    memory = Memory()
    cluster = Told(Pod=[("FailedMount", "no such share"), ("FailedScheduling", "unbound claim")])
    read(cluster, memory, NOW, {"tiny-sft-x": POD})
    assert memory.warnings == {"tiny-sft": "no such share"}
