"""A program with an event loop ends as one without does."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cai_jobs.contract.loop import run_async

PROGRAM = """
import asyncio
from cai_jobs.contract import program
from cai_jobs.contract.loop import run_async

async def work():
    loop = asyncio.get_running_loop()
    def busy():  # nearly all the time is spent in a callback, where what a handler raises would be lost
        sum(range(20000))
        loop.call_soon(busy)
    busy()
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    finally:
        print("let go", flush=True)

program.run(lambda argv: run_async(work()))
"""


def test_sigterm_is_heard_inside_callbacks_and_the_work_lets_go(tmp_path: Path) -> None:
    message = tmp_path / "last.json"
    command = [sys.executable, "-c", PROGRAM, "--termination-message", str(message)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.read() == "let go\n"
        assert child.wait() == 143
    assert "asked to stop" in json.loads(message.read_text())["error"]


class Asked(BaseException):
    pass


def test_a_result_and_an_exception_come_back_and_the_handler_with_them() -> None:
    def handler(_number: int, _frame: object) -> None:
        raise Asked

    async def fails() -> None:
        raise KeyError("why")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert run_async(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(KeyError, match="why"):
            run_async(fails())
        assert signal.getsignal(signal.SIGTERM) is handler
        with pytest.raises(Asked):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
