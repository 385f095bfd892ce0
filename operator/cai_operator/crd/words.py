"""What the words of a status mean: phases, states, conditions and their reasons, for the reference page."""

from __future__ import annotations

from collections.abc import Mapping

from cai_operator import conditions
from cai_operator.status import Phase, State

PHASES: Mapping[Phase, str] = {
    Phase.PENDING: "Nothing has been started yet.",
    Phase.RUNNING: "Stages run, or wait for others.",
    Phase.SUSPENDED: "`suspend` is true: nothing runs and no GPU is held.",
    Phase.SUCCEEDED: "Every stage is done, and the model is served if it is to be.",
    Phase.FAILED: "A stage failed or a gate was not met, and nothing more can run. Lasts until the spec changes or a "
    "retry is asked for.",
}

STATES: Mapping[State, str] = {
    State.DISABLED: "It is off, or no model is trained that it would evaluate.",
    State.WAITING: "Something before it is not done; `message` says what.",
    State.STARTING: "Its pods or its servers are not ready yet; `message` says why, where something is wrong.",
    State.RUNNING: "Its program runs; `serve`: the model answers.",
    State.SUCCEEDED: "Its artifact is published.",
    State.FAILED: "Its program failed for good; `message` is the last thing it said.",
    State.SUSPENDED: "It goes on from its checkpoint or journal once `suspend` is false.",
}

CONDITIONS: Mapping[str, tuple[str, str]] = {
    conditions.READY: (
        "all is done and the model is served; wait for it with `kubectl wait --for=condition=Ready caip/NAME`",
        "`Complete`; else `Pipeline` and the phase, such as `PipelineRunning`",
    ),
    conditions.PROGRESSING: ("stages run or wait for others", "`Working`; else `Pipeline` and the phase"),
    conditions.DEGRADED: ("something is wrong, or was and ended a stage", "see below; `AsExpected` where nothing is"),
    conditions.SUSPENDED: ("`suspend` is true", "`Asked`, `NotAsked`"),
}
"""Type of a condition -> when it is true, and its reasons."""

REASONS: Mapping[str, tuple[str, str]] = {
    conditions.AS_EXPECTED: ("Nothing is wrong.", ""),
    conditions.SPEC_INVALID: (
        "The spec contradicts itself in a way the API server cannot see, such as an unknown option in `overrides`.",
        "Change the field that the message names.",
    ),
    conditions.ENGINE_UNAVAILABLE: (
        "The engine has not what the spec asks of it.",
        "Correct the field the message names, or choose another engine.",
    ),
    conditions.TEXT_MISSING: (
        "A ConfigMap with a constitution or a data set, or a key of it, is not there.",
        "Make it; the pipeline goes on by itself.",
    ),
    conditions.STAGE_FAILED: (
        "A stage failed for good; the message holds its program's last sentence.",
        "Change the spec, or mend the cause and set the annotation `cai.dev/retry` to a new value.",
    ),
    conditions.GATE_NOT_MET: (
        "The last model is outside a bound of `evaluate.gates`, so it is not served.",
        "Train another model, or move the gate.",
    ),
    conditions.IMAGE_PULL_FAILED: (
        "A node cannot pull an image.",
        "Correct `image`, or add `template.imagePullSecrets`.",
    ),
    conditions.UNSCHEDULABLE: (
        "No node fits a pod: too few GPUs, CPUs or memory, a taint, a selector.",
        "Ask for less, correct the `template`, or add a node.",
    ),
    conditions.QUEUED: (
        "A job or a pod waits to be admitted, by Kueue or another gate.",
        "Nothing: it is admitted when there is room.",
    ),
    conditions.JOB_SUSPENDED: (
        "Somebody or something other than the pipeline suspended the job.",
        "Resume the job, or ask who suspended it.",
    ),
    conditions.QUOTA_EXCEEDED: ("A ResourceQuota of the namespace leaves no room for a pod.", "Raise it, or ask less."),
    conditions.VOLUME_UNBOUND: (
        "The claim has no volume yet.",
        "Check `storage.storageClassName` and the cluster's provisioner.",
    ),
    conditions.VOLUME_MISSING: (
        "The volume's claim is not there, or is being deleted.",
        "Make the claim that `storage.claimName` names.",
    ),
    conditions.VOLUME_NOT_MOUNTED: (
        "A node cannot mount the volume.",
        "See the message; a volume for several nodes has to be ReadWriteMany.",
    ),
    conditions.SECRET_MISSING: ("A Secret, or a key of it, is not there.", "Make it."),
    conditions.CONFIG_MAP_MISSING: ("A ConfigMap that a pod mounts is not there.", "Make it."),
    conditions.CONTAINER_FAILED: ("A container cannot be started.", "See the message."),
    conditions.CRASH_LOOPING: ("A server ends again and again.", "Read its log; the message holds the last of it."),
    conditions.OUT_OF_MEMORY: ("A program was killed as it took more memory than it may.", "Raise `resources.memory`."),
    conditions.EVICTED: ("A node took a pod off; it is started again.", "Nothing, unless it happens often."),
    conditions.RETRYING: ("A program failed and is started again.", "Nothing: `retries` says how often."),
    conditions.RETRIES_EXHAUSTED: (
        "A program failed once more than `retries` allows.",
        "Read the message and the log.",
    ),
    conditions.DEADLINE_EXCEEDED: (
        "A job took longer than the stage's `deadline`.",
        "Raise it, then ask for a retry with `cai.dev/retry`.",
    ),
    conditions.INPUT_ERROR: (
        "A program refused its input or a setting; trying again cannot help.",
        "Change what the message names.",
    ),
    conditions.REFUSED: (
        "The API server refused something the pipeline needs.",
        "See the message: often an admission policy, or rights the operator lacks.",
    ),
}
"""Reason of Degraded, or of a stage -> what it means, and what to do."""
