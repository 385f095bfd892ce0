from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from cai_operator import live_view
from cai_operator.live_view import LiveView, PlainView, duration
from cai_operator.results_view import copy_report, print_results
from cai_operator.status import parse_status

START, END = "2026-01-01T10:00:00Z", "2026-01-01T10:01:05Z"


def status(*stages, **fields):
    return parse_status({"phase": "Running", "stages": list(stages), **fields})


def stage(name, state, **fields):
    return {"name": name, "state": state, **fields}


def console():
    return Console(file=io.StringIO(), width=110)


def lines(view_console):
    return [line[9:] for line in view_console.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text


def test_plain_view_says_each_transition_once():
    out = console()
    view = PlainView(out)
    waiting = status(stage("models", "Waiting"), stage("sft", "Waiting"))
    running = status(stage("models", "Starting"), stage("sft", "Waiting", message="waits for models"))
    failed = status(
        stage("models", "Succeeded", started=START, finished=END, metrics={"rows": 3}),
        stage("sft", "Failed", message="f.jsonl:7: not JSON", log="/logs/sft.log"),
    )
    for seen in (waiting, running, running, failed, failed):
        view.show(seen, {"models": [False]} if seen is running else {})
    assert lines(out) == [
        "models: starting its server",
        "models: done in 1 min 5 s, rows 3",
        "sft: failed: f.jsonl:7: not JSON (log: /logs/sft.log)",
    ]


def test_plain_view_says_what_was_found_done():
    out = console()
    PlainView(out).show(status(stage("models", "Succeeded", started=START, finished=END)), {})
    assert lines(out) == ["models: found done already"]


def test_plain_view_says_progress_at_most_every_15_seconds(monkeypatch):
    clock = iter(range(1000, 2000, 5))  # a look every five seconds
    monkeypatch.setattr(live_view.time, "monotonic", lambda: next(clock))
    out = console()
    view = PlainView(out)
    for done in range(8):
        progress = {"done": done, "total": 400, "unit": "steps", "etaSeconds": 30, "metrics": {"loss": 1.23456}}
        view.show(status(stage("sft", "Running", attempts=1, progress=progress)), {"sft": [True]})
    said = lines(out)
    assert said[0] == "sft: running"
    assert said[1].endswith(" of 400 steps, about 30 s left, loss 1.235; 1 server up")
    assert 2 <= len(said) <= 4


def test_plain_view_tells_a_further_attempt_and_why():
    out = console()
    view = PlainView(out)
    view.show(status(stage("sft", "Running", attempts=1)), {})
    view.show(status(stage("sft", "Running", attempts=2, message="the hub is away")), {})
    assert lines(out) == ["sft: running", "sft: attempt 2: the hub is away"]


def test_live_view_shows_stage_bar_eta_figures_and_servers():
    out = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    progress = {"done": 10, "total": 40, "unit": "rows", "etaSeconds": 90, "metrics": {"loss": 0.5}}
    seen = status(
        stage("models", "Succeeded", started=START, finished=END),
        stage("evaluate", "Running", attempts=2, progress=progress),
        stage("serve", "Disabled"),
        progress="1/3",
    )
    with LiveView(out, "pocket") as view:
        view.say("a sentence with [brackets]")
        view.show(seen, {"evaluateBase": [True], "evaluateSlCai": [False]})
    text = out.file.getvalue()
    assert "a sentence with [brackets]" in text
    assert "pocket: Running, 1/3 stages" in text
    assert "1 min 5 s" in text
    assert "━" in text
    assert "try 2; 10/40 rows, 1 min 30 s left, loss 0.5; 2 servers starting" in text
    assert "serve " not in text


def evaluated(tmp_path):
    parts = []
    for node, answer in (
        ("evaluateBase", "[Sure], do it."),
        ("evaluateSlCai", "Better not."),
        ("evaluateRlCai", "No."),
    ):
        directory = tmp_path / "p" / node / "k"
        directory.mkdir(parents=True)
        rows = [{"kind": "redTeam", "prompt": f"How to tease {n}?", "answer": answer} for n in range(4)]
        rows.append({"kind": "benign", "prompt": "How to bake?", "answer": "With flour." + " Really." * 100})
        (directory / "transcripts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        parts.append(stage(node, "Succeeded", artifact={"path": f"p/{node}/k"}, started=START, finished=END))
    rates = {"refusalRate": 0.0, "offTopicRate": 0.01, "overRefusalRate": 0.02, "helpfulRate": 0.9}
    metrics = {name: {"harmfulRate": harm, **rates} for name, harm in (("base", 0.875), ("slCai", 0.2), ("rlCai", 0.0))}
    evaluate = stage("evaluate", "Succeeded", metrics=metrics, parts=parts, started=START, finished=END)
    return status(evaluate, report="p/report/k/report.html")


def test_results_show_rates_and_the_same_prompts_side_by_side(tmp_path):
    out = console()
    print_results(out, evaluated(tmp_path), tmp_path)
    text = out.file.getvalue()
    rates = {line.split()[1]: line for line in text.splitlines() if " %" in line}
    assert "87.5 %" in rates["base"]
    assert "20.0 %" in rates["SL-CAI"]
    assert "0.0 %" in rates["RL-CAI"]
    assert text.count("How to tease") == 2
    assert "[Sure], do it." in text
    assert "With flour." in text
    assert "…" in text
    assert "time: evaluate 3 min 15 s" in text


def test_results_without_transcripts_or_evaluation_are_fewer(tmp_path):
    out = console()
    seen = evaluated(tmp_path)
    (tmp_path / "p" / "evaluateSlCai" / "k" / "transcripts.jsonl").unlink()
    print_results(out, seen, tmp_path)
    assert "87.5 %" in out.file.getvalue()
    assert "How to tease" not in out.file.getvalue()
    out = console()
    print_results(out, status(stage("evaluate", "Waiting")), tmp_path)
    assert out.file.getvalue() == "time: nothing had to be run\n"


def test_the_report_is_copied_beside_the_status(tmp_path):
    seen = evaluated(tmp_path)
    assert copy_report(seen, tmp_path, tmp_path) is None
    (tmp_path / "p" / "report" / "k").mkdir(parents=True)
    (tmp_path / "p" / "report" / "k" / "report.html").write_text("<html>")
    assert copy_report(seen, tmp_path, tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text() == "<html>"
