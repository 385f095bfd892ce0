"""The registry and its endpoint: what Prometheus is given."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import kopf
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cai_operator import __version__
from cai_operator.kopf_session import CountedSession
from cai_operator.metrics import catalogue, endpoint
from cai_operator.metrics.api_calls import described
from cai_operator.metrics.catalogue import FAMILIES, PROCESS, Kind
from cai_operator.metrics.happened import Happened
from cai_operator.metrics.recorder import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def exposed(metrics: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Name of a sample -> labels -> value."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in metrics.registry.collect():
        for one in family.samples:
            found.setdefault(one.name, {})[tuple(sorted(one.labels.items()))] = one.value
    return found


def test_everything_in_the_catalogue_is_exposed_under_its_name_and_type_and_nothing_else() -> None:
    metrics = Metrics()
    families = {family.name: family.type for family in metrics.registry.collect()}
    for one in FAMILIES:
        name = one.name.removesuffix("_total") if one.kind == Kind.COUNTER else one.name
        assert families.pop(name) == one.kind, one.name
    assert set(families) == {name.removesuffix("_total") for name in PROCESS}
    metrics.show({}, ["hf", "nemo"])
    assert not [name for name in exposed(metrics) if name.endswith("_created")]


@pytest.mark.parametrize("one", FAMILIES, ids=lambda one: one.name)
def test_names_follow_the_conventions(one: catalogue.Family) -> None:
    assert re.fullmatch(r"cai_[a-z_]+", one.name)
    assert one.name.endswith("_total") == (one.kind == Kind.COUNTER)
    assert one.kind != Kind.HISTOGRAM or one.name.endswith("_seconds")
    assert not {"le", "node", "job", "instance", "pod"} & set(one.labels), "Prometheus or the scrape has these"
    assert one.means.endswith(".")


def test_the_page_has_the_table_of_the_catalogue() -> None:
    assert catalogue.table() in PAGE.read_text(encoding="utf-8"), (
        "docs/metrics.md is not up to date: python -m cai_operator.metrics docs/metrics.md"
    )


def test_counters_of_an_engine_begin_at_nought_before_anything_happened() -> None:
    metrics = Metrics()
    assert "cai_stage_attempts_total" not in exposed(metrics)
    metrics.show({}, ["hf"])
    found = exposed(metrics)
    assert set(found["cai_stages_finished_total"].values()) == {0}
    assert found["cai_stages_finished_total"][("engine", "hf"), ("outcome", "failed"), ("stage", "sft")] == 0
    assert found["cai_stage_duration_seconds_count"][("engine", "hf"), ("outcome", "failed"), ("stage", "sft")] == 0
    assert not any(dict(labels)["stage"] == "serve" for labels in found["cai_stage_attempts_total"])


def test_what_happened_adds_up() -> None:
    metrics = Metrics()
    for seconds in (90, 30):
        metrics.add([Happened("cai_stage_duration_seconds", ("hf", "sft", "succeeded"), seconds)])
    metrics.add([Happened("cai_stage_attempts_total", ("hf", "sft"), 3)])
    where = (("engine", "hf"), ("outcome", "succeeded"), ("stage", "sft"))
    found = exposed(metrics)
    assert found["cai_stage_duration_seconds_sum"][where] == 120
    assert found["cai_stage_duration_seconds_count"][where] == 2
    assert found["cai_stage_duration_seconds_bucket"][(*where[:1], ("le", "60.0"), *where[1:])] == 1
    assert found["cai_stage_attempts_total"][("engine", "hf"), ("stage", "sft")] == 3


def test_figures_go_when_they_are_gone() -> None:
    metrics = Metrics()
    metrics.show({"cai_pipelines": {("lab", "hf", "Running"): 2.0}})
    assert exposed(metrics)["cai_pipelines"] == {(("engine", "hf"), ("namespace", "lab"), ("phase", "Running")): 2.0}
    metrics.show({})
    assert "cai_pipelines" not in exposed(metrics)


def test_the_age_of_a_watch_is_that_of_the_oldest_of_several_namespaces() -> None:
    now = 100.0
    metrics = Metrics(clock=lambda: now)
    jobs = "/apis/batch/v1/namespaces/{}/jobs"
    metrics.answered("GET", jobs.format("a"), 200, 0.1, is_watch=True)
    now = 160.0
    metrics.answered("GET", jobs.format("b"), 200, 0.1, is_watch=True)
    metrics.answered("GET", jobs.format("a"), 410, 0.1, is_watch=True)  # refused: it is not open
    now = 170.0
    found = exposed(metrics)
    assert found["cai_watch_age_seconds"] == {(("resource", "jobs"),): 70.0}
    now = 180.0
    metrics.answered("GET", jobs.format("a"), 200, 0.1, is_watch=True)
    assert exposed(metrics)["cai_watch_age_seconds"] == {(("resource", "jobs"),): 20.0}
    calls = exposed(metrics)["cai_api_requests_total"]
    assert calls[("code", "200"), ("resource", "jobs"), ("verb", "watch")] == 3
    assert calls[("code", "410"), ("resource", "jobs"), ("verb", "watch")] == 1


def test_a_request_without_an_answer_counts() -> None:
    metrics = Metrics()
    metrics.answered("PATCH", "/apis/cai.dev/v1alpha1/namespaces/lab/caipipelines/tiny/status", None, 30.0)
    [labels] = exposed(metrics)["cai_api_requests_total"]
    assert labels == (("code", "none"), ("resource", "caipipelines/status"), ("verb", "patch"))


@pytest.mark.parametrize(
    ("method", "path", "verb", "resource"),
    [
        ("GET", "/api/v1/namespaces/lab/pods/p-1/log", "get", "pods/log"),
        ("GET", "/apis/batch/v1/jobs", "list", "jobs"),
        ("GET", "/apis/batch/v1/namespaces/lab/jobs", "list", "jobs"),
        ("PATCH", "/apis/apps/v1/namespaces/lab/deployments/d", "patch", "deployments"),
        ("POST", "/api/v1/namespaces/lab/events", "create", "events"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/s/leases/cai-operator", "update", "leases"),
        ("DELETE", "/api/v1/namespaces/lab/services/s", "delete", "services"),
        ("GET", "/apis/cai.dev/v1alpha1", "get", "other"),
        ("GET", "/api/v1", "get", "other"),
        ("GET", "/version", "get", "other"),
        ("GET", "/api/v1/namespaces/lab", "get", "namespaces"),
    ],
)
def test_requests_in_the_words_of_roles(method: str, path: str, verb: str, resource: str) -> None:
    assert described(method, path)[:2] == (verb, resource)


def test_a_watch_is_a_list_that_goes_on() -> None:
    assert described("GET", "/api/v1/namespaces/lab/pods", is_watch=True) == ("watch", "pods", "lab")


def test_the_endpoint_refreshes_before_it_answers() -> None:
    metrics, refreshed = Metrics(), []

    async def refresh() -> None:
        refreshed.append(1)
        metrics.show({"cai_pipelines": {("lab", "hf", "Running"): float(len(refreshed))}})

    async def ask() -> Iterable[str]:
        runner = await endpoint.serve(0, metrics, refresh)
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session:
            texts = []
            for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
                async with session.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept}) as answer:
                    assert answer.status == 200
                    texts.append(f"{answer.headers['Content-Type']}\n{await answer.text()}")
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                assert answer.status == 404
        with pytest.raises(OSError, match="address already in use"):
            await endpoint.serve(port, metrics, refresh)
        await runner.cleanup()
        return texts

    plain, openmetrics = asyncio.run(ask())
    assert openmetrics.startswith("application/openmetrics-text")
    assert openmetrics.rstrip().endswith("# EOF")
    _, _, text = plain.partition("\n")
    values = {
        (one.name, *sorted(one.labels.values())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert values["cai_pipelines", "Running", "hf", "lab"] == 1
    assert values["cai_build_info", __version__] == 1
    assert len(refreshed) == 2


def test_credentials_that_were_refused_are_known_again() -> None:
    def session(token: str) -> CountedSession:
        return CountedSession(kopf.ConnectionInfo(server="https://api", token=token), lambda *_: None)

    assert session("a") == session("a")
    assert session("a") != session("b")
    assert session("a").server == "https://api"
    assert "secret" not in repr(session("secret"))
