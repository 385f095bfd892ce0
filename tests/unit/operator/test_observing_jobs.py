"""Jobs as the API server shows them, from their first pod to their end, and what the plan is told of them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.operator.child_objects import (
    CREATING,
    DONE,
    JOB,
    NOW,
    RUNNING,
    SERVER,
    WORD,
    at,
    deployment,
    ended,
    job,
    pod,
    terminated,
    unplaced,
)

from cai_operator.names import KEY_LABEL
from cai_operator.observing import Children
from cai_operator.workloads import JobSeen, JobState

# Jobs that go well


def test_a_job_without_pods_is_pending(see_job):
    assert see_job(job()) == JobSeen(JOB, JobState.PENDING, 0, node="sft", key=job()["metadata"]["labels"][KEY_LABEL])


def test_a_pod_that_is_being_set_up_does_not_run_yet(see_job):
    seen = see_job(job(active=1), pod(CREATING, phase="Pending"))
    assert (seen.state, seen.attempts, seen.problem) == (JobState.PENDING, 0, None)


def test_a_running_program_has_a_start_a_log_and_its_progress(see_job):
    line = {"done": 3, "total": 10}
    seen = see_job(job(active=1, ready=1), pod(RUNNING), progress={JOB: line})
    assert (seen.state, seen.attempts, seen.progress) == (JobState.RUNNING, 1, line)
    assert seen.started == NOW + timedelta(seconds=1)
    assert seen.log == f"kubectl logs -n lab job/{JOB}"


def test_a_complete_job_has_its_programs_last_word_and_times(see_job):
    seen = see_job(job(succeeded=1, conditions=ended("Complete"), completionTime=at(55)), DONE)
    assert (seen.state, seen.last_word, seen.attempts) == (JobState.SUCCEEDED, WORD, 1)
    assert seen.finished == NOW + timedelta(seconds=50)


def test_the_job_may_be_ahead_of_its_pod_and_no_figures_are_lost(see_job):
    complete = job(succeeded=1, conditions=ended("Complete"), completionTime=at(55))
    assert see_job(complete, pod(RUNNING)).state == JobState.RUNNING
    assert see_job(complete, pod(RUNNING)).attempts == 1
    assert see_job(complete, DONE).last_word == WORD


def test_a_complete_job_whose_pod_is_gone_succeeded_without_figures(see_job):
    seen = see_job(job(succeeded=1, startTime=at(0), conditions=ended("Complete"), completionTime=at(55)))
    assert (seen.state, seen.last_word) == (JobState.SUCCEEDED, None)
    assert (seen.started, seen.finished) == (NOW, NOW + timedelta(seconds=55))


def test_a_pod_that_is_being_deleted_is_waited_for_but_not_for_ever(see_job):
    complete = job(succeeded=1, conditions=ended("Complete"))
    leaving = pod(RUNNING, going=60)
    assert see_job(complete, leaving, now=NOW + timedelta(seconds=70)).state == JobState.RUNNING
    assert see_job(complete, leaving, now=NOW + timedelta(seconds=300)).state == JobState.SUCCEEDED


def test_of_several_nodes_rank_0_has_the_last_word(see_job):
    spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    complete = job(spec, succeeded=2, conditions=ended("Complete"))
    other = pod(terminated(0, {"metrics": {}}), rank=1, made=1, phase="Succeeded")
    assert see_job(complete, other, pod(terminated(0, WORD), rank=0, phase="Succeeded")).last_word == WORD
    assert see_job(complete, other, pod(RUNNING, rank=0)).state == JobState.RUNNING


def test_the_pods_of_a_job_that_had_the_same_name_say_nothing(see_job):
    assert see_job(job(), pod(terminated(1, {"error": "old"}), uid="job-0", phase="Failed")).state == JobState.PENDING


def test_objects_that_are_going_are_gone(see):
    leaving = job()
    leaving["metadata"]["deletionTimestamp"] = at(0)
    server = deployment()
    server["metadata"]["deletionTimestamp"] = at(0)
    observed = see(Children(jobs={JOB: leaving}, deployments={SERVER: server}))
    assert (observed.jobs, observed.servers, observed.published) == ({}, {}, None)


# Jobs that fail


def test_a_wrong_input_fails_with_the_programs_sentence(see_job):
    failed = job(failed=1, conditions=ended("Failed", "PodFailurePolicy", "Container program for pod lab/x failed"))
    word = {"error": "row 3 of rows.jsonl has no text: add it"}
    seen = see_job(failed, pod(terminated(2, word), phase="Failed"))
    assert (seen.state, seen.attempts) == (JobState.FAILED, 1)
    assert (seen.problem, seen.problem_reason) == ("row 3 of rows.jsonl has no text: add it", "InputError")
    assert seen.finished == NOW + timedelta(seconds=50)


def test_used_up_retries_say_so_after_the_programs_sentence(see_job):
    failed = job(failed=4, conditions=ended("Failed", "BackoffLimitExceeded", "Job has reached the backoff limit"))
    pods = [pod(terminated(1, {"error": f"try {n}"}), made=n, phase="Failed") for n in range(4)]
    seen = see_job(failed, *pods)
    assert seen.problem == "try 3 (after 4 attempts; spec.stages.sft.retries allows no more)"
    assert (seen.problem_reason, seen.attempts) == ("RetriesExhausted", 4)


def test_a_failed_job_whose_pods_are_gone_keeps_the_jobs_own_message(see_job):
    failed = job(failed=4, conditions=ended("Failed", "BackoffLimitExceeded", "Job has reached the backoff limit"))
    seen = see_job(failed)
    assert (seen.state, seen.problem) == (JobState.FAILED, "Job has reached the backoff limit")


def test_a_failed_job_waits_for_its_pods_last_word(see_job):
    failed = job(failed=1, conditions=ended("Failed", "PodFailurePolicy", "Container program failed"))
    assert see_job(failed, pod(RUNNING)).state == JobState.RUNNING


def test_a_job_has_not_failed_while_its_pods_are_being_stopped(see_job):
    first = ended("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")[:1]
    failing = job(failed=1, conditions=first)
    stopping = see_job(failing, pod(RUNNING, going=60), now=NOW + timedelta(seconds=10))
    assert (stopping.state, stopping.problem) == (JobState.RUNNING, None)
    assert see_job(failing, pod(RUNNING, going=60), now=NOW + timedelta(hours=1)).state == JobState.FAILED
    assert see_job(failing, pod(terminated(143), phase="Failed")).state == JobState.FAILED
    assert see_job(failing).state == JobState.FAILED


def test_a_deadline_is_named_with_its_field(see_job):
    failed = job(
        {"activeDeadlineSeconds": 60},
        failed=1,
        conditions=ended("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"),
    )
    asked = pod(terminated(143, {"error": "asked to stop; the same command goes on from here"}), phase="Failed")
    sentence = "took longer than its deadline of 60 s and was stopped; raise spec.stages.sft.deadline"
    assert see_job(failed, asked).problem == sentence
    assert see_job(failed).problem == sentence
    assert see_job(failed, asked).problem_reason == "DeadlineExceeded"
    assert see_job(failed, asked).last_word is None


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Traceback …\nerror: the disk is full\n", "the disk is full"),
        ('noise\n{"progress": {"done": 1}}\nthe last line\n', "ended with exit code 1: the last line"),
        ("", "ended with exit code 1"),
    ],
)
def test_without_a_last_word_the_log_speaks(see_job, message, sentence):
    failed = job(failed=1, conditions=ended("Failed", "BackoffLimitExceeded", "limit"))
    assert see_job(failed, pod(terminated(1, message), phase="Failed")).problem == sentence


def test_out_of_memory_names_the_limit_and_the_field(see_job):
    failed = job(failed=1, conditions=ended("Failed", "BackoffLimitExceeded", "limit"))
    seen = see_job(failed, pod(terminated(137, reason="OOMKilled"), phase="Failed"))
    assert seen.problem == "ran out of memory (limit 2Gi): raise spec.stages.sft.resources.memory"
    assert seen.problem_reason == "OutOfMemory"


def test_a_killed_program_is_named_by_its_signal(see_job):
    failed = job(failed=1, conditions=ended("Failed", "BackoffLimitExceeded", "limit"))
    assert see_job(failed, pod(terminated(137), phase="Failed")).problem == "was killed by SIGKILL"


def test_of_several_nodes_the_first_that_failed_is_blamed(see_job):
    spec = {"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimit": 2}
    failed = job(spec, failed=3, conditions=ended("Failed", "BackoffLimitExceeded", "limit"))
    pods = [
        pod(terminated(143, {"error": "asked to stop"}, finished=40), rank=0, made=0, phase="Failed"),
        pod(terminated(1, {"error": "the GPU fell off"}, finished=45), rank=1, made=1, phase="Failed"),
        pod(terminated(1, {"error": "lost rank 1"}, finished=55), rank=2, made=2, phase="Failed"),
    ]
    seen = see_job(failed, *pods)
    assert (seen.problem, seen.attempts) == ("the GPU fell off", 1)


# Jobs that go on after a failure


def test_a_new_attempt_says_why_the_last_one_failed(see_job):
    first = pod(terminated(1, {"error": "the server went away"}), made=0, phase="Failed")
    between = see_job(job(failed=1), first)
    assert (between.state, between.attempts) == (JobState.RUNNING, 1)
    again = see_job(job(failed=1, active=1), first, pod(RUNNING, made=60))
    assert (again.state, again.attempts) == (JobState.RUNNING, 2)
    assert again.problem == between.problem == "attempt 1 failed: the server went away; trying again"
    assert again.problem_reason == "Retrying"
    assert again.started == NOW + timedelta(seconds=1)


def test_nobody_says_trying_again_of_a_job_about_to_fail(see_job):
    wrong = pod(terminated(2, {"error": "no such model"}), phase="Failed")
    assert see_job(job(active=1), wrong).problem is None
    last = pod(terminated(1, {"error": "again"}), phase="Failed")
    assert see_job(job({"backoffLimit": 0}, active=1), last).problem is None


def test_an_eviction_is_no_attempt(see_job):
    evicted = pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    seen = see_job(job(active=1), evicted, pod(CREATING, made=60, phase="Pending"))
    assert seen.problem_reason == "Evicted"
    assert "was evicted: The node was low on resource: memory." in seen.problem
    running = see_job(job(active=1), evicted, pod(RUNNING, made=60))
    assert (running.attempts, running.problem) == (1, None)


def test_a_pod_of_another_node_that_is_not_placed_is_shown_beside_the_running_one(see_job):
    spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    lonely = pod(phase="Pending", rank=1, made=1, conditions=unplaced("0/1 nodes are available: 1 Insufficient cpu."))
    seen = see_job(job(spec, active=2), pod(RUNNING, rank=0), lonely)
    assert (seen.state, seen.problem_reason, seen.lacks_room) == (JobState.RUNNING, "Unschedulable", True)
