"""How a local run looks while it runs: a table that lives on a terminal, plain sentences everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cai_operator.stages import NODES
from cai_operator.status import NodeStatus, PipelineStatus, Progress, State

PROGRESS_LINE_S = 15.0
METRICS_SHOWN = 2
BAR_WIDTH = 12

STATE_STYLES: Mapping[State, str] = {
    State.SUCCEEDED: "green",
    State.FAILED: "bold red",
    State.RUNNING: "cyan",
    State.STARTING: "cyan",
    State.DISABLED: "dim",
    State.WAITING: "dim",
    State.SUSPENDED: "yellow",
}
STAGE_OF_NODE = {node.name: node.stage for node in NODES}

Servers = Mapping[str, Sequence[bool]]


class LiveView:
    """A table with a line for each stage, redrawn in place; sentences appear above it.

    No thread of its own: it is drawn when `show` is called.
    """

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._spinner = Spinner("dots", style="cyan")

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, status: PipelineStatus, servers: Servers) -> None:
        """Draw the present status."""
        self._live.update(self._table(status, _by_stage(servers)), refresh=True)

    def say(self, sentence: str) -> None:
        """Print a sentence above the table."""
        self._console.print(sentence, style="yellow", highlight=False, markup=False)

    def _table(self, status: PipelineStatus, servers: Servers) -> Table:
        table = Table(box=None, pad_edge=False, expand=True, title_justify="left", show_header=False)
        title = f"{self._name}: {status.phase}" + (f", {status.progress} stages" if status.progress else "")
        table.title = Text(title, style="bold")
        for style, width in (("", 1), ("bold", 11), ("", 9), ("", BAR_WIDTH), ("", 11)):
            table.add_column(style=style, no_wrap=True, min_width=width)
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        for stage in status.stages:
            if stage.state == State.DISABLED:
                continue
            symbol: Any = Text(_SYMBOLS.get(stage.state, " "), style=STATE_STYLES[stage.state])
            if stage.state in (State.RUNNING, State.STARTING):
                symbol = self._spinner
            state = Text(stage.state, style=STATE_STYLES[stage.state])
            details = Text(_details(stage, servers, _brief))
            table.add_row(symbol, stage.name, state, _bar(stage.progress), _took(stage), details)
        return table


_SYMBOLS = {State.SUCCEEDED: "✔", State.FAILED: "✘", State.WAITING: "·", State.SUSPENDED: "‖"}


class PlainView:
    """A line whenever a stage, or a part of it, changes its state; one about progress every 15 seconds at most."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, tuple[State, int]] = {}
        self._progress_said: dict[str, float] = {}

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, status: PipelineStatus, servers: Servers) -> None:
        """Print what changed since the last call."""
        for node in (node for stage in status.stages for node in stage.parts or (stage,)):
            before = self._states.get(node.name)
            present = (node.state, node.attempts)
            self._states[node.name] = present
            if before != present:
                sentence = _transition(node, before, servers)
                if sentence:
                    self._progress_said[node.name] = time.monotonic()
                    self.say(sentence)
            elif node.progress is not None and node.state == State.RUNNING and self._is_due(node.name):
                self._progress_said[node.name] = time.monotonic()
                self.say(f"{node.name}: {_details(node, servers)}")

    def _is_due(self, stage: str) -> bool:
        return time.monotonic() - self._progress_said.get(stage, 0.0) >= PROGRESS_LINE_S

    def say(self, sentence: str) -> None:
        """Print one line with the time."""
        self._console.print(f"{datetime.now():%H:%M:%S} {sentence}", highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 5 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")


def stage_seconds(stage: NodeStatus) -> float | None:
    """Seconds a stage's programs took, or have taken so far, without the pauses between its parts; None before them."""
    times = [stage_seconds(part) for part in getattr(stage, "parts", ()) if part.started is not None]
    if times:
        return sum(seconds or 0.0 for seconds in times)
    if stage.started is None:
        return None
    return max(0.0, ((stage.finished or datetime.now(UTC)) - stage.started).total_seconds())


def describe_progress(progress: Progress) -> str:
    """How far, how long still and the newest figures: "120 of 400 steps, about 30 s left, loss 1.23"."""
    parts = [
        f"{progress.done} of {progress.total} {progress.unit}" if progress.total else f"{progress.done} {progress.unit}"
    ]
    if progress.eta_seconds is not None and progress.done != progress.total:
        parts.append(f"about {duration(progress.eta_seconds)} left")
    parts += _figures(progress.metrics)
    return ", ".join(parts)


def _transition(stage: NodeStatus, before: tuple[State, int] | None, servers: Servers) -> str:
    took = stage_seconds(stage)
    match stage.state:
        case State.SUCCEEDED if before is None or before[0] == State.WAITING:
            return f"{stage.name}: found done already"
        case State.SUCCEEDED:
            figures = "".join(f", {figure}" for figure in _figures(stage.metrics))
            return f"{stage.name}: done" + (f" in {duration(took)}" if took is not None else "") + figures
        case State.FAILED:
            return f"{stage.name}: failed: {stage.message}" + (f" (log: {stage.log})" if stage.log else "")
        case State.RUNNING if before is not None and before[0] == State.RUNNING and stage.attempts > 1:
            return f"{stage.name}: attempt {stage.attempts}" + (f": {stage.message}" if stage.message else "")
        case State.RUNNING:
            return f"{stage.name}: running"
        case State.STARTING if servers.get(stage.name):
            return f"{stage.name}: starting its server"
        case _:
            return ""


def _brief(progress: Progress) -> str:
    """The same where a bar stands beside it and room is short: "120/400 steps, 30 s left, loss 1.23"."""
    count = f"{progress.done}/{progress.total}" if progress.total else str(progress.done)
    left = progress.eta_seconds is not None and progress.done != progress.total
    times = [f"{duration(progress.eta_seconds or 0)} left"] if left else []
    return ", ".join([f"{count} {progress.unit}", *times, *_figures(progress.metrics)])


def _details(stage: NodeStatus, servers: Servers, describe: Callable[[Progress], str] = describe_progress) -> str:
    if stage.state in (State.FAILED, State.WAITING):
        return stage.message
    if stage.state == State.SUCCEEDED:
        return stage.message or ", ".join(_figures(stage.metrics))
    parts = [f"try {stage.attempts}"] if stage.attempts > 1 else []
    parts += [describe(stage.progress)] if stage.progress else [stage.message] if stage.message else []
    up = servers.get(stage.name, ())
    if up:
        ready = sum(up)
        parts.append(f"{len(up)} server{'s' if len(up) > 1 else ''} " + ("up" if ready == len(up) else "starting"))
    return "; ".join(parts)


def _bar(progress: Progress | None) -> Any:
    if progress is None or not progress.total:
        return ""
    return ProgressBar(total=progress.total, completed=min(progress.done, progress.total), width=BAR_WIDTH)


def _took(stage: NodeStatus) -> str:
    seconds = stage_seconds(stage)
    return "" if seconds is None or stage.state == State.WAITING else duration(seconds)


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    numbers = [(name, value) for name, value in metrics.items() if isinstance(value, int | float)]
    return [f"{name} {value:.4g}" for name, value in numbers[:METRICS_SHOWN]]


def _by_stage(servers: Servers) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for node, ready in servers.items():
        found.setdefault(STAGE_OF_NODE.get(node, node), []).extend(ready)
    return found
