"""Servers as the API server shows them, what the plan is told of them, and progress read from logs."""

from __future__ import annotations

import pytest
from tests.unit.operator.child_objects import (
    CREATING,
    JOB,
    KEY,
    NOW,
    RUNNING,
    SERVER,
    deployment,
    ended,
    job,
    pod,
    terminated,
    unplaced,
    waiting,
)

from cai_operator.names import KIND_LABEL
from cai_operator.observing import Children, newest_progress
from cai_operator.workloads import ServerSeen

# servers


def test_a_server_is_ready_when_its_pod_is(see_server):
    up = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    seen = see_server(deployment(**up), pod(RUNNING, of=SERVER, ready=True))
    assert seen == ServerSeen(SERVER, ready=True, started=NOW, key=KEY, node="slData", serving=True)
    assert not see_server(deployment(replicas=1, updatedReplicas=1)).ready


def test_a_server_whose_deployment_was_just_changed_is_not_ready(see_server):
    changed = deployment(replicas=1, updatedReplicas=1, readyReplicas=1)
    changed["metadata"]["generation"] = 2
    assert not see_server(changed).ready
    seen = see_server(changed, pod(RUNNING, of=SERVER, ready=True))
    assert (seen.ready, seen.serving) == (False, True)


def test_pods_of_an_older_template_make_no_server_ready(see_server):
    half = deployment(replicas=2, updatedReplicas=1, readyReplicas=1)
    old = pod(RUNNING, of=SERVER, ready=True, template="t1", made=0)
    seen = see_server(half, old, pod(CREATING, of=SERVER, template="t2", made=9, phase="Pending"))
    assert (seen.ready, seen.serving) == (False, False)
    assert see_server(half, old, pod(RUNNING, of=SERVER, template="t2", made=9, ready=True)).ready


def test_a_server_that_stopped_once_is_started_again(see_server):
    gone = terminated(1, {"error": "CUDA error"})
    first = see_server(deployment(), pod(RUNNING, of=SERVER, last=gone, restarts=1))
    assert (first.problem, first.problem_reason) == ("CUDA error; it is started again", "Retrying")
    ready = deployment(replicas=1, updatedReplicas=1, readyReplicas=1)
    assert see_server(ready, pod(RUNNING, of=SERVER, last=gone, restarts=1, ready=True)).problem is None


def test_a_server_in_a_crash_loop_is_given_up_after_the_stages_retries(see_server):
    gone = terminated(1, {"error": "CUDA error"})
    loop = waiting("CrashLoopBackOff", "back-off 40s restarting failed container")
    third = see_server(deployment(), pod(loop, of=SERVER, last=gone, restarts=2))
    assert (third.failed, third.problem_reason) == (False, "CrashLooping")
    assert third.problem == "CUDA error; it ended 3 times and is started again"
    running_again = see_server(deployment(), pod(RUNNING, of=SERVER, last=gone, restarts=3))
    assert (running_again.problem, running_again.problem_reason) == (third.problem, third.problem_reason)
    fourth = see_server(deployment(), pod(loop, of=SERVER, last=gone, restarts=3))
    assert fourth.failed
    assert fourth.problem == "CUDA error (it ended 4 times, spec.stages.slData.retries is 3)"
    assert fourth.problem_reason == "RetriesExhausted"


def test_a_server_with_a_wrong_input_is_given_up_at_once(see_server):
    wrong = terminated(2, {"error": "port 80 is not ours"})
    seen = see_server(deployment(), pod(RUNNING, of=SERVER, last=wrong, restarts=1))
    assert (seen.failed, seen.problem, seen.problem_reason) == (True, "port 80 is not ours", "InputError")


def test_a_server_out_of_memory_names_its_own_field(see_server):
    gone = terminated(137, reason="OOMKilled")
    seen = see_server(deployment(), pod(RUNNING, of=SERVER, last=gone, restarts=2))
    assert seen.problem_reason == "OutOfMemory"
    assert "raise spec.stages.slData.server.resources.memory" in seen.problem


def test_an_evicted_server_pod_is_forgotten_once_another_is_there(see_server):
    evicted = pod(of=SERVER, phase="Failed", reason="Evicted", message="low on memory")
    assert see_server(deployment(), evicted).problem_reason == "Evicted"
    assert see_server(deployment(), evicted, pod(RUNNING, of=SERVER, made=60)).problem is None


def test_a_server_without_room_or_quota_says_so(see_server):
    lonely = pod(of=SERVER, phase="Pending", conditions=unplaced("0/1 nodes are available: 1 Insufficient memory."))
    seen = see_server(deployment(), lonely)
    assert (seen.problem_reason, seen.lacks_room) == ("Unschedulable", True)
    assert "lower spec.stages.slData.server.resources or gpus" in seen.problem
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": 'pods "x" is forbidden: exceeded quota: gpus',
    }
    assert see_server(deployment(conditions=[failure])).problem_reason == "QuotaExceeded"


def test_an_image_mended_by_a_new_template_leaves_no_problem(see_server):
    old = pod(waiting("ErrImagePull", "not found"), of=SERVER, template="t1", phase="Pending")
    assert see_server(deployment(), old).problem_reason == "ImagePullFailed"
    assert see_server(deployment(), old, pod(RUNNING, of=SERVER, template="t2", made=5)).problem is None


# servers on several machines


@pytest.fixture
def see_group(see):
    """What the plan is told of the Job of a server."""

    def look(raw, *pods):
        raw["metadata"]["labels"][KIND_LABEL] = "server"
        found = see(Children(jobs={JOB: raw}, pods={item["metadata"]["name"]: item for item in pods}))
        assert found.jobs == {}
        return found.servers[JOB]

    return look


def test_a_group_is_ready_as_its_first_pod_is(see_group):
    nodes = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    # the others listen to nobody, and never are
    second = pod(RUNNING, rank=1, made=1)
    seen = see_group(job(nodes, active=2), pod(RUNNING, rank=0, ready=True), second)
    assert (seen.name, seen.key, seen.ready, seen.failed) == (JOB, KEY, True, False)
    assert not see_group(job(nodes, active=2), pod(RUNNING, rank=0), second).ready
    assert not see_group(job(nodes, active=1), second).ready
    gone = pod(terminated(1, "lost"), rank=0, ready=True, phase="Failed")
    assert not see_group(job(nodes, active=1, failed=1), gone, second).ready


def test_a_group_that_waits_in_a_queue(see_group):
    seen = see_group(job({"suspend": True}, {"kueue.x-k8s.io/queue-name": "critics"}))
    assert (seen.ready, seen.problem_reason) == (False, "Queued")
    assert seen.problem == "waits for Kueue to admit it to queue critics"


def test_a_group_that_ended(see_group):
    seen = see_group(job(conditions=ended("Failed", "BackoffLimitExceeded"), failed=4))
    assert (seen.ready, seen.failed) == (False, True)
    assert seen.problem
    seen = see_group(job(conditions=ended("Complete"), succeeded=1), pod(terminated(0), phase="Succeeded"))
    assert (seen.ready, seen.failed) == (False, True)
    assert "though a server is to stay up" in seen.problem


# progress


def test_the_newest_whole_progress_line_counts():
    lines = [
        '{"progress": {"done": 1, "total": 4}}',
        "a warning",
        '{"progress": {"done": 2, "total": 4}}',
        '{"progress": {"done": 3, "tot',
    ]
    assert newest_progress("\n".join(lines)) == {"done": 2, "total": 4}
    stamped = "".join(f"2026-01-01T00:00:00Z {line}\n" for line in lines[:1])
    assert newest_progress(stamped) == {"done": 1, "total": 4}
    assert newest_progress("nothing of that kind\n") is None
    assert newest_progress('someone said {"progress": {"done": 9}}') is None


@pytest.mark.parametrize("raw", [{}, {"metadata": {"name": JOB}, "status": {"conditions": None}, "spec": None}])
def test_half_an_object_is_no_error(see, raw):
    assert see(Children(jobs={JOB: raw}, deployments={SERVER: raw}, pods={"p": raw})) is not None
