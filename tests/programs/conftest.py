"""What both generators' tests start from."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.programs.generator_stub import Stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def red_team(tmp_path: Path) -> Path:
    path = tmp_path / "red_team.jsonl"
    rows = [{"transcript": f"\n\nHuman: Question {n}?\n\nAssistant: Reply {n}.\n\nHuman: More?"} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def helpful(tmp_path: Path) -> Path:
    path = tmp_path / "helpful.jsonl"
    turns = [{"from": "User", "value": "How do I boil an egg?", "label": None}]
    turns.append({"from": "Assistant", "value": "Eight minutes in boiling water.", "label": None})
    row = {"system": "", "conversations": turns, "mask": "User", "dataset": "helpful"}
    path.write_text(json.dumps(row) + "\n")
    return path
