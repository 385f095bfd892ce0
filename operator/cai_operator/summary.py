"""The whole status out of its nodes: stages, phase, conditions, endpoint, report; and events between statuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cai_operator import conditions, names
from cai_operator.activity import activity
from cai_operator.api import CAIPipeline, NodeStatus, Phase, PipelineStatus, StageStatus, State
from cai_operator.conditions import Finding
from cai_operator.gates import gate_problem
from cai_operator.outlook import Outlook
from cai_operator.places import Places
from cai_operator.stages import EVALUATED, NODES, STAGES, Node, last_evaluation
from cai_operator.workloads import Kind

EventType = Literal["Normal", "Warning"]
UNFINISHED = (State.WAITING, State.STARTING, State.RUNNING, State.SUSPENDED)


@dataclass(frozen=True)
class Event:
    """Something that happened, for people; `node` is empty where it concerns the whole pipeline."""

    type: EventType
    reason: str
    message: str
    node: str


def summarise(
    pipeline: CAIPipeline,
    nodes: Mapping[str, Node],
    statuses: Mapping[str, NodeStatus],
    outlooks: Mapping[str, Outlook],
    old: PipelineStatus,
    places: Places,
    now: datetime,
) -> PipelineStatus:
    """The pipeline's status, given that of every active node and what may be done about it."""
    gate = _gate(pipeline, nodes, statuses)
    stages = tuple(_stage(stage, nodes, statuses, gate) for stage in STAGES)
    phase = _phase(pipeline, nodes, statuses, outlooks, gate)
    enabled = [stage for stage in stages if stage.state != State.DISABLED]
    done = sum(_is_done(stage) for stage in enabled)
    message = _message(phase, stages)
    findings = _findings(phase, stages, gate, message)
    generation = pipeline.metadata.generation
    serve, report = statuses.get("serve"), statuses.get("report")
    return PipelineStatus(
        observed_generation=generation,
        retry=pipeline.retry,
        phase=phase,
        message=message,
        progress=f"{done}/{len(enabled)}",
        activity=activity(statuses.values()) if phase in (Phase.PENDING, Phase.RUNNING) else "",
        conditions=conditions.update(old.conditions, findings, generation, now),
        stages=stages,
        endpoint=_endpoint(pipeline, places) if serve is not None and serve.state == State.RUNNING else None,
        report=f"{report.artifact.path}/report.html" if report is not None and report.artifact is not None else None,
    )


def refused_status(
    document: Mapping[str, Any], status: PipelineStatus, reason: str, why: str, now: datetime
) -> PipelineStatus:
    """The status of a pipeline no plan can be made for: Failed, and why; its stages stay as they were last seen.

    Args:
        document: the resource as the API server has it.
        status: the last status.
        reason: `conditions.SPEC_INVALID` or `conditions.ENGINE_UNAVAILABLE`.
        why: what is wrong, a line each.
        now: the time.
    """
    generation = (document.get("metadata") or {}).get("generation")
    message = "; ".join(line for line in why.splitlines() if line.strip())
    if reason == conditions.SPEC_INVALID:
        message = f"the spec is not valid: {message}"
    findings = [
        Finding(conditions.READY, False, reason, message),
        Finding(conditions.PROGRESSING, False, reason),
        Finding(conditions.DEGRADED, True, reason, message),
        Finding(conditions.SUSPENDED, False, "NotAsked"),
    ]
    known = generation if isinstance(generation, int) else None
    return status.model_copy(
        update={
            "observed_generation": known,
            "phase": Phase.FAILED,
            "message": message,
            "activity": "",
            "conditions": conditions.update(status.conditions, findings, known, now),
        }
    )


def events_between(old: PipelineStatus, new: PipelineStatus) -> tuple[Event, ...]:
    """What happened between two statuses: every node that changed its state, was begun anew, and the phase."""
    events = []
    for node in NODES:
        before, after = old.node(node.name), new.node(node.name)
        if after is not None:
            events.extend(_node_events(before, after))
    judged = new.stage("evaluate")
    before = old.stage("evaluate")
    parts_failed = judged is not None and any(part.state == State.FAILED for part in judged.parts)
    if judged is not None and judged.state == State.FAILED and not parts_failed and not _same(before, judged):
        events.append(Event("Warning", "GateNotMet", judged.message, "evaluate"))
    if old.phase != new.phase:
        type_: EventType = "Warning" if new.phase == Phase.FAILED else "Normal"
        events.append(Event(type_, f"Pipeline{new.phase}", new.message or f"the pipeline is {new.phase}", ""))
    return tuple(events)


def _node_events(before: NodeStatus | None, after: NodeStatus) -> list[Event]:
    is_new_run = (
        before is not None and before.key is not None and (before.key, before.retry) != (after.key, after.retry)
    )
    events = _problem_events(before, after)
    if before is not None and is_new_run and after.key is not None and after.state != State.DISABLED:
        why = "what it depends on changed" if before.key != after.key else "a retry was asked for"
        events.append(Event("Normal", "Renewed", f"{after.name} is looked at anew: {why}", after.name))
    if before is not None and before.state == after.state and not is_new_run:
        return events
    if after.state == State.FAILED:
        events.append(Event("Warning", "Failed", f"{after.name} failed: {after.message}", after.name))
    elif after.state == State.SUCCEEDED:
        events.append(Event("Normal", "Succeeded", f"{after.name} succeeded", after.name))
    elif after.state in (State.STARTING, State.RUNNING):
        words = "is starting" if after.state == State.STARTING else "is running"
        events.append(Event("Normal", after.state, f"{after.name} {words}", after.name))
    elif after.state == State.SUSPENDED:
        events.append(Event("Normal", "Suspended", f"{after.name} is suspended", after.name))
    return events


def _problem_events(before: NodeStatus | None, after: NodeStatus) -> list[Event]:
    if not after.reason or after.state == State.FAILED:
        return []
    is_new = before is None or before.reason != after.reason
    if not is_new and not (
        after.reason == conditions.RETRYING and before is not None and before.attempts < after.attempts
    ):
        return []
    type_: EventType = "Normal" if after.reason == conditions.QUEUED else "Warning"
    return [Event(type_, after.reason, f"{after.name}: {after.message}", after.name)]


def _same(before: NodeStatus | None, after: NodeStatus) -> bool:
    return before is not None and (before.state, before.message) == (after.state, after.message)


def _gate(pipeline: CAIPipeline, nodes: Mapping[str, Node], statuses: Mapping[str, NodeStatus]) -> str | None:
    judged = last_evaluation(nodes)
    if judged is None or statuses[judged].state != State.SUCCEEDED:
        return None
    return gate_problem(pipeline.spec.stages.evaluate.gates, judged, statuses[judged].metrics)


def _stage(stage: str, nodes: Mapping[str, Node], statuses: Mapping[str, NodeStatus], gate: str | None) -> StageStatus:
    members = [statuses[name] for name, node in nodes.items() if node.stage == stage]
    if not members:
        return StageStatus(name=stage, state=State.DISABLED)
    if stage != "evaluate":
        return StageStatus.model_validate(dict(members[0]))
    state = _joint_state(members)
    told = next((part for part in members if part.message), members[0])
    failed = [f"{part.name} failed: {part.message}" for part in members if part.state == State.FAILED]
    started = [part.started for part in members if part.started is not None]
    finished = [part.finished for part in members if part.finished is not None]
    is_over = not any(part.state in UNFINISHED for part in members)
    return StageStatus(
        name=stage,
        state=State.FAILED if gate else state,
        key=members[-1].key,
        attempts=max(part.attempts for part in members),
        started=min(started, default=None),
        finished=max(finished, default=None) if is_over else None,
        progress=next((part.progress for part in members if part.progress is not None), None),
        message="; ".join(failed) or gate or told.message,
        reason=next((part.reason for part in members if part.state == State.FAILED), "")
        or (conditions.GATE_NOT_MET if gate else told.reason),
        metrics={EVALUATED[part.name]: part.metrics for part in members if part.metrics},
        log=next((part.log for part in members if part.state == State.FAILED), members[-1].log),
        parts=tuple(members),
    )


def _joint_state(members: list[NodeStatus]) -> State:
    states = {member.state for member in members}
    for state in (State.RUNNING, State.STARTING, State.FAILED, State.SUSPENDED, State.WAITING):
        if state in states:
            return state
    return State.SUCCEEDED


def _phase(
    pipeline: CAIPipeline,
    nodes: Mapping[str, Node],
    statuses: Mapping[str, NodeStatus],
    outlooks: Mapping[str, Outlook],
    gate: str | None,
) -> Phase:
    if pipeline.spec.suspend:
        return Phase.SUSPENDED
    jobs = [status.state for name, status in statuses.items() if nodes[name].kind == Kind.JOB]
    open_ = [name for name, outlook in outlooks.items() if outlook not in (Outlook.DONE, Outlook.BLOCKED)]
    open_jobs = [name for name in open_ if nodes[name].kind == Kind.JOB]
    has_failed = gate is not None or State.FAILED in (status.state for status in statuses.values())
    if has_failed and not open_jobs:
        return Phase.FAILED
    serves = "serve" not in statuses or (outlooks["serve"] == Outlook.GO and statuses["serve"].state == State.RUNNING)
    if not open_jobs and serves:
        return Phase.SUCCEEDED
    is_untouched = all(state == State.WAITING for state in jobs) and not any(s.started for s in statuses.values())
    return Phase.PENDING if is_untouched else Phase.RUNNING


def _is_done(stage: StageStatus) -> bool:
    is_serving = stage.name == "serve" and stage.state == State.RUNNING and not stage.message
    return stage.state == State.SUCCEEDED or is_serving


def _message(phase: Phase, stages: tuple[StageStatus, ...]) -> str:
    failed = [_failure(stage) for stage in stages if stage.state == State.FAILED]
    if failed:
        return "; ".join(failed)
    problems = _problems(stages)
    if problems and phase != Phase.SUSPENDED:
        return "; ".join(f"{node.name}: {node.message}" for node in problems)
    if phase in (Phase.RUNNING, Phase.PENDING):
        busy = [
            stage.name for stage in stages if stage.state in (State.RUNNING, State.STARTING) and stage.name != "serve"
        ]
        if busy:
            return f"working on {', '.join(busy)}"
        return next((f"{stage.name}: {stage.message}" for stage in stages if stage.message), "")
    return ""


def _failure(stage: StageStatus) -> str:
    log = f" (log: {stage.log})" if stage.log else ""
    if stage.parts:
        return f"{stage.message}{log}" if "failed:" in stage.message else f"evaluate: {stage.message}"
    return f"{stage.name} failed: {stage.message}{log}"


def _findings(
    phase: Phase,
    stages: tuple[StageStatus, ...],
    gate: str | None,
    message: str,
) -> list[Finding]:
    ready = phase == Phase.SUCCEEDED
    progressing = phase in (Phase.PENDING, Phase.RUNNING)
    return [
        Finding(conditions.READY, ready, "Complete" if ready else f"Pipeline{phase}", "" if ready else message),
        Finding(
            conditions.PROGRESSING,
            progressing,
            "Working" if progressing else f"Pipeline{phase}",
            message if progressing else "",
        ),
        _degraded(stages, gate),
        Finding(conditions.SUSPENDED, phase == Phase.SUSPENDED, "Asked" if phase == Phase.SUSPENDED else "NotAsked"),
    ]


def _degraded(stages: tuple[StageStatus, ...], gate: str | None) -> Finding:
    failed = [stage for stage in stages if stage.state == State.FAILED]
    if failed:
        only_gate = gate is not None and len(failed) == 1 and "failed:" not in failed[0].message
        reason = conditions.GATE_NOT_MET if only_gate else conditions.STAGE_FAILED
        return Finding(conditions.DEGRADED, True, reason, "; ".join(_failure(stage) for stage in failed))
    problems = _problems(stages)
    if problems:
        message = "; ".join(f"{node.name}: {node.message}" for node in problems)
        return Finding(conditions.DEGRADED, True, problems[0].reason, message)
    return Finding(conditions.DEGRADED, False, conditions.AS_EXPECTED)


def _problems(stages: tuple[StageStatus, ...]) -> list[NodeStatus]:
    """Nodes that something keeps from getting on, and that may go on once it is mended."""
    nodes: list[NodeStatus] = [node for stage in stages for node in stage.parts or (stage,)]
    return [node for node in nodes if node.state != State.FAILED and node.reason not in ("", *conditions.HARMLESS)]


def _endpoint(pipeline: CAIPipeline, places: Places) -> str:
    host, port = places.address_of(names.serve_name(pipeline.name), pipeline.spec.stages.serve.port)
    return f"http://{host}:{port}"
