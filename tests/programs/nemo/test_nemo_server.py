"""Servers under the wrapper: looked at before, stopped as they understand it, their own end told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from cai_jobs.contract import artifacts

HEADER = json.dumps({"stage": "sft", "key": "k", "parameters": {}, "inputs": {}})
CRITIC = """
import signal, sys, time
try:
    print("listens", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("saved")
    signal.pause()  # it never leaves by itself
"""


@pytest.fixture
def start(tmp_path):
    with artifacts.open_artifact(tmp_path / "model", HEADER, tmp_path) as artifact:
        (artifact.path / "model.nemo").write_text("weights")
        artifact.publish()

    def run(program, *flags):
        command = [sys.executable, "-m", "cai_jobs.nemo_run", "--serve", "--input", str(tmp_path / "model")]
        command += ["--grace-s", "2", "--termination-message", str(tmp_path / "word"), *flags]
        command += ["--", sys.executable, "-c", program, str(tmp_path / "saved")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


def error(tmp_path):
    return json.loads((tmp_path / "word").read_text())["error"]


def test_the_critic_is_stopped_by_the_signal_it_knows(start, tmp_path):
    process = start(CRITIC, "--stop-signal", "INT")
    assert process.stderr.readline() == "listens\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert (tmp_path / "saved").read_text() == "saved"


def test_a_server_that_ends_is_started_again_whatever_it_said(start, tmp_path):
    process = start("print('bye')")
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a server, ended by itself with 0" in error(tmp_path)


def test_why_it_failed_is_told(start, tmp_path):
    process = start("raise ValueError('TP * PP must be 8')")
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ended with 1: ValueError: TP * PP must be 8" in error(tmp_path)


def test_a_refused_setting_is_wrong_input(start, tmp_path):
    process = start("raise SystemExit('Could not override \\'tensor_model\\'. Key is not in struct')")
    process.communicate(timeout=30)
    assert process.returncode == 2
    assert "refuses a setting" in error(tmp_path)


def test_a_model_cut_short_is_not_served(start, tmp_path):
    (tmp_path / "model" / "model.nemo").write_text("weigh")
    process = start("print('never')")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "is 5 bytes long, and manifest.json says 7 bytes" in error(tmp_path)
    assert "never" not in out + err
    (tmp_path / "model" / "model.nemo").unlink()
    process = start("print('never')")
    process.communicate(timeout=30)
    assert "is missing" in error(tmp_path)
