"""Every metric as data: its name, kind, labels and meaning. docs/metrics.md has this table; nothing else is exposed.

Names follow Prometheus' conventions ("Metric and label naming"): a prefix, base units, `_total` for what only grows.
The label `stage` is a node of the stage graph, so evaluation counts as its three parts. It is not called `node`, which
in Prometheus is a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A Prometheus type."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Scope(StrEnum):
    """Which operator has it, and for how long."""

    NOW = "leader, now"
    COUNTED = "leader, counted"
    OWN = "every operator"


@dataclass(frozen=True)
class Family:
    """One metric.

    Attributes:
        name: as Prometheus stores it.
        means: what it is, as a sentence.
        buckets: upper bounds of a histogram, in seconds.
    """

    name: str
    kind: Kind
    scope: Scope
    labels: tuple[str, ...]
    means: str
    buckets: tuple[float, ...] = ()


_ONE_RUN = ("namespace", "pipeline", "stage")
_DAYS = (10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 57600, 115200, 259200, 604800)
_WAITS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300)
_CALLS = (0.005, 0.02, 0.1, 0.5, 2, 10, 30)


def _now(name: str, labels: tuple[str, ...], means: str) -> Family:
    return Family(name, Kind.GAUGE, Scope.NOW, labels, means)


def _counted(name: str, labels: tuple[str, ...], means: str) -> Family:
    return Family(name, Kind.COUNTER, Scope.COUNTED, labels, means)


FAMILIES: tuple[Family, ...] = (
    _now("cai_pipelines", ("namespace", "engine", "phase"), "Pipelines in this phase; every phase is there, with 0."),
    _now("cai_stages", ("namespace", "engine", "stage", "state"), "Pipelines whose stage is in this state."),
    _now(
        "cai_pipeline_degraded_timestamp_seconds",
        ("namespace", "pipeline", "reason"),
        "Since when (Unix time) a pipeline has been Degraded, for which reason; only pipelines that are.",
    ),
    _now(
        "cai_stage_started_timestamp_seconds",
        _ONE_RUN,
        "When (Unix time) the program of a stage started; only stages that run.",
    ),
    _now(
        "cai_stage_progress_units",
        (*_ONE_RUN, "unit"),
        "Units done (rows, steps, answers, …) by the newest progress line of a stage that runs.",
    ),
    _now("cai_stage_progress_expected_units", (*_ONE_RUN, "unit"), "Units such a stage has in all, where it knows."),
    _now(
        "cai_stage_units_per_second",
        (*_ONE_RUN, "unit"),
        "Pace of such a stage over its last half minute: rows/s where unit is rows.",
    ),
    _now(
        "cai_stage_judge_calls_per_second", _ONE_RUN, "Calls of the judge by such a stage, over its last half minute."
    ),
    _now(
        "cai_stage_undecided_ratio",
        _ONE_RUN,
        "Share of a finished stage's judgements that ended without a verdict; only pipelines that have not succeeded.",
    ),
    _now(
        "cai_gpus",
        ("namespace", "engine", "stage", "state"),
        "GPUs of pods: pending (wanted, no machine yet), starting (held, the program or the model server not ready), "
        "idle (held by a server no running job uses, or by a rank that waits for others), working.",
    ),
    _counted(
        "cai_gpu_seconds_total",
        ("namespace", "engine", "stage", "state"),
        "GPUs held times seconds: starting, idle and working as in cai_gpus.",
    ),
    Family(
        "cai_stage_duration_seconds",
        Kind.HISTOGRAM,
        Scope.COUNTED,
        ("engine", "stage", "outcome"),
        "From the first start of a stage's program under its present Job to its end, once for each stage that ended; "
        "outcome is succeeded or failed.",
        _DAYS,
    ),
    _counted(
        "cai_stages_finished_total",
        ("engine", "stage", "outcome"),
        "Stages that succeeded or failed, those included that never came to start.",
    ),
    _counted("cai_stage_attempts_total", ("engine", "stage"), "Starts of stages' programs."),
    _counted(
        "cai_stage_retries_total",
        ("engine", "stage", "cause"),
        "Starts after the first: failure (the program failed and was started again), asked (cai retry).",
    ),
    _counted(
        "cai_judge_decisions_total",
        ("engine", "stage", "outcome"),
        "Judgements of stages that succeeded: decided (ties are) or undecided.",
    ),
    Family("cai_leader", Kind.GAUGE, Scope.OWN, (), "1 while this operator holds the Lease, else 0."),
    Family(
        "cai_reconciles_total",
        Kind.COUNTER,
        Scope.OWN,
        ("result",),
        "Looks at a pipeline: ok, unavailable (the API server is), refused (it said no), overtaken (another operator "
        "leads), error (a bug).",
    ),
    Family(
        "cai_reconcile_duration_seconds", Kind.HISTOGRAM, Scope.OWN, (), "How long a look at a pipeline took.", _WAITS
    ),
    Family("cai_queue_length", Kind.GAUGE, Scope.OWN, (), "Pipelines that wait to be looked at."),
    Family(
        "cai_queue_oldest_wait_seconds",
        Kind.GAUGE,
        Scope.OWN,
        (),
        "How long the pipeline that waits longest has waited.",
    ),
    Family("cai_queue_wait_seconds", Kind.HISTOGRAM, Scope.OWN, (), "How long pipelines waited for a worker.", _WAITS),
    Family(
        "cai_api_requests_total",
        Kind.COUNTER,
        Scope.OWN,
        ("verb", "resource", "code"),
        "Requests to the API server, kopf's lists and watches included; code is the HTTP status, or none where no "
        "answer came.",
    ),
    Family(
        "cai_api_request_duration_seconds",
        Kind.HISTOGRAM,
        Scope.OWN,
        ("verb",),
        "How long they took; for a watch, until it was open.",
        _CALLS,
    ),
    Family(
        "cai_watch_age_seconds",
        Kind.GAUGE,
        Scope.OWN,
        ("resource",),
        "Since when the watch of a resource has been open; it is opened anew every four minutes. Of several "
        "namespaces the oldest.",
    ),
    Family("cai_build_info", Kind.GAUGE, Scope.OWN, ("version",), "1; the version is a label."),
)

BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}

PROCESS = (
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
)
"""What prometheus_client tells of the process, under the names all Prometheus clients have."""


def table() -> str:
    """All metrics as a Markdown table."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.scope} | {one.means} |"
        for one in FAMILIES
    ]
    head = ["| metric | type | labels | who tells it | what it is |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"
