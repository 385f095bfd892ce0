"""The metrics endpoint of a real operator: what it says agrees with what happened."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.harness.fault_proxy import FaultProxy, Request
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Fail, Run, Succeed
from tests.harness.pipelines import short
from tests.harness.player import Player
from tests.harness.processes import free_port
from tests.harness.promql import Series, evaluate

from cai_operator.manifests.kinds import PIPELINE

ALERTS = Path(__file__).parents[3] / "charts" / "cai-operator" / "files" / "alerts.yaml"
JOBS = ("models", "datasets", "slData", "sft")
JUDGED = Succeed({"pairs": 6, "ties": 1, "undecided": 3, "tooFewCandidates": 2})


@pytest.fixture
def port() -> int:
    """A port nobody has."""
    return free_port()


class Endpoint:
    """The operator's metrics now: `endpoint("cai_pipelines", phase="Running")` sums what has these labels."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    def text(self) -> str:
        answer = httpx.get(self._url, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.text

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        found = text_string_to_metric_families(self.text())
        return [(one.name, dict(one.labels), one.value) for family in found for one in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        return total(self.samples(), name, **labels)

    def is_up(self) -> bool:
        try:
            return self("cai_leader") == 1
        except httpx.TransportError:
            return False


def total(samples: list[tuple[str, dict[str, str], float]], name: str, **labels: str) -> float:
    return sum(
        value for its_name, its_labels, value in samples if its_name == name and labels.items() <= its_labels.items()
    )


@pytest.fixture
def endpoint(port: int) -> Endpoint:
    return Endpoint(port)


@pytest.fixture
def start(
    make_operator: Callable[..., OperatorProcess], proxy: FaultProxy, port: int, endpoint: Endpoint
) -> Callable[..., OperatorProcess]:
    """Start an operator with the endpoint, and wait until it leads."""

    def go(identity: str = "own") -> OperatorProcess:
        process = make_operator(proxy.url, identity, CAI_METRICS_PORT=str(port))
        process.start()
        wait_for(endpoint.is_up, "the operator to lead")
        return process

    return go


def requests_by_kind(requests: list[Request]) -> dict[tuple[str, str, str], int]:
    counts: dict[tuple[str, str, str], int] = {}
    for one in requests:
        where = (one.verb, one.full_resource or "other", str(one.status))
        counts[where] = counts.get(where, 0) + 1
    return counts


def test_a_run_with_a_failure_is_counted_as_it_was(
    api: Api, player: Player, proxy: FaultProxy, start: Callable[..., OperatorProcess], endpoint: Endpoint
) -> None:
    proxy.answer(503, lambda r: r.verb == "patch" and r.resource == "jobs", times=2, reason="ServiceUnavailable")
    start()
    player.script("models", Fail(1, "the hub did not answer"))
    player.script("slData", Run())
    proxy.answer(
        200,
        lambda r: r.full_resource == "pods/log",
        text='{"progress": {"done": 17, "total": 192, '
        '"unit": "rows", "metrics": {"rows_per_s": 2.5, "judge_calls_per_s": 4}}}\n',
    )
    api.create(PIPELINE, short(spec={"stages": {"slData": {"server": {"gpus": 2}}}}))
    player.wait_for_running("slData")
    wait_for(lambda: endpoint("cai_gpu_seconds_total", stage="slData", state="working") > 0, "GPU-seconds to be told")
    wait_for(lambda: endpoint("cai_stage_progress_units", stage="slData", unit="rows") == 17, "progress to be told")
    now = endpoint.samples()
    mine = {"namespace": api.namespace}
    assert total(now, "cai_pipelines", phase="Running", engine="hf", **mine) == 1
    assert total(now, "cai_pipelines", **mine) == 1
    assert total(now, "cai_stages", stage="slData", state="Running", **mine) == 1
    assert total(now, "cai_gpus", stage="slData", state="working", engine="hf", **mine) == 2
    assert total(now, "cai_gpus", **mine) == 2
    run = {"pipeline": "short", "stage": "slData", **mine}
    assert total(now, "cai_stage_progress_expected_units", **run) == 192
    assert total(now, "cai_stage_units_per_second", unit="rows", **run) == 2.5
    assert total(now, "cai_stage_judge_calls_per_second", **run) == 4
    started = api.node("short", "slData")["started"]
    assert total(now, "cai_stage_started_timestamp_seconds", **run) == pytest.approx(_unix(started))

    player.end("slData", JUDGED)
    api.wait_for_phase("short", "Succeeded")
    wait_for(lambda: endpoint("cai_pipelines", phase="Succeeded", **mine) == 1, "the end to be told")
    ended = endpoint.samples()
    for job in JOBS:
        stage = {"stage": job, "engine": "hf"}
        assert total(ended, "cai_stages_finished_total", outcome="succeeded", **stage) == 1, job
        assert total(ended, "cai_stage_duration_seconds_count", outcome="succeeded", **stage) == 1, job
        assert total(ended, "cai_stage_attempts_total", **stage) == (2 if job == "models" else 1), job
        assert total(ended, "cai_stage_retries_total", **stage) == (1 if job == "models" else 0), job
        node = api.node("short", job)
        seconds = _unix(node["finished"]) - _unix(node["started"])
        assert total(ended, "cai_stage_duration_seconds_sum", **stage) == pytest.approx(seconds), job
    assert total(ended, "cai_stages_finished_total", outcome="failed") == 0
    assert total(ended, "cai_stage_started_timestamp_seconds", **mine) == 0
    assert total(ended, "cai_judge_decisions_total", stage="slData", outcome="undecided") == 3
    assert total(ended, "cai_judge_decisions_total", stage="slData", outcome="decided") == 7
    assert total(ended, "cai_reconciles_total", result="error") == 0
    looks = total(ended, "cai_reconciles_total")
    assert looks == total(ended, "cai_reconcile_duration_seconds_count")
    assert looks > 4

    assert total(ended, "cai_reconciles_total", result="unavailable") >= 1  # the two 503
    assert total(ended, "cai_gpus", **mine) == 0
    told = calls_both_count(proxy, endpoint)
    assert told["patch", "jobs", "503"] == 2
    assert told["watch", "caipipelines", "200"] >= 1
    assert told["list", "jobs", "200"] >= 1
    assert told["create", "events", "201"] >= 4
    assert total(ended, "cai_watch_age_seconds", resource="jobs") > 0

    api.delete(PIPELINE, "short")
    wait_for(lambda: endpoint("cai_pipelines", **mine) == 0, "the pipeline's figures to go")
    gone = endpoint.text()  # GPU-seconds stay: their labels name no pipeline
    assert f'namespace="{api.namespace}",pipeline=' not in gone
    assert 'pipeline="short"' not in gone


def calls_both_count(proxy: FaultProxy, endpoint: Endpoint) -> dict[tuple[str, str, str], int]:
    """Requests by verb, resource and code, once operator and proxy have counted the same."""

    def both() -> tuple[dict[tuple[str, str, str], int], dict[tuple[str, str, str], int]]:
        told = {
            (labels["verb"], labels["resource"], labels["code"]): int(value)
            for name, labels, value in endpoint.samples()
            if name == "cai_api_requests_total"
        }
        return told, requests_by_kind(list(proxy.requests))

    # the Lease is renewed meanwhile: at some moment nothing is under way
    told, _ = wait_for(both, "both to have counted the same", lambda pair: pair[0] == pair[1])
    return told


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_a_restart_counts_nothing_twice_and_loses_nothing(
    api: Api, player: Player, start: Callable[..., OperatorProcess], endpoint: Endpoint
) -> None:
    first = start()
    player.script("slData", Run())
    player.script("sft", Fail(2, "no rows"))
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    wait_for(lambda: endpoint("cai_stages", stage="slData", state="Running") == 1, "slData to be seen to run")
    before = {job: endpoint("cai_stages_finished_total", stage=job) for job in JOBS}
    first.kill()
    player.end("slData", JUDGED)  # it ends while nobody looks
    start()
    api.wait_for_phase("short", "Failed")
    wait_for(lambda: endpoint("cai_stages", stage="sft", state="Failed") == 1, "the failure to be told")
    after = endpoint.samples()
    counts = {job: before[job] + total(after, "cai_stages_finished_total", stage=job) for job in JOBS}
    assert counts == dict.fromkeys(JOBS, 1)
    assert total(after, "cai_stage_duration_seconds_count", stage="slData", outcome="succeeded") == 1
    assert total(after, "cai_stages_finished_total", stage="sft", outcome="failed") == 1
    assert total(after, "cai_stage_attempts_total", stage="models") == 0
    [where] = [labels for name, labels, _ in after if name == "cai_pipeline_degraded_timestamp_seconds"]
    assert where == {"namespace": api.namespace, "pipeline": "short", "reason": "StageFailed"}
    judged = {"namespace": api.namespace, "pipeline": "short", "stage": "slData"}  # 3 of 10 undecided
    assert alerts(after) == {"CAIStageFailed": [where], "CAIJudgeUndecided": [judged]}


def alerts(samples: list[tuple[str, dict[str, str], float]]) -> dict[str, list[dict[str, str]]]:
    """The shipped alerts whose expression holds for what was scraped now, and under which labels."""
    series, now = Series(), time.time()
    for name, labels, value in samples:
        series.add(name, labels, {now: value})
    rules = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8")) for rule in group["rules"]]
    found = {rule["alert"]: evaluate(rule["expr"], series, now) for rule in rules}
    return {
        name: [dict(key) for key in vector] for name, vector in found.items() if isinstance(vector, dict) and vector
    }


def test_only_the_holder_of_the_lease_tells_of_pipelines(
    api: Api,
    player: Player,
    start: Callable[..., OperatorProcess],
    endpoint: Endpoint,
    make_operator: Callable[..., OperatorProcess],
    proxy: FaultProxy,
) -> None:
    start("first")
    api.create(PIPELINE, short())
    api.wait_for_phase("short", "Succeeded")
    other_port = free_port()
    make_operator(proxy.url, "second", CAI_METRICS_PORT=str(other_port)).start()
    other = Endpoint(other_port)

    def watches() -> bool:
        try:
            return "cai_watch_age_seconds{" in other.text()
        except httpx.TransportError:
            return False

    wait_for(watches, "the second operator to watch")
    assert endpoint("cai_pipelines", phase="Succeeded") == 1
    assert other("cai_leader") == 0
    assert 'namespace="' not in other.text()


def test_a_port_that_is_taken_is_named_and_ends_the_operator(
    make_operator: Callable[..., OperatorProcess], proxy: FaultProxy, port: int
) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))
        taken.listen()
        process = make_operator(proxy.url, CAI_METRICS_PORT=str(port))
        process.start()
        wait_for(lambda: not process.is_running, "the operator to end")
    assert "CAI_METRICS_PORT" in process.log()
    assert "address already in use" in process.log()
