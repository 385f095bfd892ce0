"""What the plan asks for and what it is told: the vocabulary both executors share.

A plan is a set of workloads. The Kubernetes executor makes Jobs and Deployments of them, the local one processes;
what either sees of them comes back as observations. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """How a workload ends: a job by itself, a server when nothing needs it any more."""

    JOB = "job"
    SERVER = "server"


@dataclass(frozen=True)
class SecretReference:
    """One key of a Kubernetes Secret; locally the environment variable of the same name as the workload's."""

    name: str
    key: str


@dataclass(frozen=True)
class Probe:
    """Ready when the path answers 200 on the port; with no path, when the port accepts a connection.

    Where `is_life`, a server whose port has accepted no connection for minutes is started again.
    """

    port: int
    path: str | None = None
    is_life: bool = True


@dataclass(frozen=True)
class Resources:
    """What one pod asks for. `cpu` cores also set the thread count of a CPU program; Kubernetes quantities as text."""

    cpu: str = "1"
    memory: str = "2Gi"
    gpus: int = 0


@dataclass(frozen=True)
class Workload:
    """One program to run.

    Attributes:
        name: the child's name, deterministic from pipeline, stage and key (`names.py`).
        node: the node of the stage graph it works for (`stages.py`), such as "slData" or "evaluateBase".
        command: the whole argument vector, from "python" on.
        environment: plain variables; secrets are in `secrets` and never in `command`.
        texts: file name -> content, laid where `command` expects them (a ConfigMap, or files of the work directory).
        headless: whether its clients look its replicas up by its name and share their requests between them.
        probe: how a server is known to be ready; None for jobs.
        artifact: the artifact directory a job publishes, relative to the volume's root; None for servers.
    """

    name: str
    kind: Kind
    node: str
    key: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretReference] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    replicas: int = 1
    headless: bool = False
    nodes: int = 1
    image: str = ""
    retries: int = 3
    deadline_s: int | None = None
    probe: Probe | None = None
    artifact: str | None = None


class JobState(StrEnum):
    """A job as its executor sees it. FAILED is final: the executor has used up the retries, or the exit code was 2."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True)
class JobSeen:
    """A job child as observed. `last_word` is its termination message; `progress` its newest progress line.

    `lacks_room` says that a pod of it would be placed if others gave up what they hold. `node` and `key` are those of
    the workload it was made from, where the executor knows them: another version may have named it otherwise.
    """

    name: str
    state: JobState
    attempts: int = 1
    started: datetime | None = None
    finished: datetime | None = None
    progress: Mapping[str, Any] | None = None
    last_word: Mapping[str, Any] | None = None
    log: str | None = None
    problem: str | None = None
    problem_reason: str | None = None
    lacks_room: bool = False
    node: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class ServerSeen:
    """A server child as observed; `ready` once its probe passes, and `serving` also while that is told anew, after
    a write that changed no pod.

    A `problem` is shown and waited on (an image may yet come); with `failed` the executor has given up on it, and so
    does the node it works for. `node`, `key` and `lacks_room` as in `JobSeen`.
    """

    name: str
    ready: bool
    started: datetime | None = None
    problem: str | None = None
    problem_reason: str | None = None
    failed: bool = False
    key: str | None = None
    lacks_room: bool = False
    node: str | None = None
    serving: bool = False


@dataclass(frozen=True)
class Observed:
    """Every child an executor sees now, by name, and what it knows to be published already.

    `published` maps artifact directories (relative to the volume's root) to the last word of whoever published them.
    The local executor reads it off the disk; the operator, which has no volume, leaves it None: then what the status
    says succeeded did. `texts` holds the contents of text sources by `texts.source_name` ("configMap/NAME",
    "path/PATH"): file name -> content, as far as the executor can read them.
    """

    jobs: Mapping[str, JobSeen] = field(default_factory=dict)
    servers: Mapping[str, ServerSeen] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, Any]] | None = None
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
