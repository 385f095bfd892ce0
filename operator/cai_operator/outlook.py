"""What is known of each node, and what may therefore be done about it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cai_operator import names
from cai_operator.api import CAIPipeline, NodeStatus, PipelineStatus, State
from cai_operator.gates import gate_problem
from cai_operator.stages import Node, last_evaluation
from cai_operator.workloads import JobSeen, JobState, Kind, Observed, ServerSeen


class Outlook(Enum):
    """What may be done about a node now."""

    DONE = "it succeeded or failed"
    GO = "it should run"
    WAIT = "an input is not there yet"
    QUEUED = "others go first"
    YIELDS = "it leaves the cluster's room to another"
    BLOCKED = "an input failed, or a gate is not met"
    MISSING = "a text it needs is not there"
    SUSPENDED = "the pipeline is suspended"


@dataclass(frozen=True)
class Known:
    """A node, and what status and observation say about it under its present key.

    Attributes:
        node: the node.
        key: its key, None where a text is missing.
        retry: the retry it was last started anew for.
        previous: its last status, if that was for the same key and the same retry.
        job: its job as observed.
        servers: its servers as observed; for the kept server, whatever key it has.
        word: the last word of its program, once it is published or succeeded.
        state: Succeeded or Failed once it is, else None.
        is_anothers: whether another version of the operator began it, under names of its own.
    """

    node: Node
    key: str | None
    retry: str | None = None
    previous: NodeStatus | None = None
    job: JobSeen | None = None
    servers: tuple[ServerSeen, ...] = ()
    word: Mapping[str, Any] | None = None
    state: State | None = None
    is_anothers: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether its job is there and has not ended."""
        return self.job is not None and self.job.state in (JobState.PENDING, JobState.RUNNING)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The figures of its finished program."""
        if self.word is not None and isinstance(self.word.get("metrics"), Mapping):
            metrics: Mapping[str, Any] = self.word["metrics"]
            return metrics
        return self.previous.metrics if self.previous is not None else {}


def know(pipeline: CAIPipeline, node: Node, key: str | None, status: PipelineStatus, observed: Observed) -> Known:
    """Put together what is known of a node.

    What is published or seen to have succeeded did. A failure lasts as long as the key does, or until a retry is asked;
    so does a success, where nobody can look whether the artifact is there.
    """
    if key is None:
        return Known(node, None, servers=_servers(pipeline, node, None, None, observed))
    old = status.node(node.name)
    previous = old if old is not None and old.key == key else None
    retry = _retry(pipeline, node, key, previous, status.retry, observed)
    if previous is not None and previous.retry != retry:
        previous = None
    job = observed.jobs.get(names.job_name(pipeline.name, node.name, key, retry))
    servers = _servers(pipeline, node, key, retry, observed)
    others = _anothers_job(pipeline, node, key, observed) if job is None else None
    if others is not None:
        job, servers = (
            others,
            tuple(seen for seen in observed.servers.values() if (seen.node, seen.key) == (node.name, key)),
        )
    word, state = _end(pipeline, node, key, previous, job, servers, observed)
    return Known(node, key, retry, previous, job, servers, word, state, is_anothers=others is not None)


def outlooks(
    pipeline: CAIPipeline, nodes: Mapping[str, Node], known: Mapping[str, Known], capacity: int | None
) -> dict[str, Outlook]:
    """What may be done about every node, by name."""
    found: dict[str, Outlook] = {}
    for name, node in nodes.items():
        found[name] = _outlook(pipeline, node, known, found)
    serve = found.get("serve")
    if serve in (Outlook.GO, Outlook.SUSPENDED, Outlook.WAIT):
        found["serve"] = _past_gates(pipeline, nodes, known, found, serve)
    candidates = [name for name, outlook in found.items() if outlook == Outlook.GO and nodes[name].kind == Kind.JOB]
    candidates.sort(key=lambda name: (not _has_begun(known[name]), nodes[name].rank))
    for name in candidates[capacity:] if capacity is not None else ():
        found[name] = Outlook.QUEUED
    return found


def _retry(
    pipeline: CAIPipeline, node: Node, key: str, previous: NodeStatus | None, answered: str | None, observed: Observed
) -> str | None:
    asked = pipeline.retry
    if previous is not None:
        # one asking starts what has failed by then, not what fails later
        return asked if asked and asked != answered and previous.state == State.FAILED else previous.retry
    # after a lost status the job itself tells which retry it is for
    if asked and names.job_name(pipeline.name, node.name, key, asked) in observed.jobs:
        return asked
    return None


def _servers(
    pipeline: CAIPipeline, node: Node, key: str | None, retry: str | None, observed: Observed
) -> tuple[ServerSeen, ...]:
    if node.kind == Kind.SERVER:
        wanted = [names.serve_name(pipeline.name)]
    elif key is None:
        return ()
    else:
        wanted = [names.server_name(pipeline.name, node.name, role, key, retry) for role in names.ROLES]
    seen = observed.servers
    return tuple(seen[name] for server in wanted for name in seen if names.without_replica(name) == server)


def _anothers_job(pipeline: CAIPipeline, node: Node, key: str, observed: Observed) -> JobSeen | None:
    """The job for this key that runs or has succeeded under a name this version would not give it."""
    own = names.job_name(pipeline.name, node.name, key)
    for job in observed.jobs.values():
        is_same = (job.node, job.key) == (node.name, key) and not job.name.startswith(own)
        if is_same and job.state in (JobState.RUNNING, JobState.SUCCEEDED):
            return job
    return None


def _end(
    pipeline: CAIPipeline,
    node: Node,
    key: str,
    previous: NodeStatus | None,
    job: JobSeen | None,
    servers: tuple[ServerSeen, ...],
    observed: Observed,
) -> tuple[Mapping[str, Any] | None, State | None]:
    if node.kind == Kind.SERVER:
        return None, None
    published = (observed.published or {}).get(names.artifact_path(pipeline.name, node.name, key))
    if published is not None:
        return published, State.SUCCEEDED
    if job is not None and job.state == JobState.SUCCEEDED:
        return job.last_word, State.SUCCEEDED
    if previous is not None and previous.state == State.SUCCEEDED and observed.published is None:
        return None, State.SUCCEEDED
    if previous is not None and previous.state == State.FAILED:
        return None, State.FAILED
    if (job is not None and job.state == JobState.FAILED) or any(server.failed for server in servers):
        return None, State.FAILED
    return None, None


def _outlook(pipeline: CAIPipeline, node: Node, known: Mapping[str, Known], found: Mapping[str, Outlook]) -> Outlook:
    this = known[node.name]
    if this.state is not None:
        return Outlook.DONE
    if this.key is None:
        return Outlook.MISSING
    if not this.is_alive:  # a job seen alive under the present key had its inputs, whatever a lost status says
        if any(known[name].state == State.FAILED or found[name] == Outlook.BLOCKED for name in node.inputs):
            return Outlook.BLOCKED
        if any(known[name].state != State.SUCCEEDED for name in node.inputs):
            return Outlook.WAIT
    return Outlook.SUSPENDED if pipeline.spec.suspend else Outlook.GO


def _past_gates(
    pipeline: CAIPipeline,
    nodes: Mapping[str, Node],
    known: Mapping[str, Known],
    found: Mapping[str, Outlook],
    otherwise: Outlook,
) -> Outlook:
    gates = pipeline.spec.stages.evaluate.gates
    judged = last_evaluation(nodes)
    if judged is None or (gates.max_harmful_rate is None and gates.min_helpful_rate is None):
        return otherwise
    if known[judged].state == State.FAILED or found[judged] == Outlook.BLOCKED:
        return Outlook.BLOCKED
    if known[judged].state is None:
        return Outlook.WAIT
    return Outlook.BLOCKED if gate_problem(gates, judged, known[judged].metrics) else otherwise


def _has_begun(known: Known) -> bool:
    return known.is_alive or bool(known.servers)
