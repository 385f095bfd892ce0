"""The search for a Secret's value finds it, however it is written."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.harness.canary import Canaries, ProcessWatch


@pytest.mark.parametrize(
    "write",
    [
        str,
        lambda value: json.dumps({"headers": [f"Bearer {value}"]}),
        lambda value: quote(f"key={value}&x"),
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.b64encode(f"u:{value}".encode()).decode(),
        lambda value: base64.b64encode(f"us:{value}x".encode()).decode(),
        lambda value: base64.b64encode(f"usr:{value}xy".encode()).decode(),
        lambda value: value[::-1],
    ],
)
def test_it_finds_a_value(write) -> None:
    canaries = Canaries("one", "other")
    canaries.search("texts", "here", f"before {write(canaries.values['one'])} after")
    assert canaries.found == ["one in texts here"]
    assert canaries.searched == {"texts": 1}


def test_it_finds_nothing_where_there_is_nothing() -> None:
    canaries = Canaries("one")
    canaries.search("texts", "here", Canaries("one").values["one"])
    assert canaries.found == []
    assert "| texts | 1 |" in canaries.table()


def test_it_looks_into_files(tmp_path: Path) -> None:
    canaries = Canaries("one")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(os.urandom(100) + canaries.values["one"].encode() + os.urandom(100))
    (tmp_path / "log.gz").write_bytes(gzip.compress(canaries.values["one"].encode()))
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b none")
    canaries.search_files("files", tmp_path)
    assert canaries.found == ["one in files deep/weights", "one in files log.gz"]
    assert canaries.searched == {"files": 3}


def test_it_looks_at_processes() -> None:
    canaries = Canaries("argument", "variable")
    command = [sys.executable, "-c", "input()", canaries.values["argument"]]
    environment = {**os.environ, "KEY": canaries.values["variable"]}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        with ProcessWatch(canaries, lambda: [process.pid], lambda _: "program") as watch:
            end = time.monotonic() + 60
            while not watch.holders and time.monotonic() < end:
                time.sleep(0.01)
        process.kill()
    assert watch.holders == {"variable": {"program"}}
    assert set(canaries.found) == {"argument in command lines of processes program"}
