"""Alerts, their pages and the dashboard: they ask for what the operator exposes, and alerts fire when they should."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from tests.harness.promql import Series, firing, labels_used, selectors

from cai_operator.metrics.catalogue import BY_NAME, FAMILIES, PROCESS, Kind

ROOT = Path(__file__).parents[3]
FILES = ROOT / "charts" / "cai-operator" / "files"
RUNBOOKS = ROOT / "docs" / "runbooks"
GROUPS: list[dict[str, Any]] = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_THE_SCRAPE = {"namespace", "job", "instance", "pod"}
MINUTE = 60.0
HOUR = 60 * MINUTE


def exposed_labels() -> dict[str, set[str]]:
    """Every name a sample has, and its labels."""
    found: dict[str, set[str]] = {name: set() for name in PROCESS}
    for one in FAMILIES:
        if one.kind == Kind.HISTOGRAM:
            found |= {f"{one.name}_{part}": set(one.labels) for part in ("sum", "count")}
            found[f"{one.name}_bucket"] = {*one.labels, "le"}
        else:
            found[one.name] = set(one.labels)
    return found


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1d")
            yield panel["title"], query


QUERIES = [(name, rule["expr"]) for name, rule in ALERTS.items()] + list(dashboard_queries())


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_every_query_asks_for_metrics_and_labels_there_are(where: str, query: str) -> None:
    expression, exposed = promql.parse(query), exposed_labels()
    asked = list(selectors(expression))
    assert asked
    there: set[str] = set()
    for selector in asked:
        assert selector.name in exposed, f"{selector.name} is not exposed"
        there |= exposed[selector.name] | OF_THE_SCRAPE
        wrong = {one.name for one in selector.matchers.matchers} - exposed[selector.name] - OF_THE_SCRAPE
        assert not wrong, f"{selector.name} has no labels {wrong}"
    assert labels_used(expression) <= there


@pytest.mark.parametrize("rule", ALERTS.values(), ids=ALERTS)
def test_values_that_alerts_look_for_are_such_as_are_told(rule: Mapping[str, Any]) -> None:
    """A matcher for a state or result nobody ever tells would never match."""
    told = {
        "state": {"pending", "starting", "idle", "working"},
        "result": {"ok", "unavailable", "refused", "overtaken", "error"},
        "code": {"200", "401", "403", "429", "500", "503", "none"},
        "reason": {"StageFailed", "GateNotMet", "ImagePullFailed"},
    }
    for selector in selectors(promql.parse(rule["expr"])):
        for one in selector.matchers.matchers:
            for value in one.value.split("|"):
                assert any(re.fullmatch(value, known) for known in told[one.name]), f"{one.name}={value}"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_is_about(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    assert re.fullmatch(r"CAI[A-Za-z]+", name)
    # a label in a sentence that the alert does not have would leave a hole
    expression = promql.parse(rule["expr"])
    used = labels_used(expression) or {
        label for selector in selectors(expression) for label in exposed_labels()[selector.name]
    }
    text = json.dumps(rule["annotations"])
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= used


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(ALERTS)
    for name, rule in ALERTS.items():
        text = (ROOT / rule["annotations"]["runbook_url"]).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert headings == [name, "Impact", "Look", "Mend"], name
        assert "$ kubectl" in text or "$ cai" in text, f"{name} has no command"


def test_queries_and_links_in_the_pages_hold() -> None:
    exposed = {*exposed_labels(), *BY_NAME}
    for path in [*RUNBOOKS.glob("*.md"), ROOT / "docs" / "metrics.md"]:
        text = path.read_text(encoding="utf-8")
        for code in re.findall(r"`([^`\n]*cai_[^`\n]*)`", text):
            if not code.startswith("/"):
                for selector in selectors(promql.parse(code)):
                    assert selector.name in exposed, f"{path.name}: {code}"
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_page_of_metrics_lists_the_alerts() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\)", text, re.MULTILINE) == list(ALERTS)


def test_panels_do_not_lie_upon_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies upon {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


# Whether they fire: series in, alerts out, as Prometheus' own tests of rules have it.

SCRAPE = {"namespace": "cai-system", "job": "cai-operator", "pod": "op-1"}
RUN = {"namespace": "lab", "pipeline": "tiny", "stage": "sft"}


def steady(value: float, until: float = 2 * HOUR, begin: float = 0.0) -> dict[float, float]:
    return {begin + MINUTE * place: value for place in range(int((until - begin) / MINUTE) + 1)}


def rising(per_minute: float, until: float = 2 * HOUR, begin: float = 0.0) -> dict[float, float]:
    return {moment: per_minute * (moment - begin) / MINUTE for moment in steady(0, until, begin)}


def fired(name: str, *series: tuple[str, Mapping[str, str], Mapping[float, float]], at: float = 2 * HOUR) -> Any:
    found = Series()
    for metric, labels, samples in series:
        assert set(labels) <= exposed_labels()[metric] | OF_THE_SCRAPE, metric
        found.add(metric, labels, samples)
    return firing(ALERTS[name], found, at)


def test_operator_down() -> None:
    assert fired("CAIOperatorDown", ("cai_leader", SCRAPE, steady(1, until=HOUR)), at=HOUR) == []
    gone = ("cai_leader", SCRAPE, steady(1, until=HOUR))
    assert fired("CAIOperatorDown", gone, at=HOUR + 9 * MINUTE) == []  # five until it is stale, five until it fires
    assert fired("CAIOperatorDown", gone, at=HOUR + 11 * MINUTE) == [{}]


def test_operator_not_leading() -> None:
    waits = ("cai_leader", {**SCRAPE, "pod": "op-2"}, steady(0))
    assert fired("CAIOperatorNotLeading", ("cai_leader", SCRAPE, steady(1)), waits) == []
    assert fired("CAIOperatorNotLeading", waits) == [{"namespace": "cai-system", "job": "cai-operator"}]
    taking_over = ("cai_leader", SCRAPE, {**steady(1), 119 * MINUTE: 0, 120 * MINUTE: 0})
    assert fired("CAIOperatorNotLeading", taking_over) == []


def test_reconcile_errors() -> None:
    ok = ("cai_reconciles_total", {**SCRAPE, "result": "ok"}, rising(30))
    away = ("cai_reconciles_total", {**SCRAPE, "result": "unavailable"}, rising(5))
    none = ("cai_reconciles_total", {**SCRAPE, "result": "error"}, steady(0))
    assert fired("CAIReconcileErrors", ok, away, none) == []
    some = {moment: 0.0 if moment < 110 * MINUTE else 2.0 for moment in steady(0)}
    assert len(fired("CAIReconcileErrors", ok, ("cai_reconciles_total", {**SCRAPE, "result": "error"}, some))) == 1


def requests(code: str, per_minute: float) -> tuple[str, Mapping[str, str], Mapping[float, float]]:
    labels = {**SCRAPE, "verb": "get", "resource": "jobs", "code": code}
    return "cai_api_requests_total", labels, rising(per_minute)


def test_api_errors() -> None:
    assert fired("CAIAPIErrors", requests("200", 100), requests("503", 5), requests("404", 50)) == []
    assert len(fired("CAIAPIErrors", requests("200", 100), requests("503", 20))) == 1
    assert len(fired("CAIAPIErrors", requests("200", 10), requests("none", 2))) == 1


def test_api_forbidden() -> None:
    assert fired("CAIAPIForbidden", requests("200", 100), requests("404", 5)) == []
    [found] = fired("CAIAPIForbidden", requests("200", 100), requests("403", 1))
    assert (found["verb"], found["resource"]) == ("get", "jobs")
    once = (*requests("403", 0)[:2], {moment: float(moment > HOUR) for moment in steady(0)})
    assert fired("CAIAPIForbidden", once) == []


def test_queue_stuck() -> None:
    assert fired("CAIQueueStuck", ("cai_queue_oldest_wait_seconds", SCRAPE, steady(20))) == []
    assert len(fired("CAIQueueStuck", ("cai_queue_oldest_wait_seconds", SCRAPE, steady(200)))) == 1


def test_watch_stale() -> None:
    renewed = {moment: moment % (4 * MINUTE) for moment in steady(0)}
    assert fired("CAIWatchStale", ("cai_watch_age_seconds", {**SCRAPE, "resource": "jobs"}, renewed)) == []
    [found] = fired("CAIWatchStale", ("cai_watch_age_seconds", {**SCRAPE, "resource": "jobs"}, rising(MINUTE)))
    assert found["resource"] == "jobs"


def degraded(reason: str, since: float) -> tuple[str, Mapping[str, str], Mapping[float, float]]:
    labels = {"namespace": "lab", "pipeline": "tiny", "reason": reason}
    return "cai_pipeline_degraded_timestamp_seconds", labels, steady(since, begin=HOUR)


@pytest.mark.parametrize(
    ("reason", "minutes", "alert"),
    [
        ("StageFailed", 5, "CAIStageFailed"),
        ("GateNotMet", 5, "CAIGateNotMet"),
        ("ImagePullFailed", 5, None),
        ("ImagePullFailed", 16, "CAIPipelineDegraded"),
        ("SpecInvalid", 16, "CAIPipelineDegraded"),
        ("StageFailed", 60, "CAIStageFailed"),
    ],
)
def test_trouble_of_a_pipeline(reason: str, minutes: float, alert: str | None) -> None:
    series = degraded(reason, since=2 * HOUR - minutes * MINUTE)
    names = ("CAIStageFailed", "CAIGateNotMet", "CAIPipelineDegraded")
    found = {name: fired(name, series) for name in names}
    assert {name for name in names if found[name]} == ({alert} if alert else set())
    if alert:
        assert found[alert][0] == {"namespace": "lab", "pipeline": "tiny", "reason": reason}


def test_a_restarted_operator_does_not_make_the_trouble_look_young() -> None:
    name, labels, _ = degraded("ImagePullFailed", 0)
    before = (name, {**labels, "pod": "op-1"}, steady(HOUR, until=115 * MINUTE, begin=HOUR))
    after = (name, {**labels, "pod": "op-2"}, steady(HOUR, begin=116 * MINUTE))
    assert fired("CAIPipelineDegraded", before, after) == [labels]


def test_no_progress() -> None:
    units = "cai_stage_progress_units"
    assert fired("CAIStageNoProgress", (units, {**RUN, "unit": "steps"}, rising(0.2))) == []
    assert fired("CAIStageNoProgress", (units, {**RUN, "unit": "steps"}, steady(17))) == [RUN]
    stopped = {moment: min(moment, 90 * MINUTE) for moment in steady(0)}
    assert fired("CAIStageNoProgress", (units, {**RUN, "unit": "steps"}, stopped)) == []
    # the operator's restart makes a new series of it: neither a reason to fire nor to forget
    first = (units, {**RUN, "unit": "steps", "pod": "op-1"}, steady(17, until=HOUR))
    second = (units, {**RUN, "unit": "steps", "pod": "op-2"}, steady(17, begin=HOUR))
    assert fired("CAIStageNoProgress", first, second) == [RUN]


def test_judge_undecided() -> None:
    assert fired("CAIJudgeUndecided", ("cai_stage_undecided_ratio", RUN, steady(0.1))) == []
    assert fired("CAIJudgeUndecided", ("cai_stage_undecided_ratio", RUN, steady(0.3))) == [RUN]


def gpu_seconds(state: str, per_minute: float) -> tuple[str, Mapping[str, str], Mapping[float, float]]:
    labels = {"namespace": "lab", "engine": "hf", "stage": "slData", "state": state}
    return "cai_gpu_seconds_total", labels, rising(per_minute)


def test_gpus_not_working() -> None:
    name, one = "CAIGPUsNotWorking", 60  # one GPU
    assert fired(name, gpu_seconds("working", 8 * one), gpu_seconds("starting", one)) == []
    assert fired(name, gpu_seconds("working", one), gpu_seconds("idle", 8 * one)) == [{"namespace": "lab"}]
    assert fired(name, gpu_seconds("working", 0), gpu_seconds("idle", one / 4)) == []  # a quarter of an hour


def test_every_alert_was_tried() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in ALERTS if f'"{name}"' not in source] == []
