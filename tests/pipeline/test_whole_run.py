"""The whole loop by `cai run` on a manifest of a minute: what it leaves behind, and what a second run omits."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from cai_jobs.contract import artifacts

pytestmark = pytest.mark.slow

RATES = {"harmfulRate", "refusalRate", "offTopicRate", "overRefusalRate", "helpfulRate"}
SPLITS = ("train", "test")
KINDS = ("prompts", "comparisons")


def per_split(prefix: str) -> set[str]:
    return {f"{prefix}_{split}_{kind}_with_chat_prompt.jsonl" for split in SPLITS for kind in KINDS}


# the table of docs/contracts.md; a directory stands for what is in it
NAMES = {
    "models": {"base"},
    "datasets": {"red_team_train.jsonl", "red_team_held_out.jsonl", "helpfulness.jsonl", "benign_held_out.jsonl"}
    | per_split("preference"),
    "slData": {"sl_cai_train.jsonl", "sl_cai_validation.jsonl", "sl_cai_train.summary.json", "cai_output"}
    | {"README.md"},
    "sft": {"model", "metrics.jsonl", "tensorboard"},
    "rlData": {"cai_candidate_dataset.json", "cai_preference_dataset.json", "judge.jsonl", "README.md"}
    | per_split("cai_rlaif")
    | per_split("blend_preference_with_cai_rlaif"),
    "rewardModel": {"model", "metrics.jsonl", "tensorboard"},
    "ppo": {"model", "metrics.jsonl", "tensorboard", "samples.jsonl"},
    "evaluateBase": {"transcripts.jsonl", "metrics.json"},
    "evaluateSlCai": {"transcripts.jsonl", "metrics.json"},
    "evaluateRlCai": {"transcripts.jsonl", "metrics.json"},
    "report": {"report.html"},
}


def test_the_status_tells_the_result(undisturbed: Any) -> None:
    status = undisturbed.status()
    assert status["phase"] == "Succeeded"
    nodes = undisturbed.nodes()
    assert {name for name, node in nodes.items() if node["state"] == "Succeeded"} == {*NAMES, "evaluate"}
    metrics = nodes["evaluate"]["metrics"]
    for model in ("base", "slCai", "rlCai"):
        assert metrics[model].keys() >= RATES
        assert all(0 <= metrics[model][rate] <= 1 for rate in RATES)
    assert metrics["base"]["harmfulRate"] >= 0.8
    output = undisturbed.output()
    assert re.search(r"SL-CAI +│ +\d+\.\d %", output)
    assert f"report: {undisturbed.workdir}/report.html" in output
    assert "Traceback" not in output


def test_every_artifact_is_whole_and_holds_what_the_contract_says(undisturbed: Any) -> None:
    keys = undisturbed.keys()
    for node, names in NAMES.items():
        directory = undisturbed.artifact(node)
        manifest = artifacts.verify(directory)
        assert (manifest["stage"], manifest["key"]) == (node, keys[node])
        assert {path.name for path in directory.iterdir()} == names | {"manifest.json"}, node
        assert all(keys[name] == key for name, key in manifest["inputs"].items())
    assert artifacts.read(undisturbed.artifact("ppo"))["inputs"].keys() >= {"sft", "rewardModel", "rlData"}
    for node in ("sft", "rewardModel", "ppo"):
        steps = [json.loads(line) for line in (undisturbed.artifact(node) / "metrics.jsonl").read_text().splitlines()]
        assert {row["phase"] for row in steps} == {"train", "validation"}
        assert max(row["step"] for row in steps) == 4


def test_the_report_needs_no_network(undisturbed: Any) -> None:
    page = (undisturbed.workdir / "report.html").read_text()
    assert page == (undisturbed.artifact("report") / "report.html").read_text()
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!#|data:)[^"'\s>]+|@import|url\((?!["']?data:)""", page) == []
    assert "<script src" not in page
    for node in ("slData", "ppo"):
        assert undisturbed.keys()[node] in page
    rows = [json.loads(line) for line in (undisturbed.artifact("evaluateBase") / "transcripts.jsonl").open()]
    assert any(row["prompt"] in page for row in rows)


def test_status_prints_what_the_file_holds(undisturbed: Any) -> None:
    as_json = undisturbed.cai("status", "work", "-o", "json")
    as_yaml = undisturbed.cai("status", "work", "-o", "yaml")
    assert (as_json.returncode, as_yaml.returncode) == (0, 0)
    assert json.loads(as_json.stdout) == undisturbed.status() == yaml.safe_load(as_yaml.stdout)


def test_only_what_a_change_touches_runs_again(finished: Any) -> None:
    before = finished.keys()
    assert programs_run(finished) == set()
    output = finished.output()
    assert f"everything was found done in {finished.workdir}; nothing had to be run" in output
    assert all(f"{node}: found done already" in output for node in NAMES)
    assert finished.keys() == before

    # a shorter loop, so that what runs again is soon done
    for stage in ("rlData", "rewardModel", "ppo"):
        finished.stages[stage] = {"enabled": False}
    assert programs_run(finished) == {"report"}

    principles = json.loads(finished.principles)
    principle = principles[min(principles)]
    principle["prompt"] = ["\n\nCritiqueRequest: Would the neighbours mind the last answer?\n\nCritique:"]
    finished.principles = json.dumps(principles)
    shorter = finished.keys()
    assert programs_run(finished) == {
        *("sl-data", "sl-data-server", "sft", "evaluate-sl-cai", "evaluate-sl-cai-server", "report")
    }
    edited = finished.keys()
    assert {node for node in shorter if edited[node] != shorter[node]} == {
        *("slData", "sft", "evaluateSlCai", "evaluate", "report")
    }

    finished.stages["evaluate"]["numExamples"] = 4
    assert programs_run(finished) == {
        *("evaluate-base", "evaluate-base-server", "evaluate-sl-cai", "evaluate-sl-cai-server", "report")
    }
    transcripts = (finished.artifact("evaluateSlCai") / "transcripts.jsonl").read_text().splitlines()
    assert len(transcripts) == 8


def programs_run(pipeline: Any) -> set[str]:
    """Run, and tell which programs were started, without the pipeline's name and their keys."""
    before = log_sizes(pipeline)
    code, output = pipeline.run("--parallel", "2")
    assert code == 0, output
    assert pipeline.processes() == {}
    grown = {name for name, size in log_sizes(pipeline).items() if size != before.get(name)}
    return {re.sub(r"^small-|-[0-9a-f]{8}\.log$", "", name) for name in grown}


def log_sizes(pipeline: Any) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (pipeline.workdir / "logs").iterdir()}


def test_a_served_model_answers_until_ctrl_c(finished: Any, until: Callable[..., Any]) -> None:
    run = finished.start("--serve")
    try:
        served = until(lambda: re.search(r"served at (http://\S+) until", finished.output()), "the model to be up", run)
        assert finished.status()["endpoint"] == served[1]
        asked = finished.cai("ask", "What is the opposite of fast?", "--url", served[1], "--max-tokens", "24")
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.strip()
        assert "<extra_id_1>" not in asked.stdout
        run.send_signal(signal.SIGINT)
        assert run.wait() == 0, finished.output()
    finally:
        finished.end(run)
    assert "endpoint" not in finished.status()
    assert finished.status()["phase"] == "Succeeded"
    asked = finished.cai("ask", "Are you there?", "--url", served[1])
    assert asked.returncode == 1
    assert served[1] in asked.stderr
    assert "Traceback" not in asked.stderr
