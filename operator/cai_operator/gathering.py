"""What a look at a pipeline needs beside its children: texts of ConfigMaps, log tails, warnings about silent Jobs.

All of it is read when it is due, and remembered; losing the memory costs a few reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cai_operator import texts
from cai_operator.api import Spec
from cai_operator.cluster import Cluster
from cai_operator.manifests.kinds import CONFIG_MAP, JOB, POD
from cai_operator.manifests.pod import CONTAINER
from cai_operator.names import WORKLOAD_LABEL
from cai_operator.observing import newest_progress
from cai_operator.observing.objects import is_going, label
from cai_operator.snapshot import Snapshot
from cai_operator.workloads import JobState, Observed

TEXTS_MAX_AGE_S = 15.0
WARNINGS_MAX_AGE_S = 10.0
STUCK_AFTER_S = 5.0

TELLING: Mapping[str, frozenset[str]] = {
    JOB.kind: frozenset({"FailedCreate"}),
    POD.kind: frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"}),
}
"""Reasons of events about what an object's status does not say; that no node takes a pod, for one, its status does."""


@dataclass
class Memory:
    """What is remembered of a pipeline between two looks.

    Attributes:
        refusals: workload name -> what the API server said when it was last applied.
        progress: job name -> its newest progress line.
        warnings: workload name -> the newest warning event about it, where it does not start and says nothing itself.
        about: workload name -> kind and name of the object that warning is about.
        texts: contents of text sources, as `Observed.texts` has them.
        sources: the ConfigMap sources that were looked for.
        unknown: paths of fields of the resource that this version does not know.
    """

    refusals: dict[str, str] = field(default_factory=dict)
    progress: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    progress_read: datetime | None = None
    progress_written: datetime | None = None
    warnings: dict[str, str] = field(default_factory=dict)
    about: dict[str, tuple[str, str]] = field(default_factory=dict)
    warnings_read: datetime | None = None
    texts: dict[str, Mapping[str, str]] = field(default_factory=dict)
    texts_read: datetime | None = None
    sources: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def said(self) -> tuple[Mapping[str, object], ...]:
        """What was told about children beside themselves, to compare with later."""
        return dict(self.refusals), dict(self.progress), dict(self.warnings)

    @property
    def lacks_texts(self) -> bool:
        """Whether a ConfigMap the spec refers to was not there."""
        return any(source not in self.texts for source in self.sources)


def age(since: datetime | None, now: datetime) -> float:
    """Seconds since then; endless where it never was."""
    return float("inf") if since is None else (now - since).total_seconds()


async def read_texts(cluster: Cluster, namespace: str, spec: Spec, memory: Memory, now: datetime) -> None:
    """Read the ConfigMaps the spec refers to; paths on the volume are out of the operator's sight."""
    sources = tuple(source for source in texts.sources(spec) if source.startswith("configMap/"))
    if sources == memory.sources and not memory.lacks_texts and age(memory.texts_read, now) < TEXTS_MAX_AGE_S:
        return
    found: dict[str, Mapping[str, str]] = {}
    for source in sources:
        config_map = await cluster.get(CONFIG_MAP, namespace, source.partition("/")[2])
        if config_map is not None:
            found[source] = config_map.get("data") or {}
    memory.texts, memory.sources, memory.texts_read = found, sources, now


async def read_progress(
    cluster: Cluster,
    namespace: str,
    snapshot: Snapshot,
    observed: Observed,
    memory: Memory,
    every_s: float,
    now: datetime,
) -> None:
    """Read the log tail of every running program, unless that was done a moment ago."""
    running = [name for name, seen in observed.jobs.items() if seen.state == JobState.RUNNING]
    memory.progress = {name: line for name, line in memory.progress.items() if name in running}
    if not running or age(memory.progress_read, now) < every_s:
        return
    memory.progress_read = now
    lines = await asyncio.gather(*(_newest_line(cluster, namespace, snapshot, job) for job in running))
    memory.progress |= {job: line for job, line in zip(running, lines, strict=True) if line is not None}


async def read_warnings(
    cluster: Cluster, namespace: str, snapshot: Snapshot, observed: Observed, memory: Memory, now: datetime
) -> None:
    """Why a Job has no pods (a quota, an admission webhook) or a pod no volumes: only events say so."""
    silent = silent_objects(snapshot, observed, memory, now)
    # what was said of a Job without pods says nothing about the pod it has by now
    memory.warnings = {name: text for name, text in memory.warnings.items() if silent.get(name) == memory.about[name]}
    if not silent or age(memory.warnings_read, now) < WARNINGS_MAX_AGE_S:
        return
    memory.warnings_read = now
    for name, (kind, its_name) in silent.items():
        events = await cluster.warnings(namespace, kind, its_name)
        telling = [event for event in events if event.get("reason") in TELLING[kind]]
        if telling:
            memory.warnings[name] = str(telling[-1].get("message") or "")
            memory.about[name] = (kind, its_name)


def silent_objects(snapshot: Snapshot, observed: Observed, memory: Memory, now: datetime) -> dict[str, tuple[str, str]]:
    """Workloads that do not start and do not say why, and the kind and name of the object events may be about."""
    waiting = [name for name, seen in observed.jobs.items() if seen.state == JobState.PENDING]
    waiting += [name for name, seen in observed.servers.items() if not seen.ready]
    found = {}
    for name in waiting:
        seen = observed.jobs.get(name) or observed.servers[name]
        if seen.problem and name not in memory.warnings:
            continue
        pods = _pods_of(snapshot, name)
        stuck = [pod for pod in pods if _is_stuck(pod, now)]
        if stuck:
            found[name] = (POD.kind, str(stuck[-1]["metadata"]["name"]))
        elif not pods and name in snapshot.of(JOB) and not snapshot.of(JOB)[name]["spec"].get("suspend"):
            found[name] = (JOB.kind, name)
    return found


def _is_stuck(pod: Mapping[str, Any], now: datetime) -> bool:
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    return pod.get("status", {}).get("phase") == "Pending" and age(created, now) > STUCK_AFTER_S


def _pods_of(snapshot: Snapshot, workload: str) -> list[Mapping[str, Any]]:
    """Its pods, the newest last."""
    pods = [pod for pod in snapshot.of(POD).values() if label(pod, WORKLOAD_LABEL) == workload]
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))


async def _newest_line(cluster: Cluster, namespace: str, snapshot: Snapshot, job: str) -> Mapping[str, Any] | None:
    pod = _speaking_pod(snapshot, job)
    return None if pod is None else newest_progress(await cluster.log_tail(namespace, pod, CONTAINER))


def _speaking_pod(snapshot: Snapshot, job: str) -> str | None:
    """The pod whose log tells a job's progress: of the machine of rank 0 the newest that runs."""
    names = [
        str(pod["metadata"]["name"])
        for pod in _pods_of(snapshot, job)
        if pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index", "0") == "0"
        and pod.get("status", {}).get("phase") == "Running"
        and not is_going(pod)
    ]
    return names[-1] if names else None
