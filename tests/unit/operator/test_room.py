"""Pipelines on a cluster too small for all at once: a scheduler places pods as they fit, and every run must end."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from cai_operator import plan as planning
from cai_operator.api import CAIPipeline, Phase, PipelineStatus, State
from cai_operator.engines.pods import whole_cores
from cai_operator.places import Places
from cai_operator.workloads import JobSeen, JobState, Kind, Observed, ServerSeen, Workload

from .conftest import RATES, START

LACKING: dict[str, Any] = {"problem": "no node takes it", "problem_reason": "Unschedulable", "lacks_room": True}
PLACES = Places("/artifacts", lambda name: f"/texts/{name}", lambda name, port: (name, port))


def millicores(workload: Workload) -> int:
    cpu = workload.resources.cpu
    return int(cpu[:-1]) if cpu.endswith("m") else 1000 * whole_cores(cpu)


@dataclass
class Child:
    workload: Workload
    created: Any
    placed: bool = False
    tried: bool = False
    up: bool = False
    ended: bool = False
    finished: Any = None


@dataclass
class SmallCluster:
    """One machine of so many millicores; pods that are deleted hold their room a while longer."""

    pipeline: CAIPipeline
    capacity: int
    rng: random.Random
    status: PipelineStatus = field(default_factory=PipelineStatus)
    children: dict[str, Child] = field(default_factory=dict)
    leaving: list[tuple[int, int]] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    step: int = 0

    def observed(self) -> Observed:
        jobs, servers = {}, {}
        for name, child in self.children.items():
            lacking = LACKING if child.tried and not child.placed else {}
            if child.workload.kind == Kind.SERVER:
                servers[name] = ServerSeen(name, child.up, child.created, key=child.workload.key, **lacking)
                continue
            state = JobState.SUCCEEDED if child.ended else JobState.RUNNING if child.up else JobState.PENDING
            word = {"metrics": RATES, "artifact": {}} if child.ended else None
            jobs[name] = JobSeen(name, state, 1, child.created, child.finished, last_word=word, **lacking)
        return Observed(jobs, servers)

    def reconcile(self) -> None:
        now = START + timedelta(seconds=self.step)
        decision = planning.plan(self.pipeline, self.status, self.observed(), now, PLACES)
        again = planning.plan(self.pipeline, decision.status, self.observed(), now + timedelta(seconds=9), PLACES)
        assert (again.apply, again.delete, again.status, again.events) == (
            decision.apply,
            decision.delete,
            decision.status,
            (),
        )
        self.status = decision.status
        for name in decision.delete:
            child = self.children.pop(name)
            if child.placed and not child.ended:
                self.leaving.append((self.step + self.rng.randint(0, 3), millicores(child.workload)))
        for workload in decision.apply:
            if workload.name not in self.children:
                has_others = any(other.workload.node == workload.node for other in self.children.values())
                self.begun[workload.node] += not has_others
                self.children[workload.name] = Child(workload, now)

    def free(self) -> int:
        self.leaving = [(until, size) for until, size in self.leaving if until > self.step]
        held = sum(millicores(child.workload) for child in self.children.values() if child.placed and not child.ended)
        return self.capacity - held - sum(size for _, size in self.leaving)

    def schedule(self) -> None:
        waiting = [child for child in self.children.values() if not child.placed]
        self.rng.shuffle(waiting)
        for child in waiting:
            child.tried = True
            child.placed = millicores(child.workload) <= self.free()

    def move(self) -> bool:
        """Let one thing happen; False when nothing can."""
        movable = []
        for child in self.children.values():
            servers = [
                other
                for other in self.children.values()
                if other.workload.kind == Kind.SERVER and other.workload.node == child.workload.node
            ]
            if not child.placed or child.ended:
                continue
            # a running program makes no headway while a server of its is away
            if not child.up or (child.workload.kind == Kind.JOB and all(server.up for server in servers)):
                movable.append(child)
        if not movable:
            return bool(self.leaving)
        child = self.rng.choice(movable)
        if child.up:
            child.ended, child.finished = True, START + timedelta(seconds=self.step)
        child.up = True
        return True

    def run(self, most: int = 600) -> bool:
        """To the end; whether the pipeline succeeded, or else stands still."""
        for _ in range(most):
            self.step += 1
            self.reconcile()
            if self.rng.random() < 0.8:  # the operator may look before the scheduler does
                self.schedule()
                self.reconcile()
            if self.status.phase == Phase.SUCCEEDED:
                return True
            if not self.move():
                before = self.status
                self.schedule()
                self.reconcile()
                if self.status == before and not any(child.placed and not child.up for child in self.children.values()):
                    self.schedule()
                    if not self.move():
                        return False
        return False


@pytest.mark.parametrize("capacity", [2000, 2250, 3000, 4000, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_every_run_ends_whatever_room_there_is(pipeline, capacity, seed):
    cluster = SmallCluster(pipeline(), capacity, random.Random(seed))
    assert cluster.run(), cluster.status.message
    # what gives way is not tried again more often than another node of the graph takes its place
    assert max(cluster.begun.values()) <= 6, cluster.begun
    assert sum(cluster.begun.values()) - len(cluster.begun) <= 8, cluster.begun
    assert cluster.begun["serve"] <= 2, cluster.begun


def test_without_giving_way_some_runs_never_end(pipeline, monkeypatch):
    monkeypatch.setattr(planning, "make_room", lambda nodes, known, outlooks, status: outlooks)
    assert not all(SmallCluster(pipeline(), 2000, random.Random(seed)).run() for seed in range(12))


def small(pipeline: CAIPipeline, capacity: int = 2000, seed: int = 0) -> SmallCluster:
    return SmallCluster(pipeline, capacity, random.Random(seed))


def test_two_running_programs_that_lost_their_servers_do_not_block_each_other(pipeline):
    cluster = small(pipeline({"stages": {"ppo": {"enabled": False}, "rewardModel": {"enabled": False}}}), 5000)
    while True:
        cluster.step += 1
        cluster.reconcile()
        cluster.schedule()
        up = {
            child.workload.node for child in cluster.children.values() if child.workload.kind == Kind.JOB and child.up
        }
        if {"slData", "evaluateBase"} <= up:
            break
        running = [child for child in cluster.children.values() if child.placed and not child.up]
        if running:
            running[0].up = True
        else:
            cluster.move()
    for child in cluster.children.values():
        if child.workload.kind == Kind.SERVER:  # their machine is gone, and what is left holds the two jobs
            child.placed = child.up = child.tried = False
    cluster.capacity = 1300
    cluster.schedule()
    cluster.reconcile()
    assert cluster.status.node("slData").state == State.RUNNING
    assert cluster.status.node("evaluateBase").state == State.WAITING
    cluster.capacity = 2000
    assert cluster.run()


def test_a_model_that_is_served_already_stays_when_an_evaluation_lacks_room(pipeline):
    cluster = small(pipeline(), 5000)
    assert cluster.run()
    cluster.pipeline = pipeline({"stages": {"evaluate": {"numExamples": 5}}}, metadata={"generation": 2})
    cluster.capacity = 2000
    cluster.run(40)
    assert "tiny-serve" in cluster.children
    assert cluster.begun["serve"] == 1
    assert cluster.status.endpoint is not None
    assert cluster.status.node("evaluateBase").reason == "Unschedulable"
