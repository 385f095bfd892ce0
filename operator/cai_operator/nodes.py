"""The status of one node: what is known of it, written down. Times and figures of the last status are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cai_operator import conditions, names
from cai_operator.api import ArtifactStatus, CAIPipeline, NodeStatus, PipelineStatus, Progress, State
from cai_operator.gates import gate_problem
from cai_operator.outlook import Known, Outlook
from cai_operator.stages import last_evaluation
from cai_operator.workloads import JobState, Kind, Workload

MOST_NAMED = 4
_WITHOUT_A_WORD = "its program failed without a word"


def assess(
    pipeline: CAIPipeline,
    known: Mapping[str, Known],
    outlooks: Mapping[str, Outlook],
    wanted: Mapping[str, Sequence[Workload]],
    missing: Mapping[str, str],
    status: PipelineStatus,
    now: datetime,
) -> dict[str, NodeStatus]:
    """The new status of every node, by name.

    Args:
        pipeline: the resource.
        known: what is known of each node.
        outlooks: what may be done about each.
        wanted: the workloads wanted of each.
        missing: node -> the sentence about the text it lacks.
        status: the last status.
        now: the time.
    """
    found = {}
    for name, this in known.items():
        outlook = outlooks[name]
        is_left = outlook not in (Outlook.GO, Outlook.YIELDS) and not pipeline.spec.suspend
        if this.node.kind == Kind.SERVER and is_left and this.servers:
            found[name] = _still_serving(this, status.node(name))
        elif outlook == Outlook.DONE:
            found[name] = _ended(pipeline, this, now)
        elif outlook == Outlook.GO:
            found[name] = _serving(this) if this.node.kind == Kind.SERVER else _going(this, wanted[name], now)
        elif outlook == Outlook.MISSING:
            found[name] = _without_text(name, missing.get(name, ""), status.node(name))
        else:
            state = State.SUSPENDED if outlook == Outlook.SUSPENDED else State.WAITING
            reason = conditions.QUEUED if outlook == Outlook.YIELDS else ""
            found[name] = _base(this, state, _why(pipeline, this, known, outlooks), reason)
    return found


def _base(this: Known, state: State, message: str = "", reason: str = "") -> NodeStatus:
    previous, job = this.previous, this.job
    return NodeStatus(
        name=this.node.name,
        state=state,
        key=this.key,
        attempts=max(previous.attempts if previous else 0, job.attempts if job else 0),
        started=(job.started if job else None) or (previous.started if previous else None),
        message=message,
        reason=reason,
        log=(job.log if job else None) or (previous.log if previous else None),
        retry=this.retry,
    )


def _ended(pipeline: CAIPipeline, this: Known, now: datetime) -> NodeStatus:
    assert this.state is not None
    previous, job = this.previous, this.job
    was_ended = previous is not None and previous.state == this.state
    finished = previous.finished if previous and was_ended else None
    finished = finished or (job.finished if job else None)
    status = _base(this, this.state)
    if finished is None and not was_ended and (status.started is not None or this.servers):
        finished = now
    status = status.model_copy(update={"finished": finished})
    if this.state == State.FAILED:
        message, reason = _failure(this, was_ended)
        return status.model_copy(update={"message": message, "reason": reason})
    artifact = _artifact(pipeline, this)
    return status.model_copy(update={"metrics": dict(this.metrics), "artifact": artifact})


def _failure(this: Known, was_ended: bool) -> tuple[str, str]:
    """Why it failed: a sentence and a reason."""
    if was_ended and this.previous is not None and this.previous.message:
        return this.previous.message, this.previous.reason or conditions.STAGE_FAILED
    if this.job is not None and this.job.state == JobState.FAILED:
        error = this.job.problem or (this.job.last_word or {}).get("error")
        return str(error or _WITHOUT_A_WORD), this.job.problem_reason or conditions.STAGE_FAILED
    for server in this.servers:
        if server.failed:
            sentence = f"its server {server.name} failed: {server.problem or 'no reason given'}"
            return sentence, server.problem_reason or conditions.STAGE_FAILED
    return _WITHOUT_A_WORD, conditions.STAGE_FAILED


def _artifact(pipeline: CAIPipeline, this: Known) -> ArtifactStatus | None:
    assert this.key is not None
    described = (this.word or {}).get("artifact")
    if not isinstance(described, Mapping):
        if this.previous is not None and this.previous.artifact is not None:
            return this.previous.artifact
        described = {}
    return ArtifactStatus(
        path=names.artifact_path(pipeline.name, this.node.name, this.key),
        digest=_of_type(described.get("digest"), str),
        files=_of_type(described.get("files"), int),
        size_bytes=_of_type(described.get("bytes"), int),
    )


def _going(this: Known, wanted: Sequence[Workload], now: datetime) -> NodeStatus:
    job = this.job
    problems = [
        (f"{server.name}: {server.problem}", server.problem_reason) for server in this.servers if server.problem
    ]
    if job is not None and job.problem:
        problems.append((job.problem, job.problem_reason))
    sentence = "; ".join(problem for problem, _ in problems)
    reasons = [reason for _, reason in problems if reason]
    # what keeps it back goes before what is in the ordinary course of things
    reason = next((reason for reason in reasons if reason not in conditions.HARMLESS), next(iter(reasons), ""))
    if job is not None and job.state == JobState.RUNNING:
        status = _base(this, State.RUNNING, sentence, reason)
        progress = _progress(job.progress) or (this.previous.progress if this.previous else None)
        return status.model_copy(update={"started": status.started or now, "progress": progress})
    servers = [workload.name for workload in wanted if workload.kind == Kind.SERVER]
    ready = {server.name for server in this.servers if server.ready}
    waiting = [name for name in servers if name not in ready]
    message = sentence or (f"waits for {_and(waiting)} to be ready" if waiting else "")
    return _base(this, State.STARTING, message, reason)


def _serving(this: Known) -> NodeStatus:
    server = this.servers[0] if this.servers else None
    is_up = server is not None and server.ready and server.key in (None, this.key)
    message, reason = (server.problem or "", server.problem_reason or "") if server is not None else ("", "")
    status = _base(this, State.RUNNING if is_up else State.STARTING, message, reason)
    return status.model_copy(update={"started": status.started or (server.started if server else None)})


def _still_serving(this: Known, old: NodeStatus | None) -> NodeStatus:
    server = this.servers[0]
    return NodeStatus(
        name=this.node.name,
        state=State.RUNNING if server.ready else State.STARTING,
        key=server.key or (old.key if old else None),
        started=(old.started if old else None) or server.started,
        message="serves the model of an earlier spec until the new one is there",
    )


def _without_text(name: str, sentence: str, old: NodeStatus | None) -> NodeStatus:
    # what ran or ended keeps its state: a text that vanished says nothing about work done with it
    reason = conditions.TEXT_MISSING if sentence else ""
    if old is not None and old.key is not None and old.state not in (State.DISABLED, State.SUSPENDED):
        is_told = bool(sentence) and old.state != State.FAILED
        return NodeStatus.model_validate({**dict(old), **({"message": sentence, "reason": reason} if is_told else {})})
    message = sentence or "waits for a key: a text before it is missing"
    return NodeStatus(name=name, state=State.WAITING, message=message, reason=reason)


def _why(pipeline: CAIPipeline, this: Known, known: Mapping[str, Known], outlooks: Mapping[str, Outlook]) -> str:
    outlook = outlooks[this.node.name]
    inputs = this.node.inputs
    if outlook == Outlook.QUEUED:
        return "waits for its turn"
    if outlook == Outlook.YIELDS:
        return "waits for its turn: the cluster has no room for it beside what goes first"
    if outlook == Outlook.BLOCKED:
        failed = [name for name in inputs if known[name].state == State.FAILED]
        stuck = [name for name in inputs if outlooks[name] == Outlook.BLOCKED]
        if failed or stuck:
            return f"cannot run: {_and(failed)} failed" if failed else f"cannot run: {_and(stuck)} cannot"
        return f"not served: {_gate(pipeline, known)}"
    waiting = [name for name in inputs if known[name].state != State.SUCCEEDED]
    if waiting:
        return f"waits for {_and(waiting)}"
    judged = last_evaluation({name: item.node for name, item in known.items()})
    if outlook == Outlook.WAIT and judged is not None:
        return f"waits for {judged}, whose gates it must pass"
    return ""


def _gate(pipeline: CAIPipeline, known: Mapping[str, Known]) -> str:
    judged = last_evaluation({name: item.node for name, item in known.items()})
    if judged is None or known[judged].state != State.SUCCEEDED:
        return f"{judged}, whose gates it must pass, cannot end well"
    return gate_problem(pipeline.spec.stages.evaluate.gates, judged, known[judged].metrics) or ""


def _progress(line: Mapping[str, Any] | None) -> Progress | None:
    if not line:
        return None
    total, eta, metrics = line.get("total"), line.get("eta_s"), line.get("metrics")
    return Progress(
        done=_of_type(line.get("done"), int) or 0,
        total=_of_type(total, int),
        unit=str(line.get("unit") or ""),
        eta_seconds=float(eta) if isinstance(eta, int | float) else None,
        metrics=dict(metrics) if isinstance(metrics, Mapping) else {},
    )


def _of_type(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _and(items: Sequence[str]) -> str:
    if len(items) > MOST_NAMED:
        items = [*items[: MOST_NAMED - 1], f"{len(items) - MOST_NAMED + 1} more"]
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
