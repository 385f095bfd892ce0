"""Pipelines to plan, places to plan them for, and an executor that runs nothing but keeps the rules of one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.operator.child_objects import JOB, NOW

from cai_operator.api import CAIPipeline, PipelineStatus
from cai_operator.observing import Children, observe
from cai_operator.places import Places
from cai_operator.plan import Event, Plan, plan
from cai_operator.validation import parse_pipeline
from cai_operator.workloads import JobSeen, JobState, Kind, Observed, ServerSeen, Workload

START = datetime(2026, 1, 1, tzinfo=UTC)
POCKET: dict[str, Any] = {
    "apiVersion": "cai.dev/v1alpha1",
    "kind": "CAIPipeline",
    "metadata": {"name": "tiny", "generation": 1},
    "spec": {"engine": "hf", "models": {"base": {"pocket": {}}}},
}
RATES = {"harmfulRate": 0.1, "helpfulRate": 0.9}


def merged(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A document with changes laid over it; None removes a field."""
    result = copy.deepcopy(document)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result


@dataclass
class FakeExecutor:
    """Children that move only when told to, and only as a real executor's would.

    With `keeps_artifacts` it knows what is published, as the local executor does; else, as the operator, it does not.
    With `replicas_apart` each replica of a server is a workload of its own, as for the local executor.
    """

    pipeline: CAIPipeline
    capacity: int | None = None
    keeps_artifacts: bool = False
    replicas_apart: bool = False
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: PipelineStatus = field(default_factory=PipelineStatus)
    now: datetime = START
    jobs: dict[str, JobSeen] = field(default_factory=dict)
    servers: dict[str, ServerSeen] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    published: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    most_jobs: int = 0
    problems: list[str] = field(default_factory=list)

    def observed(self) -> Observed:
        published = dict(self.published) if self.keeps_artifacts else None
        return Observed(dict(self.jobs), dict(self.servers), published, self.texts)

    def decide(self) -> Plan:
        return plan(self.pipeline, self.status, self.observed(), self.now, self.places, self.capacity)

    @property
    def places(self) -> Places:
        return Places(
            "/artifacts",
            lambda name: f"/texts/{name}",
            lambda name, port: (name, port),
            replicas_apart=self.replicas_apart,
        )

    def reconcile(self) -> Plan:
        """Plan, apply, note the status; and hold the plan to what is true of every plan."""
        decision = self.decide()
        self._check(decision)
        for name in decision.delete:
            self.jobs.pop(name, None)
            self.servers.pop(name, None)
        for workload in decision.apply:
            self.workloads[workload.name] = workload
            if workload.kind == Kind.JOB and workload.name not in self.jobs:
                self.jobs[workload.name] = JobSeen(workload.name, JobState.PENDING)
                self.ran.append(workload.node)
            elif workload.kind == Kind.SERVER:
                seen = self.servers.get(workload.name)
                if seen is None or seen.key != workload.key:
                    self.servers[workload.name] = ServerSeen(workload.name, ready=False, key=workload.key)
        live = [job for job in self.jobs.values() if job.state in (JobState.PENDING, JobState.RUNNING)]
        self.most_jobs = max(self.most_jobs, len(live))
        self.status = decision.status
        self.events.extend(decision.events)
        return decision

    def step(self, rng: random.Random, failing: frozenset[str] = frozenset()) -> bool:
        """Let one thing happen to one child; False when nothing can."""
        self.now += timedelta(seconds=1)
        moves: list[Callable[[], None]] = []
        for name, server in self.servers.items():
            if not server.ready:
                moves.append(lambda name=name, server=server: self.servers.update({name: replace(server, ready=True)}))
        for name, job in self.jobs.items():
            if job.state == JobState.PENDING:
                moves.append(lambda name=name: self.start(name))
            elif job.state == JobState.RUNNING:
                node = self.workloads[name].node
                end = self.fail if node in failing else self.succeed
                moves.append(lambda name=name, end=end: end(name))
        if not moves:
            return False
        rng.choice(moves)()
        return True

    def start(self, name: str) -> None:
        missing = [
            workload.name
            for workload in self.workloads.values()
            if workload.kind == Kind.SERVER
            and workload.node == self.workloads[name].node
            and workload.name in self.servers
            and not self.servers[workload.name].ready
            and workload.key == self.workloads[name].key
        ]
        if missing:
            self.problems.append(f"{name} started while {missing} are not ready")
        self.jobs[name] = replace(self.jobs[name], state=JobState.RUNNING, started=self.now)

    def succeed(self, name: str) -> None:
        workload = self.workloads[name]
        word = {
            "artifact": {"key": workload.key, "digest": "sha256:0", "files": 1, "bytes": 10},
            "metrics": self.metrics.get(
                workload.node, RATES if workload.node.startswith("evaluate") else {"loss": 1.0}
            ),
        }
        self.jobs[name] = replace(self.jobs[name], state=JobState.SUCCEEDED, finished=self.now, last_word=word)
        assert workload.artifact is not None
        self.published[workload.artifact] = word

    def fail(self, name: str) -> None:
        word = {"error": "the disk is full"}
        self.jobs[name] = replace(self.jobs[name], state=JobState.FAILED, finished=self.now, last_word=word, log="/log")

    def run(self, seed: int = 0, failing: frozenset[str] = frozenset(), most: int = 400) -> PipelineStatus:
        """Reconcile and step until nothing happens any more."""
        rng = random.Random(seed)
        for _ in range(most):
            self.reconcile()
            if not self.step(rng, failing):
                before = self.status
                self.reconcile()
                if self.status == before and not any(not server.ready for server in self.servers.values()):
                    return self.status
        raise AssertionError(f"no end after {most} steps: {self.status.message}")

    def _check(self, decision: Plan) -> None:
        again = plan(
            self.pipeline,
            decision.status,
            self.observed(),
            self.now + timedelta(seconds=5),
            self.places,
            self.capacity,
        )
        if (again.apply, again.delete, again.status, again.events) != (
            decision.apply,
            decision.delete,
            decision.status,
            (),
        ):
            self.problems.append(f"planning twice differs: {again.status} {decision.status} {again.events}")
        names = [workload.name for workload in decision.apply]
        if len(set(names)) != len(names) or set(names) & set(decision.delete):
            self.problems.append(f"one child twice, or wanted and deleted: {names} {decision.delete}")
        for workload in decision.apply:
            servers = {w.name for w in decision.apply if w.kind == Kind.SERVER and w.node == workload.node}
            are_ready = all(name in self.servers and self.servers[name].ready for name in servers)
            if workload.kind == Kind.JOB and workload.name not in self.jobs and not are_ready:
                self.problems.append(f"{workload.name} wanted before {servers} are ready")


@pytest.fixture
def document() -> Callable[..., dict[str, Any]]:
    """The smallest manifest, with changes laid over its spec."""

    def make(spec: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        return merged(merged(POCKET, {"spec": spec or {}}), fields)

    return make


@pytest.fixture
def pipeline(document: Callable[..., dict[str, Any]]) -> Callable[..., CAIPipeline]:
    """The smallest pipeline, with changes laid over its spec."""

    def make(spec: dict[str, Any] | None = None, **fields: Any) -> CAIPipeline:
        return parse_pipeline(document(spec, **fields))

    return make


@pytest.fixture
def executor() -> type[FakeExecutor]:
    """An executor that runs nothing."""
    return FakeExecutor


@pytest.fixture
def see(pipeline):
    def look(children: Children, **given: Any) -> Any:
        nothing = {"progress": {}, "refusals": {}, "warnings": {}, "texts": {}, "now": NOW}
        return observe(pipeline(metadata={"namespace": "lab"}), children, **{**nothing, **given})

    return look


@pytest.fixture
def see_job(see):
    def look(raw: dict[str, Any], *pods: dict[str, Any], **given: Any) -> JobSeen:
        named = {item["metadata"]["name"]: item for item in pods}
        assert len(named) == len(pods)
        return see(Children(jobs={JOB: raw}, pods=named), **given).jobs[JOB]

    return look


@pytest.fixture
def see_server(see):
    def look(raw: dict[str, Any], *pods: dict[str, Any], **given: Any) -> ServerSeen:
        named = {item["metadata"]["name"]: item for item in pods}
        assert len(named) == len(pods)
        name = raw["metadata"]["name"]
        return see(Children(deployments={name: raw}, pods=named), **given).servers[name]

    return look
