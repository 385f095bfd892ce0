"""What stands in a pipeline's way: gates not met, texts that are not there, servers that do not come up."""

from __future__ import annotations

import random

import pytest

from cai_operator.api import Phase, PipelineStatus, State


def conditions(status: PipelineStatus) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


@pytest.mark.parametrize(
    ("gates", "problem"),
    [
        ({"maxHarmfulRate": 0.05}, "harmfulRate of rlCai is 0.1, above gates.maxHarmfulRate 0.05"),
        ({"minHelpfulRate": 0.95}, "helpfulRate of rlCai is 0.9, below gates.minHelpfulRate 0.95"),
    ],
)
def test_a_gate_that_is_not_met_fails_the_pipeline_and_serves_nothing(executor, pipeline, gates, problem):
    run = executor(pipeline({"stages": {"evaluate": {"gates": gates}}}))
    status = run.run()
    assert status.phase == Phase.FAILED
    assert status.stage("evaluate").state == State.FAILED
    assert status.stage("evaluate").message == problem
    assert conditions(status)["Degraded"] == ("True", "GateNotMet")
    assert run.servers == {}
    assert status.stage("serve").message == f"not served: {problem}"
    assert status.stage("report").state == State.SUCCEEDED
    assert [event.reason for event in run.events if event.type == "Warning"] == ["GateNotMet", "PipelineFailed"]
    assert run.problems == []


def test_with_gates_that_are_met_serving_waits_for_the_evaluation(executor, pipeline):
    run = executor(pipeline({"stages": {"evaluate": {"gates": {"maxHarmfulRate": 0.2}}}}))
    assert run.run(2).phase == Phase.SUCCEEDED
    order = [event.node for event in run.events if event.reason in ("Succeeded", "Starting")]
    assert order.index("serve") > len(order) - 1 - order[::-1].index("evaluateRlCai")


def test_without_gates_serving_does_not_wait_for_the_evaluation(executor, pipeline):
    run = executor(pipeline(), capacity=1)
    run.run(2)
    order = [(event.reason, event.node) for event in run.events]
    assert order.index(("Running", "serve")) < order.index(("Succeeded", "evaluateBase"))


def test_a_missing_config_map_is_waited_for_and_named(executor, pipeline):
    run = executor(pipeline({"constitution": {"configMap": {"name": "mine"}}}))
    status = run.run()
    assert status.phase == Phase.RUNNING
    assert status.stage("slData").message == "ConfigMap mine, the constitution, does not exist"
    assert conditions(status)["Degraded"] == ("True", "TextMissing")
    assert set(run.ran) == {"models", "datasets", "evaluateBase"}
    run.texts = {"configMap/mine": {"judge_system_prompt.txt": "Prefer the kinder answer."}}
    assert run.run().phase == Phase.SUCCEEDED
    assert run.problems == []


def test_a_config_map_that_vanishes_stops_nothing(executor, pipeline):
    texts = {"configMap/mine": {"judge_system_prompt.txt": "Prefer the kinder answer."}}
    run = executor(pipeline({"constitution": {"configMap": {"name": "mine"}}}), texts=texts, capacity=1)
    while not any("-sft-" in name for name in run.jobs):
        run.reconcile()
        run.step(random.Random(0))
    job = next(name for name in run.jobs if "-sft-" in name)
    run.start(job)
    run.reconcile()
    run.texts = {}
    decision = run.reconcile()
    assert job not in decision.delete
    assert run.status.stage("sft").state == State.RUNNING
    run.texts = texts
    assert run.run().phase == Phase.SUCCEEDED
    assert run.ran.count("sft") == 1


def test_a_server_given_up_fails_its_node(executor, pipeline):
    from dataclasses import replace

    run = executor(pipeline(), capacity=1)
    while not run.servers:
        run.reconcile()
        run.step(random.Random(0))
    [name] = run.servers
    run.servers[name] = replace(run.servers[name], ready=False, failed=True, problem="the port is in use")
    run.reconcile()
    assert run.status.stage("slData").state == State.FAILED
    assert "the port is in use" in run.status.stage("slData").message
    run.reconcile()
    assert run.servers == {} or name not in run.servers
    assert run.status.stage("slData").state == State.FAILED


def test_a_server_with_a_problem_is_waited_for(executor, pipeline):
    from dataclasses import replace

    run = executor(pipeline(), capacity=1)
    while not run.servers:
        run.reconcile()
        run.step(random.Random(0))
    [name] = run.servers
    run.servers[name] = replace(run.servers[name], problem="the image cannot be pulled")
    run.reconcile()
    assert run.status.stage("slData").state == State.STARTING
    assert run.status.stage("slData").message == f"{name}: the image cannot be pulled"
