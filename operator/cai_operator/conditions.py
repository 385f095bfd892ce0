"""Conditions whose lastTransitionTime moves only when their status does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cai_operator.status import Condition

READY = "Ready"
PROGRESSING = "Progressing"
DEGRADED = "Degraded"
SUSPENDED = "Suspended"

# why a node does not get on, in NodeStatus.reason and in Degraded
CONFIG_MAP_MISSING = "ConfigMapMissing"
CONTAINER_FAILED = "ContainerFailed"
CRASH_LOOPING = "CrashLooping"
DEADLINE_EXCEEDED = "DeadlineExceeded"
EVICTED = "Evicted"
IMAGE_PULL_FAILED = "ImagePullFailed"
INPUT_ERROR = "InputError"
JOB_SUSPENDED = "JobSuspended"
OUT_OF_MEMORY = "OutOfMemory"
QUEUED = "Queued"
QUOTA_EXCEEDED = "QuotaExceeded"
REFUSED = "Refused"
RETRIES_EXHAUSTED = "RetriesExhausted"
RETRYING = "Retrying"
SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason
UNSCHEDULABLE = "Unschedulable"
VOLUME_MISSING = "VolumeMissing"
VOLUME_NOT_MOUNTED = "VolumeNotMounted"
VOLUME_UNBOUND = "VolumeUnbound"

# why a pipeline as a whole is degraded or failed
AS_EXPECTED = "AsExpected"
ENGINE_UNAVAILABLE = "EngineUnavailable"
GATE_NOT_MET = "GateNotMet"
SPEC_INVALID = "SpecInvalid"
STAGE_FAILED = "StageFailed"
TEXT_MISSING = "TextMissing"

HARMLESS = frozenset({QUEUED, RETRYING})
"""Reasons a node has in the ordinary course of things: shown, but they degrade nothing."""


@dataclass(frozen=True)
class Finding:
    """What a condition is to say now."""

    type: str
    status: bool
    reason: str
    message: str = ""


def update(
    previous: Sequence[Condition], findings: Sequence[Finding], generation: int | None, now: datetime
) -> tuple[Condition, ...]:
    """The conditions after these findings, in their order; a condition whose status stays keeps its transition time."""
    known = {condition.type: condition for condition in previous}
    return tuple(_updated(known.get(finding.type), finding, generation, now) for finding in findings)


def _updated(old: Condition | None, finding: Finding, generation: int | None, now: datetime) -> Condition:
    status: Literal["True", "False"] = "True" if finding.status else "False"
    since = old.last_transition_time if old is not None and old.status == status else now
    return Condition(
        type=finding.type,
        status=status,
        reason=finding.reason,
        message=finding.message,
        last_transition_time=since,
        observed_generation=generation,
    )
