"""What stands in a pipeline's way, told: conditions, messages, reasons, events, activity; and gone once mended."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest

from cai_operator import conditions
from cai_operator.activity import activity
from cai_operator.api import Phase, PipelineStatus, State, parse_status
from cai_operator.conditions import Finding, update
from cai_operator.status import NodeStatus, Progress
from cai_operator.summary import events_between, refused_status
from cai_operator.workloads import JobState

from .conftest import POCKET, START

SENTENCE = "image x cannot be pulled: not found; correct spec.stages.models.image or spec.image"


def condition(status: PipelineStatus, type_: str) -> conditions.Condition:
    return next(found for found in status.conditions if found.type == type_)


@pytest.fixture
def begun(executor, pipeline):
    """A pipeline whose first jobs are there, and the name of that of models."""
    run = executor(pipeline())
    run.reconcile()
    return run, next(name for name in run.jobs if "-models-" in name)


def test_a_pending_childs_problem_degrades_until_it_is_mended(begun):
    run, name = begun
    fine = run.jobs[name]
    run.events.clear()
    run.jobs[name] = replace(fine, problem=SENTENCE, problem_reason="ImagePullFailed")
    run.now += timedelta(seconds=5)
    run.reconcile()
    degraded = condition(run.status, "Degraded")
    assert (degraded.status, degraded.reason) == ("True", "ImagePullFailed")
    assert degraded.message == run.status.message == f"models: {SENTENCE}"
    assert (run.status.stage("models").state, run.status.stage("models").reason) == (State.STARTING, "ImagePullFailed")
    warnings = [event for event in run.events if event.type == "Warning"]
    assert [(event.reason, event.message, event.node) for event in warnings] == [
        ("ImagePullFailed", f"models: {SENTENCE}", "models")
    ]
    assert run.status.activity == "models ImagePullFailed; datasets starting"

    run.now += timedelta(seconds=5)
    run.jobs[name] = replace(fine, problem=f"{SENTENCE}!", problem_reason="ImagePullFailed")
    run.reconcile()
    assert condition(run.status, "Degraded").message == f"models: {SENTENCE}!"
    assert condition(run.status, "Degraded").last_transition_time == degraded.last_transition_time
    run.jobs[name] = fine
    run.reconcile()
    mended = condition(run.status, "Degraded")
    assert (mended.status, mended.reason, mended.message) == ("False", "AsExpected", "")
    assert mended.last_transition_time == run.now
    assert len([event for event in run.events if event.type == "Warning"]) == 1
    assert run.status.message == "working on models, datasets"
    assert run.problems == []


def test_another_reason_is_another_event(begun):
    run, name = begun
    fine = run.jobs[name]
    run.jobs[name] = replace(fine, problem=SENTENCE, problem_reason="ImagePullFailed")
    run.reconcile()
    run.jobs[name] = replace(fine, problem="no Secret", problem_reason="SecretMissing")
    run.reconcile()
    assert [event.reason for event in run.events if event.type == "Warning"] == ["ImagePullFailed", "SecretMissing"]


def test_a_queue_and_a_retry_degrade_nothing(begun):
    run, name = begun
    fine = run.jobs[name]
    run.jobs[name] = replace(fine, problem="waits for Kueue to admit it to queue q", problem_reason="Queued")
    run.reconcile()
    assert condition(run.status, "Degraded").status == "False"
    assert [(event.type, event.reason) for event in run.events][-1] == ("Normal", "Queued")
    for attempt in (2, 3):
        run.jobs[name] = replace(
            fine,
            state=JobState.RUNNING,
            attempts=attempt,
            problem=f"attempt {attempt - 1} failed: a hiccup; trying again",
            problem_reason="Retrying",
        )
        run.reconcile()
        assert condition(run.status, "Degraded").status == "False"
        assert run.status.stage("models").message == f"attempt {attempt - 1} failed: a hiccup; trying again"
    assert [event.message for event in run.events if event.reason == "Retrying"] == [
        "models: attempt 1 failed: a hiccup; trying again",
        "models: attempt 2 failed: a hiccup; trying again",
    ]
    assert run.problems == []


def test_a_server_that_is_lost_while_its_job_runs_is_told(executor, pipeline):
    run = executor(pipeline(), capacity=1)
    while not any("sl-data" in name for name in run.jobs):
        run.reconcile()
        run.step(random.Random(0))
    job = next(name for name in run.jobs if "sl-data" in name)
    run.start(job)
    [server] = run.servers
    problem = {"problem": "no node takes it", "problem_reason": "Unschedulable"}
    run.servers[server] = replace(run.servers[server], ready=False, **problem)
    run.reconcile()
    assert run.status.stage("slData").state == State.RUNNING
    assert condition(run.status, "Degraded").reason == "Unschedulable"
    assert condition(run.status, "Degraded").message == f"slData: {server}: no node takes it"


def test_a_failure_keeps_its_reason_and_sentence_when_the_job_is_gone(begun):
    run, name = begun
    run.fail(name)
    run.jobs[name] = replace(
        run.jobs[name], problem="the disk is full (after 4 attempts)", problem_reason="RetriesExhausted"
    )
    run.reconcile()
    del run.jobs[name]
    run.reconcile()
    stage = run.status.stage("models")
    assert (stage.state, stage.reason) == (State.FAILED, "RetriesExhausted")
    assert stage.message == "the disk is full (after 4 attempts)"
    assert condition(run.status, "Degraded").reason == "StageFailed"


def test_a_text_that_vanishes_does_not_replace_the_sentence_of_a_failure(executor, pipeline):
    texts = {"configMap/mine": {"judge_system_prompt.txt": "Prefer the kinder answer."}}
    run = executor(pipeline({"constitution": {"configMap": {"name": "mine"}}}), texts=texts)
    run.run(failing=frozenset({"slData"}))
    assert run.status.stage("slData").message == "the disk is full"
    for seen in ({}, texts):
        run.texts = seen
        run.reconcile()
        assert (run.status.stage("slData").state, run.status.stage("slData").message) == (
            State.FAILED,
            "the disk is full",
        )


def test_an_evaluations_problem_names_its_part(executor, pipeline):
    run = executor(pipeline())
    while not any("evaluate-base" in name for name in run.servers):
        run.reconcile()
        run.step(random.Random(0))
    name = next(name for name in run.servers if "evaluate-base" in name)
    run.servers[name] = replace(run.servers[name], ready=False, problem="no Secret", problem_reason="SecretMissing")
    run.reconcile()
    assert condition(run.status, "Degraded").message == f"evaluateBase: {name}: no Secret"
    assert run.status.stage("evaluate").reason == "SecretMissing"


def test_a_message_moves_no_transition_time():
    first = update((), [Finding("Ready", False, "A", "one")], 1, START)
    second = update(first, [Finding("Ready", False, "B", "two")], 2, START + timedelta(seconds=1))
    assert (second[0].last_transition_time, second[0].reason, second[0].message) == (START, "B", "two")
    third = update(second, [Finding("Ready", True, "C")], 2, START + timedelta(seconds=2))
    assert third[0].last_transition_time == START + timedelta(seconds=2)


# activity


def node(name: str, state: State, **more) -> NodeStatus:
    return NodeStatus(name=name, state=state, **more)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(done=40, total=60, unit="steps", eta_seconds=118.0), "sft 40/60 (67 %), 2m left"),
        (Progress(done=40, total=60, eta_seconds=12.4), "sft 40/60 (67 %), 12s left"),
        (Progress(done=1, total=600, eta_seconds=11000), "sft 1/600 (0 %), 3h3m left"),
        (Progress(done=1, total=600, eta_seconds=3599), "sft 1/600 (0 %), 1h0m left"),
        (Progress(done=1, total=600, eta_seconds=200000), "sft 1/600 (0 %), 2d7h left"),
        (Progress(done=599, total=600), "sft 599/600 (99 %)"),
        (Progress(done=60, total=60, eta_seconds=0.0), "sft 60/60 (100 %)"),
        (Progress(done=7, unit="rows"), "sft 7 rows"),
        (None, "sft running"),
    ],
)
def test_activity_says_how_far_a_program_is(progress, words):
    assert activity([node("models", State.SUCCEEDED), node("sft", State.RUNNING, progress=progress)]) == words


def test_activity_has_the_reason_of_what_runs_and_tells_no_figures():
    assert activity([node("sft", State.RUNNING, reason="Retrying")]) == "sft Retrying"
    assert activity([node("sft", State.RUNNING)]) == "sft running"


def test_activity_names_two_at_most():
    starting = [node(name, State.STARTING) for name in ("slData", "evaluateBase", "report")]
    assert activity(starting[:2]) == "slData starting; evaluateBase starting"
    assert activity(starting) == "slData starting; evaluateBase starting; …"
    assert activity([node("serve", State.RUNNING), node("report", State.WAITING)]) == ""


def test_a_finished_pipeline_has_no_activity(executor, pipeline):
    assert executor(pipeline()).run().activity == ""


# what no plan can be made for


def test_a_refused_spec_says_why_and_keeps_the_stages(executor, pipeline):
    run = executor(pipeline())
    run.run()
    document = {**POCKET, "metadata": {"name": "tiny", "generation": 7}}
    why = "spec.stages.sft.nodes: found 0; allowed: at least 1\nspec.seed: found -1; allowed: at least 0"
    refused = refused_status(document, run.status, conditions.SPEC_INVALID, why, run.now)
    assert (refused.phase, refused.observed_generation, refused.stages) == (Phase.FAILED, 7, run.status.stages)
    assert refused.message == "the spec is not valid: " + why.replace("\n", "; ")
    degraded = condition(refused, "Degraded")
    assert (degraded.status, degraded.reason, degraded.message) == ("True", "SpecInvalid", refused.message)
    assert [event.reason for event in events_between(run.status, refused)] == ["PipelineFailed"]
    again = refused_status(document, refused, conditions.SPEC_INVALID, why, run.now + timedelta(seconds=9))
    assert (again, events_between(refused, again)) == (refused, ())
    assert parse_status(refused.document()) == refused
    run.status = refused
    assert run.run().phase == Phase.SUCCEEDED  # mended: nothing was lost
    assert len(run.ran) == len(set(run.ran))


def test_a_refused_new_pipeline_has_a_status_too():
    refused = refused_status({}, PipelineStatus(), conditions.ENGINE_UNAVAILABLE, "engine nemo is not there", START)
    assert refused.message == "engine nemo is not there"
    assert condition(refused, "Ready").reason == "EngineUnavailable"
    assert condition(refused, "Progressing").status == "False"
