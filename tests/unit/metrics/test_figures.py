"""Figures of pipelines as they are: from the resources and their pods alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cai_operator import names
from cai_operator.metrics.catalogue import BY_NAME
from cai_operator.metrics.figures import Figures
from cai_operator.status import Phase

SINCE = "2026-01-01T11:00:00Z"
DEGRADED_AT = datetime.fromisoformat(SINCE).timestamp()


def resource(name: str = "tiny", namespace: str = "lab", engine: str = "hf", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"engine": engine},
        **({"status": status} if status else {}),
    }


def node(name: str, state: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, **more}


def figures(*documents: dict[str, Any], pods: tuple[dict[str, Any], ...] = ()) -> dict[str, dict[Any, float]]:
    found = Figures()
    for document in documents:
        found.add(document, pods)
    return {name: dict(values) for name, values in found.samples().items()}


def test_pipelines_are_counted_by_phase_and_every_phase_is_there() -> None:
    found = figures(resource("a", phase="Running"), resource("b", phase="Running"), resource("c", engine="nemo"))
    counts = found["cai_pipelines"]
    assert counts["lab", "hf", "Running"] == 2
    assert counts["lab", "nemo", "Pending"] == 1  # one without a status yet
    assert counts["lab", "nemo", "Succeeded"] == 0
    assert len(counts) == 2 * len(Phase)
    assert sum(counts.values()) == 3


def test_a_part_of_evaluation_counts_by_itself_and_what_is_off_not_at_all() -> None:
    parts = [node("evaluateBase", "Succeeded"), node("evaluateSlCai", "Running")]
    stages = [node("models", "Succeeded"), node("evaluate", "Running", parts=parts), node("ppo", "Disabled")]
    found = figures(resource(phase="Running", stages=stages))["cai_stages"]
    assert found == {
        ("lab", "hf", "models", "Succeeded"): 1,
        ("lab", "hf", "evaluateBase", "Succeeded"): 1,
        ("lab", "hf", "evaluateSlCai", "Running"): 1,
    }


def test_trouble_is_named_with_its_reason_and_its_time() -> None:
    def condition(status: str) -> list[dict[str, str]]:
        return [{"type": "Degraded", "status": status, "reason": "StageFailed", "lastTransitionTime": SINCE}]

    found = figures(resource("ill", conditions=condition("True")), resource("well", conditions=condition("False")))
    assert found["cai_pipeline_degraded_timestamp_seconds"] == {("lab", "ill", "StageFailed"): DEGRADED_AT}


def test_only_what_runs_has_progress() -> None:
    progress = {
        "done": 17,
        "total": 192,
        "unit": "rows",
        "metrics": {"rows_per_s": 2.5, "judge_calls_per_s": 4, "retries": 0},
    }
    stages = [
        node("rlData", "Running", started=SINCE, progress=progress),
        node("sft", "Succeeded", started=SINCE, progress=progress),
        node("models", "Running", started=SINCE),
    ]
    found = figures(resource(phase="Running", stages=stages))
    run = ("lab", "tiny", "rlData")
    assert found["cai_stage_started_timestamp_seconds"] == {run: DEGRADED_AT, ("lab", "tiny", "models"): DEGRADED_AT}
    assert found["cai_stage_progress_units"] == {(*run, "rows"): 17}
    assert found["cai_stage_progress_expected_units"] == {(*run, "rows"): 192}
    assert found["cai_stage_units_per_second"] == {(*run, "rows"): 2.5}
    assert found["cai_stage_judge_calls_per_second"] == {run: 4}


def test_progress_of_any_form_does_no_harm() -> None:
    progress = {"done": True, "total": None, "unit": 'x"} 1\nevil', "metrics": {"judge_calls_per_s": "many"}}
    stages = [node("sft", "Running", progress=progress), node("unheard of", "Running"), {"state": "Running"}]
    found = figures(resource(phase="Running", stages=stages), {"metadata": {}, "spec": None, "status": "lost"})
    assert "cai_stage_progress_units" not in found
    assert "cai_stage_judge_calls_per_second" not in found
    unit = {"done": 3, "unit": 'x"} 1\nevil'}
    found = figures(resource(stages=[node("sft", "Running", progress=unit)]))
    assert found["cai_stage_progress_units"] == {("lab", "tiny", "sft", "other"): 3}


def test_undecided_judgements_are_told_until_the_pipeline_has_succeeded() -> None:
    comparisons = {"pairs": 6, "ties": 1, "undecided": 3, "tooFewCandidates": 2}
    labels = {
        "classifier": "judge",
        "counts": {
            "redTeam": {"prompts": 10, "unlabelled": 1, "compared": 8, "undecided": 2},
            "benign": {"prompts": 10, "unlabelled": 0},
        },
    }
    by_rule = {**labels, "classifier": "rule"}
    stages = [
        node("rlData", "Succeeded", metrics=comparisons),
        node(
            "evaluate",
            "Running",
            parts=[
                node("evaluateBase", "Succeeded", metrics=labels),
                node("evaluateSlCai", "Succeeded", metrics=by_rule),
            ],
        ),
    ]
    found = figures(resource(phase="Running", stages=stages))["cai_stage_undecided_ratio"]
    assert found == {("lab", "tiny", "rlData"): 0.3, ("lab", "tiny", "evaluateBase"): 0.1}
    assert "cai_stage_undecided_ratio" not in figures(resource(phase="Succeeded", stages=stages))


def test_labels_are_those_of_the_catalogue() -> None:
    progress = {"done": 1, "total": 2, "unit": "rows", "metrics": {"rows_per_s": 1, "judge_calls_per_s": 1}}
    condition = {"type": "Degraded", "status": "True", "reason": "X", "lastTransitionTime": SINCE}
    stages = [
        node("rlData", "Running", started=SINCE, progress=progress),
        node("sft", "Succeeded", metrics={"pairs": 1}),
    ]
    pod = {
        "metadata": {"uid": "1", "labels": {names.NODE_LABEL: "sft", names.KIND_LABEL: "job"}},
        "spec": {"containers": [{"name": "program", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
    }
    found = figures(resource(phase="Running", stages=stages, conditions=[condition]), pods=(pod,))
    leaders_own = {name for name, family in BY_NAME.items() if family.scope == "leader, now"}
    assert set(found) == leaders_own
    assert all(len(labels) == len(BY_NAME[name].labels) for name, values in found.items() for labels in values)
