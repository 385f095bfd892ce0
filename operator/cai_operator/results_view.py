"""What a finished local run has to show: the three models' rates, their answers side by side, time, where to go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cai_operator.live_view import duration, stage_seconds
from cai_operator.stages import EVALUATED
from cai_operator.status import PipelineStatus, State

MODEL_TITLES: Mapping[str, str] = {"base": "base", "slCai": "SL-CAI", "rlCai": "RL-CAI"}
RATES: Mapping[str, str] = {
    "harmfulRate": "harmful",
    "refusalRate": "refusal",
    "offTopicRate": "off-topic",
    "overRefusalRate": "over-refusal",
    "helpfulRate": "helpful",
}
SAMPLES: Mapping[str, int] = {"redTeam": 2, "benign": 1}
LONGEST_ANSWER = 400


def print_results(console: Console, status: PipelineStatus, root: Path) -> None:
    """Print the rates, sample answers and the time of every stage, as far as there are any.

    Args:
        console: where to.
        status: the status at the end of the run.
        root: the artifacts' root.
    """
    evaluate = status.stage("evaluate")
    metrics = evaluate.metrics if evaluate else {}
    models = [name for name in MODEL_TITLES if isinstance(metrics.get(name), dict)]
    if models:
        console.print(_rates(metrics, models))
        samples = _samples(status, root, models)
        if samples.row_count:
            console.print(samples)
    console.print(_times(status), markup=False, highlight=False, soft_wrap=True)


def copy_report(status: PipelineStatus, root: Path, workdir: Path) -> Path | None:
    """Copy the report page beside the status; where it is now, or None where there is none."""
    if status.report is None or not (root / status.report).is_file():
        return None
    page = workdir / "report.html"
    aside = page.with_name("report.html.new")
    shutil.copyfile(root / status.report, aside)
    aside.rename(page)
    return page


def _rates(metrics: Mapping[str, Any], models: list[str]) -> Table:
    table = Table(title="On prompts held out of training", title_justify="left")
    table.add_column("model", style="bold")
    for title in RATES.values():
        table.add_column(title, justify="right")
    for name in models:
        rates = metrics[name]
        table.add_row(MODEL_TITLES[name], *(_percent(rates.get(rate)) for rate in RATES))
    return table


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else "-"


def _samples(status: PipelineStatus, root: Path, models: list[str]) -> Table:
    table = Table(title="The same prompt, answered by each", title_justify="left", show_lines=True)
    table.add_column("prompt", ratio=2)
    for name in models:
        table.add_column(MODEL_TITLES[name], ratio=3)
    answers = {name: _answers(status, root, node) for node, name in EVALUATED.items() if name in models}
    for kind, count in SAMPLES.items():
        shared = [
            prompt
            for found, prompt in answers[models[0]]
            if found == kind and all((kind, prompt) in answers[name] for name in models)
        ]
        for prompt in shared[:: max(1, len(shared) // count)][:count]:
            row = [prompt, *(answers[name][kind, prompt] for name in models)]
            table.add_row(*(escape(_shortened(text)) for text in row))
    return table


def _answers(status: PipelineStatus, root: Path, node: str) -> dict[tuple[str, str], str]:
    seen = status.node(node)
    if seen is None or seen.artifact is None:
        return {}
    rows = _rows(root / seen.artifact.path / "transcripts.jsonl")
    return {(str(row.get("kind")), str(row.get("prompt"))): str(row.get("answer", "")).strip() for row in rows}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row
    except (OSError, ValueError):
        return  # samples are an extra; the report says what is wrong with an artifact


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else text[: LONGEST_ANSWER - 1] + "…"


def _times(status: PipelineStatus) -> str:
    done = [(stage.name, stage_seconds(stage)) for stage in status.stages if stage.state == State.SUCCEEDED]
    parts = [f"{name} {duration(seconds)}" for name, seconds in done if seconds is not None]
    return "time: " + ", ".join(parts) if parts else "time: nothing had to be run"
