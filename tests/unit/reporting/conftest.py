"""Artifacts as stages publish them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reporting.report_pages import Inputs, Publish

from cai_jobs.formats.jsonl import write_json


@pytest.fixture
def inputs() -> Inputs:
    return {}


@pytest.fixture
def publish(tmp_path: Path, inputs: Inputs) -> Publish:
    """Publish an artifact of a node: files are written by `write(directory)`; `inputs` then names it."""

    def publish_one(
        node: str, write: Callable[[Path], None] | None = None, seconds: tuple[int, int] = (0, 10), **manifest: Any
    ) -> None:
        directory = tmp_path / "artifacts" / node / "key"
        directory.mkdir(parents=True)
        if write:
            write(directory)
        moments = [f"2026-03-01T10:00:{second:02d}+00:00" for second in seconds]
        header = {"stage": node, "key": f"key-of-{node}", "parameters": {}, "inputs": {}, "metrics": {}, "files": []}
        program = {"name": "cai-operator", "version": "9.9"}
        clock = {"program": program, "started": moments[0], "finished": moments[1]}
        write_json(directory / "manifest.json", {**header, **clock, **manifest})
        inputs[node] = f"{node}/key"

    return publish_one
