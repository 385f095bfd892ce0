"""A Deployment and its pods as a server of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cai_jobs.contract.program import EXIT_INPUT
from cai_operator import conditions, names
from cai_operator.observing.endings import Ending, ending_of, has_ended, newest_first, program_status, rank_of
from cai_operator.observing.fields import Fields, fields_of
from cai_operator.observing.objects import (
    Raw,
    condition,
    holds,
    is_going,
    label,
    mapping,
    name_of,
    number,
    text,
    time,
)
from cai_operator.observing.troubles import Trouble, mount_trouble, refused, trouble_of
from cai_operator.workloads import JobSeen, JobState, ServerSeen

TEMPLATE_LABEL = "pod-template-hash"
_ENDED_WELL = "ended with exit code 0, though a server is to stay up"


def server_seen(deployment: Raw, pods: Sequence[Raw], retries: int, warning: str = "") -> ServerSeen:
    """What a Deployment is to the plan.

    Ready means that one pod of its present template is: after a change, pods of the old one may still answer.
    It has failed for good when a program of it says that its input is wrong, or ended more often than `retries`
    allows and is kept waiting for it.

    Args:
        deployment: the Deployment.
        pods: its pods, of whatever template.
        retries: the stage's retries.
        warning: the newest Warning event about it.
    """
    fields = fields_of(deployment)
    present = _of_present_template([pod for pod in pods if not is_going(pod)])
    ready = _is_ready(deployment, present)
    unwell = _unwell(present, fields)
    failed = not ready and any(_is_final(pod, ending, count, retries) for pod, ending, count in unwell)
    trouble = _trouble(deployment, present, unwell, fields, retries, failed, warning)
    return ServerSeen(
        name=name_of(deployment),
        ready=ready,
        started=time(deployment, "metadata", "creationTimestamp"),
        problem=trouble.message if trouble else None,
        problem_reason=trouble.reason if trouble else None,
        failed=failed,
        key=label(deployment, names.KEY_LABEL) or None,
        lacks_room=trouble is not None and trouble.lacks_room,
        serving=ready or any(holds(pod, "Ready") for pod in present),
    )


def group_seen(job: Raw, pods: Sequence[Raw], seen: JobSeen) -> ServerSeen:
    """What the Job of a server on several machines is to the plan: ready as its first pod is, failed as the Job is.

    Args:
        job: the Job.
        pods: its pods.
        seen: what it would be as a job.
    """
    first = [pod for pod in pods if rank_of(pod) == 0 and not is_going(pod) and not has_ended(pod)]
    problem, reason = seen.problem, seen.problem_reason
    failed = seen.state in (JobState.FAILED, JobState.SUCCEEDED)
    if seen.state == JobState.SUCCEEDED:
        problem, reason = f"{name_of(job)} {_ENDED_WELL}", conditions.CRASH_LOOPING
    ready = not failed and any(holds(pod, "Ready") for pod in first)
    return ServerSeen(
        name=seen.name,
        ready=ready,
        started=time(job, "metadata", "creationTimestamp"),
        problem=problem,
        problem_reason=reason,
        failed=failed,
        key=label(job, names.KEY_LABEL) or None,
        lacks_room=seen.lacks_room,
        serving=ready,
    )


def _of_present_template(pods: Sequence[Raw]) -> list[Raw]:
    """Pods of the newest template, the newest first, without those that ended for good; the newest if all did."""
    ordered = newest_first(pods)
    present = [pod for pod in ordered if label(pod, TEMPLATE_LABEL) == label(ordered[0], TEMPLATE_LABEL)]
    return [pod for pod in present if not has_ended(pod)] or present[:1]


def _unwell(present: Sequence[Raw], fields: Fields) -> list[tuple[Raw, Ending, int]]:
    """Pods whose program ended, and is not ready again; how it ended, and how often."""
    found = []
    for pod in present:
        ending = ending_of(pod, fields)
        if ending is None or holds(pod, "Ready"):
            continue
        if ending.is_good:
            ending = replace(ending, sentence=_ENDED_WELL, reason=conditions.CRASH_LOOPING)
        found.append((pod, ending, _ends(pod)))
    return found


def _is_ready(deployment: Raw, present: Sequence[Raw]) -> bool:
    status = mapping(deployment, "status")
    if number(status, "observedGeneration") < number(deployment, "metadata", "generation"):
        return False
    if number(status, "readyReplicas") < 1:
        return False
    if number(status, "updatedReplicas") >= number(status, "replicas"):
        return True
    # in the middle of a change the count is of old pods and new ones together
    return any(holds(pod, "Ready") for pod in present)


def _ends(pod: Raw) -> int:
    """How often its program ended; between two starts as well as after the second."""
    status = program_status(pod)
    runs = bool(mapping(status, "state", "running"))
    has_ended = bool(mapping(status, "state", "terminated") or mapping(status, "lastState", "terminated"))
    return number(status, "restartCount") + (1 if has_ended and not runs else 0)


def _is_final(pod: Raw, ending: Ending, count: int, retries: int) -> bool:
    waits = text(program_status(pod), "state", "waiting", "reason") == "CrashLoopBackOff"
    return ending.exit_code == EXIT_INPUT or (waits and count > retries)


def _trouble(
    deployment: Raw,
    present: Sequence[Raw],
    unwell: Sequence[tuple[Raw, Ending, int]],
    fields: Fields,
    retries: int,
    failed: bool,
    warning: str,
) -> Trouble | None:
    name = name_of(deployment)
    for pod, ending, count in unwell:
        if ending.exit_code == EXIT_INPUT:
            return Trouble(conditions.INPUT_ERROR, ending.sentence)
        if failed and _is_final(pod, ending, count, retries):
            times = f" (it ended {count} times, {fields.retries} is {retries})"
            return Trouble(conditions.RETRIES_EXHAUSTED, ending.sentence + times)
    for pod in present:
        trouble = trouble_of(pod, fields)
        if trouble is not None:
            return trouble
    for _pod, ending, count in unwell:
        if ending.reason == conditions.EVICTED:
            return Trouble(conditions.EVICTED, f"{ending.sentence}; another one is made")
        if count <= 1:
            return Trouble(conditions.RETRYING, f"{ending.sentence}; it is started again")
        return Trouble(ending.reason, f"{ending.sentence}; it ended {count} times and is started again")
    lack = condition(deployment, "ReplicaFailure")
    if lack.get("status") == "True" and not present:
        return refused("pods of", name, text(lack, "message"), fields)
    if warning and present and not any(holds(pod, "Ready") for pod in present):
        return mount_trouble(name, warning)
    return None
