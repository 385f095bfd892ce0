"""What can become of a pod: scripted outcomes, and the pod status a kubelet writes for each.

A pod's status goes through a list of steps; the player writes one after the other. Shapes as in the Kubernetes API
reference (PodStatus, ContainerStatus); messages as kubelet, scheduler and container runtime word them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

EVALUATION = {"harmfulRate": 0.05, "helpfulRate": 0.9}


@dataclass(frozen=True)
class Succeed:
    """The program ends well. `metrics` go into its last word, beside the artifact."""

    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fail:
    """The program ends with an exit code and says why; `error` None leaves no last word (a program that was killed)."""

    code: int = 1
    error: str | None = "the disk is full"
    reason: str = "Error"


@dataclass(frozen=True)
class Run:
    """The program runs, or the server is ready, until the player is told otherwise (`Player.end`)."""


@dataclass(frozen=True)
class NotReady:
    """The server runs, but its probe does not pass."""


@dataclass(frozen=True)
class Stuck:
    """The pod does not get going: `reason` and `message` of the waiting container, or of the scheduler."""

    reason: str
    message: str
    is_scheduled: bool = True


@dataclass(frozen=True)
class Evicted:
    """The node was short of something and threw the pod out: a disruption, no failure of the program."""


@dataclass(frozen=True)
class Crashing:
    """The container ends with `code` again and again, and is restarted: a server's pod."""

    code: int = 1
    error: str | None = "the model directory is empty"
    restarts: int = 4


Outcome = Succeed | Fail | Run | NotReady | Stuck | Evicted | Crashing

OUT_OF_MEMORY = Fail(code=137, error=None, reason="OOMKilled")
UNSCHEDULABLE = Stuck(
    "Unschedulable",
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available.",
    is_scheduled=False,
)
VOLUME_UNBOUND = Stuck(
    "Unschedulable",
    "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
    is_scheduled=False,
)
IMAGE_MISSING = Stuck(
    "ImagePullBackOff",
    'Back-off pulling image "cai-jobs:dev": ErrImagePull: failed to resolve reference: not found',
)
SECRET_MISSING = Stuck("CreateContainerConfigError", 'secret "ngc" not found')


def status_steps(pod: Mapping[str, Any], outcome: Outcome) -> list[dict[str, Any]]:
    """The statuses of a pod up to its outcome, one after the other."""
    if isinstance(outcome, Stuck):
        return [_stuck(pod, outcome)]
    if isinstance(outcome, NotReady):
        return [_running(pod, ready=False)]
    if isinstance(outcome, Crashing):
        return [_running(pod, ready=False), _crashing(pod, outcome)]
    if isinstance(outcome, Run):
        return [_running(pod)]
    return [_running(pod), ended(pod, outcome)]


def ended(pod: Mapping[str, Any], outcome: Succeed | Fail | Evicted) -> dict[str, Any]:
    """The status of a pod that has ended so."""
    if isinstance(outcome, Evicted):
        disruption = _condition(
            "DisruptionTarget", True, "TerminationByKubelet", "The node was low on resource: memory."
        )
        status = _terminated(pod, 137, "Error", "")
        status["conditions"].append(disruption)
        return {**status, "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    if isinstance(outcome, Fail):
        word = "" if outcome.error is None else json.dumps({"error": outcome.error})
        return {**_terminated(pod, outcome.code, outcome.reason, word), "phase": "Failed"}
    return {**_terminated(pod, 0, "Completed", json.dumps(last_word(pod, outcome.metrics))), "phase": "Succeeded"}


def last_word(pod: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the program of this pod writes into its termination message when it is done, as docs/contracts.md has it."""
    node, key = pod["metadata"]["labels"]["cai.dev/node"], pod["metadata"]["labels"]["cai.dev/key"]
    figures = metrics or (EVALUATION if node.startswith("evaluate") else {"rows": 12})
    artifact = {"key": key, "digest": f"sha256:{key * 4}", "files": 3, "bytes": 4096}
    return {"artifact": artifact, "metrics": dict(figures)}


def now() -> str:
    """The time as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _running(pod: Mapping[str, Any], ready: bool = True, restarts: int = 0) -> dict[str, Any]:
    state = {"running": {"startedAt": now()}}
    conditions = [
        _condition("PodScheduled", True),
        _condition("Initialized", True),
        _condition("ContainersReady", ready),
        _condition("Ready", ready),
    ]
    return {
        "phase": "Running",
        "startTime": now(),
        "conditions": conditions,
        "containerStatuses": [_container(pod, state, ready=ready, started=True, restarts=restarts)],
    }


def _crashing(pod: Mapping[str, Any], outcome: Crashing) -> dict[str, Any]:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    word = "" if outcome.error is None else json.dumps({"error": outcome.error})
    last = {"terminated": _termination(outcome.code, "Error", word)}
    status = _running(pod, ready=False)
    container = _container(pod, waiting, ready=False, started=False, restarts=outcome.restarts)
    return {**status, "containerStatuses": [{**container, "lastState": last}]}


def _terminated(pod: Mapping[str, Any], code: int, reason: str, word: str) -> dict[str, Any]:
    state = {"terminated": _termination(code, reason, word)}
    conditions = [
        _condition("PodScheduled", True),
        _condition("Initialized", True),
        _condition("ContainersReady", False, "PodCompleted" if code == 0 else "PodFailed"),
        _condition("Ready", False, "PodCompleted" if code == 0 else "PodFailed"),
    ]
    return {
        "startTime": now(),
        "conditions": conditions,
        "containerStatuses": [_container(pod, state, ready=False, started=False)],
    }


def _stuck(pod: Mapping[str, Any], outcome: Stuck) -> dict[str, Any]:
    if not outcome.is_scheduled:
        scheduled = _condition("PodScheduled", False, outcome.reason, outcome.message)
        return {"phase": "Pending", "conditions": [scheduled]}
    state = {"waiting": {"reason": outcome.reason, "message": outcome.message}}
    return {
        "phase": "Pending",
        "startTime": now(),
        "conditions": [
            _condition("PodScheduled", True),
            _condition("ContainersReady", False, "ContainersNotReady"),
            _condition("Ready", False, "ContainersNotReady"),
        ],
        "containerStatuses": [_container(pod, state, ready=False, started=False)],
    }


def _container(
    pod: Mapping[str, Any], state: Mapping[str, Any], *, ready: bool, started: bool, restarts: int = 0
) -> dict[str, Any]:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "started": started,
        "restartCount": restarts,
        "state": state,
    }


def _termination(code: int, reason: str, word: str) -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "message": word, "startedAt": now(), "finishedAt": now()}


def _condition(type_: str, status: bool, reason: str = "", message: str = "") -> dict[str, Any]:
    condition = {"type": type_, "status": str(status), "lastTransitionTime": now()}
    return condition | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})
