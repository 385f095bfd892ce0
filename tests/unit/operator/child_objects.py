"""Jobs, Deployments and pods in the form real ones have, for tests of what is observed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cai_operator import names

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = "0123456789abcdef"
JOB = names.job_name("tiny", "sft", KEY)
SERVER = names.server_name("tiny", "slData", "server", KEY)
IMAGE = "registry.example/cai-jobs:1"


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(spec: dict[str, Any] | None = None, labels: dict[str, str] | None = None, **status: Any) -> dict[str, Any]:
    own = {**names.labels("tiny", "sft", "sft", KEY, "job"), names.WORKLOAD_LABEL: JOB, **(labels or {})}
    return {
        "metadata": {"name": JOB, "namespace": "lab", "uid": "job-1", "labels": own},
        "spec": {"backoffLimit": 3, "completions": 1, "parallelism": 1, **(spec or {})},
        "status": status,
    }


def ended(type_: str, reason: str = "", message: str = "") -> list[dict[str, str]]:
    # the Job controller sets the criterion first, and the condition itself when all pods have ended
    first = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[type_]
    return [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at(60)}
        for kind in (first, type_)
    ]


def deployment(spec: dict[str, Any] | None = None, key: str = KEY, name: str = SERVER, **status: Any) -> dict[str, Any]:
    node = "serve" if name.endswith("serve") else "slData"
    own = {**names.labels("tiny", node, node, key, "server"), names.WORKLOAD_LABEL: name}
    return {
        "metadata": {
            "name": name,
            "namespace": "lab",
            "labels": own,
            "generation": 1,
            "creationTimestamp": at(0),
        },
        "spec": {"replicas": 1, **(spec or {})},
        "status": {"observedGeneration": 1, **status},
    }


def pod(
    state: dict[str, Any] | None = None,
    *,
    of: str = JOB,
    name: str = "",
    made: float = 0,
    phase: str = "Running",
    last: dict[str, Any] | None = None,
    restarts: int = 0,
    ready: bool = False,
    rank: int | None = None,
    template: str = "t1",
    going: float | None = None,
    uid: str = "job-1",
    conditions: list[dict[str, str]] | None = None,
    **status: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name or f"{of}-{made:g}",
        "namespace": "lab",
        "labels": {names.WORKLOAD_LABEL: of},
        "creationTimestamp": at(made),
    }
    if of == JOB:
        metadata["ownerReferences"] = [{"kind": "Job", "name": JOB, "uid": uid, "controller": True}]
    else:
        metadata["labels"]["pod-template-hash"] = template
    if rank is not None:
        metadata["annotations"] = {"batch.kubernetes.io/job-completion-index": str(rank)}
    if going is not None:
        metadata["deletionTimestamp"] = at(going)
    statuses = []
    if state is not None:
        container = {
            "name": "program",
            "state": state,
            "lastState": last or {},
            "restartCount": restarts,
            "image": IMAGE,
        }
        statuses = [container]
    return {
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never" if of == JOB else "Always",
            "containers": [{"name": "program", "image": IMAGE, "resources": {"limits": {"memory": "2Gi"}}}],
        },
        "status": {
            "phase": phase,
            "containerStatuses": statuses,
            "conditions": [{"type": "Ready", "status": str(ready)}, *(conditions or [])],
            **status,
        },
    }


def terminated(code: int, message: Any = "", started: float = 1, finished: float = 50, **more: Any) -> dict[str, Any]:
    said = message if isinstance(message, str) else json.dumps(message)
    return {
        "terminated": {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "message": said,
            "startedAt": at(started),
            "finishedAt": at(finished),
            **more,
        }
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


RUNNING = {"running": {"startedAt": at(1)}}
CREATING = waiting("ContainerCreating")
WORD = {"artifact": {"digest": "sha256:1"}, "metrics": {"loss": 1.5}}
DONE = pod(terminated(0, WORD), phase="Succeeded")


def unplaced(message: str) -> list[dict[str, str]]:
    return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
