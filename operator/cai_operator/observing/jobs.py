"""A Job and its pods as a job of the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cai_jobs.contract.program import EXIT_INPUT, EXIT_TERMINATED
from cai_operator import conditions
from cai_operator.manifests.pod import QUEUE_LABEL
from cai_operator.observing.endings import (
    Ending,
    ending_of,
    has_ended,
    is_running,
    newest_first,
    program_status,
    rank_of,
)
from cai_operator.observing.fields import Fields, fields_of
from cai_operator.observing.objects import Raw, condition, dig, holds, is_going, label, name_of, number, text, time
from cai_operator.observing.troubles import Trouble, mount_trouble, refused, trouble_of
from cai_operator.workloads import JobSeen, JobState

LATE_EVENTS = timedelta(seconds=30)
"""How long past its grace time a pod that is being deleted may still come up with its last word."""


BINDING_TAKES_S = 8.0


def job_seen(job: Raw, pods: Sequence[Raw], progress: Mapping[str, Any] | None, warning: str, now: datetime) -> JobSeen:
    """What a Job is to the plan.

    The Job's conditions say how it ended, its pods why. They come by two watches, in either order: so an ended Job
    counts as running while a pod that should have the last word has not ended as far as we see.

    Args:
        job: the Job.
        pods: its pods, of all attempts that are still there.
        progress: its newest progress line.
        warning: the newest Warning event about it.
        now: the time.
    """
    fields = fields_of(job)
    name = name_of(job)
    ordered = newest_first(pods)
    endings = [ending for pod in ordered if (ending := ending_of(pod, fields)) is not None]
    started = min((moment for pod in pods if (moment := _started(pod)) is not None), default=None)
    log = f"kubectl logs -n {fields.namespace} job/{name}"
    attempts = _failures(job)

    complete = holds(job, "Complete") or holds(job, "SuccessCriteriaMet")
    failed = holds(job, "Failed") or holds(job, "FailureTarget")
    if complete:
        best = _best_word(ordered, fields)
        if best is not None or not _may_yet_speak(ordered, now):
            return JobSeen(
                name,
                JobState.SUCCEEDED,
                attempts + 1,
                started or time(job, "status", "startTime"),
                (best.finished if best else None) or time(job, "status", "completionTime"),
                last_word=best.word if best else None,
                log=log,
            )
    elif failed:
        verdict = condition(job, "Failed") or condition(job, "FailureTarget")
        bad = _last_failures(ordered, fields)
        is_told = bool(bad) or text(verdict, "reason") == "DeadlineExceeded" or not _may_yet_speak(ordered, now)
        # FailureTarget comes first: while its pods are being stopped a retry must not start beside them
        if is_told and (holds(job, "Failed") or not any(_may_yet_run(pod, now) for pod in ordered)):
            word, reason, sentence = _verdict(job, verdict, bad, fields)
            finished = max((ending.finished for ending in bad if ending.finished), default=None)
            return JobSeen(
                name,
                JobState.FAILED,
                max(attempts, 1),
                started or time(job, "status", "startTime"),
                finished or time(verdict, "lastTransitionTime"),
                last_word=word,
                log=log,
                problem=sentence,
                problem_reason=reason,
            )

    living = [pod for pod in ordered if not is_going(pod) and not has_ended(pod)]
    runs = any(is_running(pod) for pod in living)
    has_begun = runs or complete or failed or bool(endings) or attempts > 0
    trouble = _trouble(job, living, warning, fields, now)
    if trouble is None:
        trouble = None if complete or failed else _again(job, ordered, attempts, runs, fields)
        is_pending = not has_begun
    else:
        # of a job of several nodes some pods may run, and wait for the others
        is_pending = not (runs or complete or failed)
    return JobSeen(
        name,
        JobState.PENDING if is_pending else JobState.RUNNING,
        attempts + (1 if runs or complete else 0) or (1 if has_begun else 0),
        started,
        progress=None if is_pending else progress,
        log=log if has_begun else None,
        problem=trouble.message if trouble else None,
        problem_reason=trouble.reason if trouble else None,
        lacks_room=trouble is not None and trouble.lacks_room,
    )


def _failures(job: Raw) -> int:
    """Attempts that failed. Of a Job of several nodes all pods fail together, each of which is counted."""
    uncounted = dig(job, "status", "uncountedTerminatedPods", "failed")
    pods = number(job, "status", "failed") + (len(uncounted) if isinstance(uncounted, list | tuple) else 0)
    return -(-pods // _nodes(job))


def _nodes(job: Raw) -> int:
    return max(1, number(job, "spec", "completions")) if text(job, "spec", "completionMode") == "Indexed" else 1


def _started(pod: Raw) -> datetime | None:
    status = program_status(pod)
    for state in ("lastState", "state"):
        for kind in ("terminated", "running"):
            if (moment := time(status, state, kind, "startedAt")) is not None:
                return moment
    return None


def _best_word(pods: Sequence[Raw], fields: Fields) -> Ending | None:
    """How the newest pod of rank 0 ended, if it ended well."""
    endings = [ending_of(pod, fields) for pod in pods if rank_of(pod) == 0]
    good = [ending for ending in endings if ending is not None and ending.is_good]
    return next((ending for ending in good if ending.word is not None), good[0] if good else None)


def _may_yet_speak(pods: Sequence[Raw], now: datetime) -> bool:
    return any(rank_of(pod) == 0 and _may_yet_run(pod, now) for pod in pods)


def _may_yet_run(pod: Raw, now: datetime) -> bool:
    going = time(pod, "metadata", "deletionTimestamp")  # when its grace time is over
    return not has_ended(pod) and (going is None or now < going + LATE_EVENTS)


def _verdict(
    job: Raw, verdict: Raw, bad: Sequence[Ending], fields: Fields
) -> tuple[Mapping[str, Any] | None, str, str]:
    """The last word, the reason and the sentence of a Job that failed."""
    why, said = text(verdict, "reason"), text(verdict, "message")
    own = min(bad, key=_blame) if bad else None
    if why == "DeadlineExceeded":
        seconds = number(job, "spec", "activeDeadlineSeconds")
        limit = f" of {seconds} s" if seconds else ""
        sentence = f"took longer than its deadline{limit} and was stopped; raise {fields.deadline}"
        if own is not None and own.exit_code != EXIT_TERMINATED:
            sentence += f"; its program's last sentence: {own.sentence}"
        return None, conditions.DEADLINE_EXCEEDED, sentence
    if own is None:
        reason = conditions.RETRIES_EXHAUSTED if why == "BackoffLimitExceeded" else why or conditions.STAGE_FAILED
        return None, reason, said or f"its Job failed: {why or 'no reason given'}"
    if own.exit_code == EXIT_INPUT or why == "PodFailurePolicy":
        reason = conditions.INPUT_ERROR if own.exit_code == EXIT_INPUT else own.reason
        return own.word, reason, own.sentence
    attempts = _failures(job)
    times = f" (after {attempts} attempts; {fields.retries} allows no more)" if attempts > 1 else ""
    reason = conditions.RETRIES_EXHAUSTED if own.reason == conditions.CRASH_LOOPING else own.reason
    return own.word, reason, own.sentence + times


def _last_failures(pods: Sequence[Raw], fields: Fields) -> list[Ending]:
    """How the newest pod of each rank failed, of those whose newest did."""
    newest: dict[int, Ending] = {}
    for pod in pods:
        ending = ending_of(pod, fields)
        if ending is not None and rank_of(pod) not in newest:
            newest[rank_of(pod)] = ending
    return [ending for _, ending in sorted(newest.items()) if not ending.is_good]


def _blame(ending: Ending) -> tuple[bool, bool, float]:
    # a wrong input is final, whoever says so; else the first rank to fail knows why, the others lost it or were stopped
    was_stopped = ending.exit_code in (EXIT_TERMINATED, None)
    finished = ending.finished.timestamp() if ending.finished else 0.0
    return ending.exit_code != EXIT_INPUT, was_stopped, finished


def _trouble(job: Raw, living: Sequence[Raw], warning: str, fields: Fields, now: datetime) -> Trouble | None:
    name = name_of(job)
    if dig(job, "spec", "suspend") is True:
        queue = label(job, QUEUE_LABEL)
        if queue:
            return Trouble(conditions.QUEUED, f"waits for Kueue to admit it to queue {queue}")
        return Trouble(
            conditions.JOB_SUSPENDED,
            f"Job {name} was suspended by someone else: set its spec.suspend to false, or delete it",
        )
    for pod in living:
        trouble = trouble_of(pod, fields)
        if trouble is not None and not (trouble.reason == conditions.VOLUME_UNBOUND and _is_new(pod, now)):
            return trouble
    if not warning:
        return None
    if living:
        return mount_trouble(name, warning)
    return refused("pods of Job", name, warning, fields) if "forbidden" in warning else None


def _again(job: Raw, pods: Sequence[Raw], attempts: int, runs: bool, fields: Fields) -> Trouble | None:
    """Why the last attempt of a Job that goes on failed; None where it goes on no more, or never failed."""
    bad = _last_failures(pods, fields)
    if not bad:
        return None
    own = min(bad, key=_blame)
    if own.reason == conditions.EVICTED:
        return None if runs else Trouble(conditions.EVICTED, f"{own.sentence}; it is started again elsewhere")
    # the pods may be ahead of the Job's own count
    first_rank = [ending for pod in pods if rank_of(pod) == 0 and (ending := ending_of(pod, fields)) is not None]
    failures = max(attempts, 1, sum(not end.is_good and end.reason != conditions.EVICTED for end in first_rank))
    limit = dig(job, "spec", "backoffLimit")
    if own.exit_code == EXIT_INPUT or (isinstance(limit, int) and failures * _nodes(job) > limit):
        return None
    return Trouble(conditions.RETRYING, f"attempt {failures} failed: {own.sentence}; trying again")


def _is_new(pod: Raw, now: datetime) -> bool:
    """Whether a claim made along with this pod may only just be on its way to a volume."""
    created = time(pod, "metadata", "creationTimestamp")
    return created is not None and (now - created).total_seconds() < BINDING_TAKES_S
