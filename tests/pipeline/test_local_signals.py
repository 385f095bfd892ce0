"""Ctrl-C, SIGTERM and SIGKILL of a run: nothing is left running, and the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

# runs one server and one job that start a process each; `linger` makes the job take its time to stop, `stubborn` refuse
DRIVER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from cai_operator.local import Timing, execute, lock
from cai_operator.status import parse_status
from cai_operator.workloads import JobState, Kind, Workload

workdir, mode, mark = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
PROGRAM = '''
import signal, subprocess, sys, time
mode = sys.argv[1]
if mode == "ends":
    sys.exit(0)
def stop(*_):
    if mode == "stubborn":
        return
    time.sleep(0.3 if mode == "linger" else 0)
    open(sys.argv[3] + "/saved", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
CHILD = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(97)"
subprocess.Popen([sys.executable, "-c", CHILD, sys.argv[2]])
open(sys.argv[3] + "/up-" + sys.argv[4], "w").close()
while True:
    time.sleep(1)
'''
def workload(name, kind):
    command = ("python", "-c", PROGRAM, mode, mark, str(workdir), name)
    return Workload(name=name, kind=kind, node=name, key="k", command=command, retries=0)
job, server = workload("job", Kind.JOB), workload("server", Kind.SERVER)
def decide(status, observed, now, address_of):
    done = "job" in observed.jobs and observed.jobs["job"].state == JobState.SUCCEEDED
    stage = {"name": "sft", "state": "Succeeded" if done else "Running", "progress": {"done": 1}}
    new = parse_status({"phase": "Succeeded" if done else "Running", "stages": [stage]})
    apply = [job] if mode == "ends" else [server, job]
    return SimpleNamespace(apply=apply, delete=[], status=new, events=())
class View:
    def show(self, status, servers): pass
    def say(self, sentence): print(sentence, flush=True)
with lock(workdir):
    outcome = execute(decide, workdir, View(), timing=Timing(poll_s=0.02, grace_s=float(sys.argv[4])))
print(json.dumps({"signal": outcome.signal, "phase": outcome.status.phase}))
"""


class Run:
    def __init__(self, workdir: Path, mode: str, grace_s: float = 20.0) -> None:
        self.workdir, self.mark = workdir, f"mark-{uuid.uuid4().hex}"
        workdir.mkdir(exist_ok=True)
        for file in workdir.glob("up-*"):
            file.unlink()
        command = [sys.executable, "-c", DRIVER, str(workdir), mode, self.mark, str(grace_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait_until_up(self) -> None:
        wait_for(lambda: len(list(self.workdir.glob("up-*"))) == 2)
        # a program that has only just been executed has no command line in /proc for a moment
        wait_for(lambda: len(self.left()) >= 4)

    def left(self) -> list[int]:
        """Processes of the run that still exist, the driver apart."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                try:
                    if self.mark.encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> dict:
        output, _ = self.process.communicate(timeout=60)
        return json.loads(output.splitlines()[-1])


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_lets_programs_save_and_leaves_none_running(tmp_path, number):
    run = Run(tmp_path / "work", "linger")
    run.wait_until_up()
    run.send(number)
    assert run.end() == {"signal": number, "phase": "Pending"}
    assert run.left() == []
    assert (run.workdir / "saved").exists()
    status = json.loads((run.workdir / "status.json").read_text())
    assert (status["phase"], status["message"]) == ("Pending", "interrupted; the same command goes on from here")
    assert status["stages"][0]["state"] == "Waiting"
    assert "progress" not in status["stages"][0]


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    run = Run(tmp_path / "work", "stubborn", grace_s=1000.0)
    run.wait_until_up()
    run.send(signal.SIGINT)
    assert "stopping" in run.process.stdout.readline()
    assert len(run.left()) >= 2
    run.send(signal.SIGINT)
    assert run.end()["signal"] == signal.SIGINT
    assert run.left() == []


def test_two_signals_before_the_run_looks_again_kill_at_once(tmp_path):
    run = Run(tmp_path / "work", "stubborn", grace_s=1000.0)
    run.wait_until_up()
    run.send(signal.SIGSTOP)
    run.send(signal.SIGINT)
    run.send(signal.SIGTERM)
    run.send(signal.SIGCONT)
    assert run.end()["signal"] in (signal.SIGINT, signal.SIGTERM)
    assert run.left() == []


def test_a_program_that_ignores_the_signal_is_killed_after_the_grace_time(tmp_path):
    run = Run(tmp_path / "work", "stubborn", grace_s=0.2)
    run.wait_until_up()
    run.send(signal.SIGINT)
    run.end()
    assert run.left() == []
    assert not (run.workdir / "saved").exists()


def test_sigkill_of_the_run_leaves_no_process_and_the_next_run_goes_on(tmp_path):
    run = Run(tmp_path / "work", "linger")
    run.wait_until_up()
    run.send(signal.SIGKILL)
    run.process.communicate()
    wait_for(lambda: run.left() == [])
    assert not (run.workdir / "saved").exists()
    assert Run(tmp_path / "work", "ends").end() == {"signal": None, "phase": "Succeeded"}


def test_programs_die_with_the_run_even_if_its_guard_is_gone(tmp_path):
    run = Run(tmp_path / "work", "linger")
    run.wait_until_up()
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    (guard,) = [int(pid) for pid in children if b"killpg" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(guard, signal.SIGKILL)
    programs = [int(pid) for pid in children if int(pid) != guard]
    run.send(signal.SIGKILL)
    run.process.communicate()
    wait_for(lambda: not any(pid in run.left() for pid in programs))
    for pid in run.left():
        os.kill(pid, signal.SIGKILL)


def test_the_work_directory_is_held_while_the_run_lives(tmp_path):
    run = Run(tmp_path / "work", "linger")
    run.wait_until_up()
    second = subprocess.run(
        [sys.executable, "-c", DRIVER, str(run.workdir), "ends", "other", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode != 0
    assert f"another cai run (process {run.process.pid}) works here" in second.stderr
    run.send(signal.SIGINT)
    run.end()
