"""All children of a pipeline together: raw objects, refusals, warnings and progress in, `Observed` out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from cai_operator import names
from cai_operator.api import CAIPipeline
from cai_operator.observing.fields import Fields
from cai_operator.observing.jobs import job_seen
from cai_operator.observing.objects import Raw, is_going, items, label, text
from cai_operator.observing.servers import group_seen, server_seen
from cai_operator.observing.troubles import refused
from cai_operator.stages import NODES
from cai_operator.workloads import JobSeen, JobState, Kind, Observed, ServerSeen

_SERVER_NAME = re.compile(rf"-({'|'.join(names.ROLES)})-[0-9a-f]{{8}}(-r[0-9a-f]{{4}})?$")


@dataclass(frozen=True)
class Children:
    """A pipeline's children as the API server gives them, each by its name."""

    jobs: Mapping[str, Raw] = field(default_factory=dict)
    deployments: Mapping[str, Raw] = field(default_factory=dict)
    pods: Mapping[str, Raw] = field(default_factory=dict)


def observe(
    pipeline: CAIPipeline,
    children: Children,
    *,
    progress: Mapping[str, Mapping[str, Any]],
    refusals: Mapping[str, str],
    warnings: Mapping[str, str],
    texts: Mapping[str, Mapping[str, str]],
    now: datetime,
) -> Observed:
    """What the plan is to know of a pipeline's children. Objects that are being deleted count as gone.

    Args:
        pipeline: the resource.
        children: its children.
        progress: the newest progress line of jobs, by their names.
        refusals: what the API server said of workloads it would not take, by their names: they show as children that do
            not come up, or as trouble of those that stand.
        warnings: the newest Warning event about a Job or a Deployment or its pods, by the child's name.
        texts: what `Observed.texts` is to be.
        now: the time, aware.
    """
    pods: dict[str, list[Raw]] = {}
    for pod in children.pods.values():
        pods.setdefault(label(pod, names.WORKLOAD_LABEL), []).append(pod)
    jobs: dict[str, JobSeen] = {}
    servers: dict[str, ServerSeen] = {}
    for name, job in children.jobs.items():
        if not is_going(job):
            own = [pod for pod in pods.get(name, ()) if _is_of(pod, job)]
            seen = job_seen(job, own, progress.get(name), warnings.get(name, ""), now)
            node, key = label(job, names.NODE_LABEL) or None, label(job, names.KEY_LABEL) or None
            if label(job, names.KIND_LABEL) == Kind.SERVER:
                servers[name] = replace(group_seen(job, own, seen), node=node)
            else:
                jobs[name] = replace(seen, node=node, key=key)
    for name, deployment in children.deployments.items():
        if not is_going(deployment):
            retries = _retries(pipeline, label(deployment, names.STAGE_LABEL))
            server = server_seen(deployment, pods.get(name, ()), retries, warnings.get(name, ""))
            servers[name] = replace(server, node=label(deployment, names.NODE_LABEL) or None)
    _add_refused(pipeline, refusals, children, jobs, servers)
    return Observed(jobs=jobs, servers=servers, published=None, texts=texts)


def _is_of(pod: Raw, job: Raw) -> bool:
    """Whether a pod is this Job's, and not one's that had the same name before it."""
    uid = text(job, "metadata", "uid")
    owners: Sequence[Raw] = [owner for owner in items(pod, "metadata", "ownerReferences") if owner.get("kind") == "Job"]
    return not uid or not owners or any(owner.get("uid") == uid for owner in owners)


def _retries(pipeline: CAIPipeline, stage: str) -> int:
    known = {node.stage for node in NODES}
    return pipeline.spec.stages.by_name(stage).retries if stage in known else 0


def _add_refused(
    pipeline: CAIPipeline,
    refusals: Mapping[str, str],
    children: Children,
    jobs: dict[str, JobSeen],
    servers: dict[str, ServerSeen],
) -> None:
    for name, words in refusals.items():
        is_server = name == names.serve_name(pipeline.name) or _SERVER_NAME.search(name) is not None
        kind = "Deployment" if is_server else "Job"
        trouble = refused(kind, name, words, Fields("", namespace=pipeline.metadata.namespace))
        if trouble is None:
            continue
        problem: dict[str, Any] = {"problem": trouble.message, "problem_reason": trouble.reason}
        if name in jobs and jobs[name].problem is None and jobs[name].state in (JobState.PENDING, JobState.RUNNING):
            jobs[name] = replace(jobs[name], **problem)
        elif name in servers and servers[name].problem is None:
            servers[name] = replace(servers[name], **problem)
        elif name in children.jobs or name in children.deployments:
            continue
        elif not is_server:
            jobs[name] = JobSeen(name, JobState.PENDING, 0, **problem)
        else:
            servers[name] = ServerSeen(name, ready=False, **problem)
