"""A forked program is a process of its own in all but its start."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from tests.harness.forked_program import ForkedProgram
from tests.harness.processes import StartError

LOOK = """
import json, os, pathlib, signal, sys
found = {"environment": dict(os.environ), "directory": os.getcwd(), "session": os.getsid(0), "pid": os.getpid(),
         "open": [int(name) for name in os.listdir("/proc/self/fd")], "input": sys.stdin.read(),
         "stops": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL}
pathlib.Path("found.json").write_text(json.dumps(found)); print("looked")
"""


def python(code: str, directory: Path, **environment: str) -> ForkedProgram:
    """A program that executes this code once."""
    lines = ["-n1", "-r1", *code.strip().splitlines()]
    return ForkedProgram("timeit", lines, directory / "log", environment=environment, directory=directory)


def test_what_it_is_given_is_all_it_has(tmp_path: Path) -> None:
    program = python(LOOK, tmp_path, GREETING="hello")
    assert program.wait() == 0, program.log.read_text()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["environment"] == {"GREETING": "hello"}
    assert found["directory"] == str(tmp_path)
    assert found["pid"] == found["session"] == program.pid != os.getsid(0)
    assert max(found["open"]) <= 3  # and the one that lists them
    assert found["input"] == ""
    assert found["stops"]
    assert program.log.read_text().startswith("looked\n")


def test_a_signal_ends_it(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        program = python("print('up', flush=True); import time; time.sleep(600)", tmp_path)
        program.wait_until(lambda program=program: "up" in program.log.read_text())
        assert program.running
        program.send_signal(number)
        assert program.wait(60) == -number
        program.log.unlink()


def test_one_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    program = ForkedProgram("no_such_module", [], tmp_path / "log")
    with pytest.raises(StartError, match=r"exit code 1 before it was ready\.(.|\n)*No module named no_such_module"):
        program.wait_until(lambda: False)
