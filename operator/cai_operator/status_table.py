"""How `cai status` shows a pipeline: a head of a few lines, and a table with a line for each stage."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai_operator import conditions
from cai_operator.live_view import STATE_STYLES, describe_progress, duration, stage_seconds
from cai_operator.status import PipelineStatus, StageStatus, State

UNBOUNDED = 10_000
"""Columns where no terminal bounds them: a line for a program to read is not broken in two."""


def print_status(status: PipelineStatus, remarks: Sequence[str] = (), endings: Sequence[str] = ()) -> None:
    """Print a status to standard output.

    Args:
        status: the status.
        remarks: sentences for the head, for what the status itself does not say.
        endings: lines to print after the table.
    """
    console = Console(width=None if sys.stdout.isatty() else UNBOUNDED, soft_wrap=not sys.stdout.isatty())
    progress = f" ({status.progress} stages)" if status.progress else ""
    console.print(f"phase: {status.phase}{progress}", highlight=False)
    troubles = trouble(status)
    if status.message and not any(sentence.endswith(f": {status.message}") for sentence in troubles):
        console.print(status.message, highlight=False, markup=False)
    for sentence in (*troubles, *remarks):
        console.print(sentence, style="yellow", highlight=False, markup=False)
    if status.stages:
        _print_table(console, _table(status))
    for line in endings:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def trouble(status: PipelineStatus) -> list[str]:
    """What keeps the pipeline from getting on: the reason as a word, and a sentence."""
    degraded = [found for found in status.conditions if found.type == conditions.DEGRADED and found.status == "True"]
    return [f"{found.reason}: {found.message}" for found in degraded]


def _print_table(console: Console, table: Table) -> None:
    if console.width < UNBOUNDED:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))  # a table pads all lines to its longest


def _table(status: PipelineStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("STAGE", "STATE", "TRIES", "TIME", "KEY", "DETAILS"):
        table.add_column(title, no_wrap=title != "DETAILS")
    for stage in status.stages:
        seconds = stage_seconds(stage)
        table.add_row(
            stage.name,
            Text(stage.state, style=STATE_STYLES[stage.state]),
            str(stage.attempts or ""),
            "" if seconds is None else duration(seconds),
            stage.key or "",
            Text(_details(stage)),
        )
    return table


def _details(stage: StageStatus) -> str:
    progress = describe_progress(stage.progress) if stage.progress and stage.state == State.RUNNING else ""
    return "; ".join(filter(None, [progress, stage.message]))
