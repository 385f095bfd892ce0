"""The plan, simulated to its end: in whatever order things happen, what should runs once, and the status says so."""

from __future__ import annotations

import random

import pytest

from cai_operator.api import Phase, PipelineStatus, State
from cai_operator.workloads import JobState

ALL_JOBS = {
    *("models", "datasets", "slData", "sft", "rlData", "rewardModel", "ppo"),
    *("evaluateBase", "evaluateSlCai", "evaluateRlCai", "report"),
}


def states(status: PipelineStatus) -> dict[str, str]:
    return {stage.name: stage.state.value for stage in status.stages}


def conditions(status: PipelineStatus) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


@pytest.mark.parametrize("keeps_artifacts", [False, True])
@pytest.mark.parametrize("capacity", [None, 1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_every_order_of_events_ends_the_same(executor, pipeline, seed, capacity, keeps_artifacts):
    run = executor(pipeline(), capacity=capacity, keeps_artifacts=keeps_artifacts)
    status = run.run(seed)
    assert run.problems == []
    assert sorted(run.ran) == sorted(ALL_JOBS)
    assert status.phase == Phase.SUCCEEDED
    assert status.progress == "10/10"
    assert set(states(status).values()) == {"Succeeded", "Running"}
    assert states(status)["serve"] == "Running"
    assert status.endpoint == "http://tiny-serve:1427"
    assert status.report is not None
    assert status.report.endswith("/report.html")
    assert list(run.servers) == ["tiny-serve"]
    assert capacity is None or run.most_jobs <= capacity


def test_independent_nodes_run_side_by_side(executor, pipeline):
    run = executor(pipeline())
    run.reconcile()
    assert {job.name.split("-")[1] for job in run.jobs.values()} == {"models", "datasets"}
    for name in list(run.jobs):
        run.start(name)
        run.succeed(name)
    decision = run.reconcile()
    assert {workload.node for workload in decision.apply} == {"slData", "evaluateBase"}


def test_the_main_chain_goes_before_evaluation(executor, pipeline):
    run = executor(pipeline(), capacity=1)
    run.run()
    assert run.ran[-4:] == ["evaluateBase", "evaluateSlCai", "evaluateRlCai", "report"]


def test_a_job_waits_for_its_servers_and_the_servers_go_with_it(executor, pipeline):
    run = executor(pipeline(), capacity=1)
    while "slData" not in {workload.node for workload in run.reconcile().apply}:
        run.step(random.Random(0))
    [server] = run.servers
    assert run.status.stage("slData").state == State.STARTING
    assert run.status.stage("slData").message == f"waits for {server} to be ready"
    assert not any(workload.kind == "job" for workload in run.decide().apply)
    run.step(random.Random(0))
    assert [workload.kind for workload in run.reconcile().apply] == ["server", "job"]
    job = next(name for name in run.jobs if "sl-data" in name)
    run.start(job)
    run.succeed(job)
    decision = run.reconcile()
    assert decision.delete == (server,)
    assert job in run.jobs


def test_a_running_job_stays_wanted_while_its_server_is_away(executor, pipeline):
    run = executor(pipeline(), capacity=1)
    while not any("ppo" in name for name in run.jobs):
        run.reconcile()
        run.step(random.Random(0))
    job = next(name for name in run.jobs if "ppo" in name)
    run.start(job)
    run.servers.clear()
    decision = run.reconcile()
    assert [workload.kind for workload in decision.apply] == ["server", "job"]
    assert decision.delete == ()


def test_progress_and_times_are_shown(executor, pipeline):
    from dataclasses import replace

    run = executor(pipeline())
    run.reconcile()
    name = next(name for name in run.jobs if "models" in name)
    run.start(name)
    line = {"done": 3, "total": 10, "unit": "files", "eta_s": 7.5, "metrics": {"speed": 2.0}}
    run.jobs[name] = replace(run.jobs[name], progress=line, attempts=2)
    run.reconcile()
    stage = run.status.stage("models")
    assert (stage.state, stage.attempts, stage.started) == (State.RUNNING, 2, run.now)
    assert (stage.progress.done, stage.progress.total, stage.progress.eta_seconds) == (3, 10, 7.5)
    run.succeed(name)
    run.reconcile()
    stage = run.status.stage("models")
    assert stage.progress is None
    assert stage.finished == run.now
    assert stage.metrics == {"loss": 1.0}
    assert stage.artifact.path == f"tiny/models/{stage.key}"


@pytest.mark.parametrize("node", ["models", "slData", "sft", "rewardModel", "ppo", "evaluateBase", "report"])
@pytest.mark.parametrize("seed", range(3))
def test_a_failed_node_stops_only_what_needs_it(executor, pipeline, node, seed):
    run = executor(pipeline())
    status = run.run(seed, frozenset({node}))
    assert run.problems == []
    assert status.phase == Phase.FAILED
    failed = status.node(node)
    assert (failed.state, failed.message, failed.log) == (State.FAILED, "the disk is full", "/log")
    assert status.message == f"{node} failed: the disk is full (log: /log)"
    assert conditions(status)["Degraded"] == ("True", "StageFailed")
    assert conditions(status)["Progressing"][0] == "False"
    needed_by = {
        "models": ALL_JOBS - {"models", "datasets"},
        "slData": ALL_JOBS - {"models", "datasets", "slData", "evaluateBase"},
        "sft": {"rlData", "rewardModel", "ppo", "evaluateSlCai", "evaluateRlCai", "report"},
        "rewardModel": {"ppo", "evaluateRlCai", "report"},
        "ppo": {"evaluateRlCai", "report"},
        "evaluateBase": {"evaluateSlCai", "evaluateRlCai", "report"},
        "report": set(),
    }[node]
    assert set(run.ran) == ALL_JOBS - needed_by
    assert [event.node for event in run.events if event.type == "Warning" and event.node] == [node]


def test_a_failure_is_sticky_even_when_its_job_is_gone(executor, pipeline):
    run = executor(pipeline())
    run.run(failing=frozenset({"sft"}))
    run.jobs.clear()
    ran = len(run.ran)
    assert run.run().phase == Phase.FAILED
    assert len(run.ran) == ran


def test_a_retry_starts_what_failed_once(executor, pipeline):
    run = executor(pipeline())
    run.run(failing=frozenset({"sft"}))
    failed_job = next(name for name in run.jobs if "-sft-" in name)
    run.pipeline = run.pipeline.with_retry("one")
    decision = run.reconcile()
    assert failed_job in decision.delete
    assert [workload.node for workload in decision.apply if workload.kind == "job"] == ["sft"]
    assert any(event.reason == "Renewed" and "retry" in event.message for event in decision.events)
    assert run.run(failing=frozenset({"sft"})).phase == Phase.FAILED
    assert run.ran.count("sft") == 2
    run.pipeline = run.pipeline.with_retry("two")
    assert run.run().phase == Phase.SUCCEEDED
    assert run.ran.count("sft") == 3
    assert run.ran.count("slData") == 1
    assert run.problems == []


def test_an_old_retry_starts_nothing_that_fails_later(executor, pipeline):
    run = executor(pipeline())
    run.run(failing=frozenset({"sft"}))
    run.pipeline = run.pipeline.with_retry("one")
    assert run.run(failing=frozenset({"rlData"})).phase == Phase.FAILED
    assert run.status.retry == "one"
    assert run.ran.count("rlData") == 1
    run.pipeline = run.pipeline.with_retry("two")
    assert run.run().phase == Phase.SUCCEEDED
    assert run.ran.count("rlData") == 2


def test_a_retried_job_is_found_again_when_the_status_is_lost(executor, pipeline):
    run = executor(pipeline())
    run.run(failing=frozenset({"sft"}))
    run.pipeline = run.pipeline.with_retry("one")
    run.reconcile()
    job = next(name for name, seen in run.jobs.items() if seen.state == JobState.PENDING)
    run.start(job)
    run.status = PipelineStatus()
    run.reconcile()
    assert run.status.stage("sft").state == State.RUNNING
    assert job in run.jobs


@pytest.mark.parametrize("seed", range(8))
def test_a_lost_or_stale_status_loses_no_work(executor, pipeline, seed):
    run = executor(pipeline())
    rng = random.Random(seed)
    old = [PipelineStatus()]
    for _ in range(200):
        run.reconcile()
        old.append(run.status)
        if not run.step(rng):
            break
        if rng.random() < 0.2:
            run.status = rng.choice(old)
    status = run.run(seed)
    assert run.problems == []
    assert status.phase == Phase.SUCCEEDED
    assert sorted(run.ran) == sorted(ALL_JOBS)


def test_finished_children_removed_by_a_clock_are_not_made_again(executor, pipeline):
    run = executor(pipeline())
    run.run()
    run.jobs.clear()
    run.reconcile()
    assert sorted(run.ran) == sorted(ALL_JOBS)
    assert run.status.phase == Phase.SUCCEEDED


def test_published_artifacts_count_as_done_and_bring_their_figures(executor, pipeline):
    first = executor(pipeline(), keeps_artifacts=True)
    first.run()
    second = executor(pipeline(), keeps_artifacts=True, published=first.published)
    status = second.run()
    assert second.ran == []
    assert status.phase == Phase.SUCCEEDED
    assert status.stage("evaluate").metrics["rlCai"] == {"harmfulRate": 0.1, "helpfulRate": 0.9}


def test_an_artifact_that_was_removed_is_made_again(executor, pipeline):
    run = executor(pipeline(), keeps_artifacts=True)
    run.run()
    gone = next(path for path in run.published if "/sft/" in path)
    del run.published[gone]
    run.jobs.clear()
    run.ran.clear()
    assert run.run().phase == Phase.SUCCEEDED
    assert run.ran == ["sft"]


def test_a_changed_spec_redoes_what_depends_on_it_and_nothing_else(executor, pipeline):
    run = executor(pipeline())
    run.run()
    run.ran.clear()
    run.pipeline = pipeline({"stages": {"ppo": {"overrides": {"learning-rate": 1e-5}}}})
    assert run.run().phase == Phase.SUCCEEDED
    assert sorted(run.ran) == ["evaluateRlCai", "ppo", "report"]
    assert run.problems == []


@pytest.mark.parametrize("seed", range(6))
def test_a_spec_changed_while_it_runs_leaves_nothing_of_the_old_one(executor, pipeline, seed):
    run = executor(pipeline())
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 30)):
        run.reconcile()
        run.step(rng)
    run.pipeline = pipeline({"seed": 7})
    status = run.run(seed)
    assert run.problems == []
    assert status.phase == Phase.SUCCEEDED
    keys = {node.key for stage in status.stages for node in (stage.parts or (stage,))}
    assert {run.workloads[name].key for name in (*run.jobs, *run.servers)} <= keys


def test_the_old_model_is_served_until_the_new_one_is_there(executor, pipeline):
    run = executor(pipeline())
    run.run()
    old_key = run.servers["tiny-serve"].key
    run.pipeline = pipeline({"seed": 7})
    decision = run.reconcile()
    assert "tiny-serve" not in decision.delete
    assert run.status.stage("serve").state == State.RUNNING
    assert "earlier spec" in run.status.stage("serve").message
    assert run.status.phase == Phase.RUNNING
    run.run()
    assert run.servers["tiny-serve"].key not in (None, old_key)


def test_suspending_gives_everything_up_and_resuming_goes_on(executor, pipeline):
    run = executor(pipeline())
    rng = random.Random(3)
    for _ in range(12):
        run.reconcile()
        run.step(rng)
    done = {stage.name for stage in run.status.stages if stage.state == State.SUCCEEDED}
    assert done
    run.pipeline = pipeline({"suspend": True})
    run.reconcile()
    run.reconcile()
    assert run.servers == {}
    assert all(job.state == JobState.SUCCEEDED for job in run.jobs.values())
    assert run.status.phase == Phase.SUSPENDED
    assert conditions(run.status)["Suspended"] == ("True", "Asked")
    assert "Suspended" in states(run.status).values()
    ran = list(run.ran)
    run.pipeline = pipeline()
    assert run.run().phase == Phase.SUCCEEDED
    assert all(run.ran.count(node) == 1 for node in done if node in ALL_JOBS)
    assert len(run.ran) >= len(ran)


def test_a_finished_pipeline_can_be_suspended(executor, pipeline):
    run = executor(pipeline())
    run.run()
    run.pipeline = pipeline({"suspend": True})
    run.reconcile()
    assert run.servers == {}
    assert run.status.phase == Phase.SUSPENDED
    assert run.status.endpoint is None


@pytest.mark.parametrize(
    ("spec", "jobs", "served"),
    [
        ({"stages": {"ppo": {"enabled": False}}}, ALL_JOBS - {"ppo", "evaluateRlCai"}, "sft"),
        ({"stages": {"evaluate": {"enabled": False}}}, {job for job in ALL_JOBS if "evaluate" not in job}, "ppo"),
        (
            {"stages": {name: {"enabled": False} for name in ("rlData", "rewardModel", "ppo", "report")}},
            {"models", "datasets", "slData", "sft", "evaluateBase", "evaluateSlCai"},
            "sft",
        ),
        ({"stages": {name: {"enabled": False} for name in ("serve", "report")}}, ALL_JOBS - {"report"}, None),
    ],
)
def test_disabled_stages(executor, pipeline, spec, jobs, served):
    run = executor(pipeline(spec))
    status = run.run()
    assert set(run.ran) == jobs
    assert status.phase == Phase.SUCCEEDED
    off = {name for name, settings in spec["stages"].items() if not settings["enabled"]}
    assert {name for name, state in states(status).items() if state == "Disabled"} == off
    if served is None:
        assert run.servers == {}
    else:
        command = run.workloads["tiny-serve"].command
        assert f"/{served}/" in command[command.index("--model") + 1]


def test_metrics_of_all_three_models_stand_at_the_stage(executor, pipeline):
    metrics = {
        node: {"harmfulRate": rate, "helpfulRate": 0.5}
        for node, rate in (("evaluateBase", 0.9), ("evaluateSlCai", 0.2), ("evaluateRlCai", 0.1))
    }
    run = executor(pipeline(), metrics=metrics)
    stage = run.run().stage("evaluate")
    assert {name: rates["harmfulRate"] for name, rates in stage.metrics.items()} == {
        "base": 0.9,
        "slCai": 0.2,
        "rlCai": 0.1,
    }
    assert [part.name for part in stage.parts] == ["evaluateBase", "evaluateSlCai", "evaluateRlCai"]
    assert stage.started == min(part.started for part in stage.parts)
    assert stage.finished == max(part.finished for part in stage.parts)


def test_transition_times_move_only_with_the_status(executor, pipeline):
    run = executor(pipeline())
    run.reconcile()
    since = {condition.type: condition.last_transition_time for condition in run.status.conditions}
    run.run()
    later = {condition.type: condition for condition in run.status.conditions}
    assert later["Ready"].last_transition_time > since["Ready"]
    assert later["Degraded"].last_transition_time == since["Degraded"]
    assert later["Ready"].observed_generation == 1


def test_events_tell_every_transition_once(executor, pipeline):
    run = executor(pipeline())
    run.run()
    told = [(event.reason, event.node) for event in run.events]
    assert len(set(told)) == len(told)
    assert {node for reason, node in told if reason == "Succeeded"} == ALL_JOBS
    assert told[-1] == ("PipelineSucceeded", "") or ("PipelineSucceeded", "") in told


def test_the_nemo_engine_says_what_it_needs(executor, pipeline):
    from cai_operator.engines import EngineError

    run = executor(pipeline({"engine": "nemo"}))
    with pytest.raises(EngineError, match="the pocket model is for engine hf"):
        run.reconcile()


def test_a_status_document_comes_back_as_it_was(executor, pipeline):
    from cai_operator.api import parse_status

    run = executor(pipeline())
    run.run()
    assert parse_status(run.status.document()) == run.status
    assert parse_status({"phase": "Nonsense"}) == PipelineStatus()
