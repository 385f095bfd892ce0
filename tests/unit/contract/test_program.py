"""How programs end: exit codes, last words, no traceback for a user's mistake."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, errno
from cai_jobs.contract import program

def main(argv):
    parser = program.Parser("demo", "a demonstration")
    parser.add_argument("--how", required=True)
    how = parser.parse_args(argv).how
    if how == "done": return {"metrics": {"rows": 3}}
    if how == "long": return {"artifact": {"key": "k"}, "metrics": {"text": "x" * 9000}}
    if how == "input": raise program.InputError("data.jsonl:7: not JSON")
    if how == "retry": raise program.RetryableError("the judge is away")
    if how == "disk": raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
    if how == "sleep":
        import time
        print("ready", flush=True)
        time.sleep(60)
    raise KeyError("a bug")

program.run(main)
"""


def run(tmp_path: Path, *argv: str) -> tuple[int, str, dict]:
    message = tmp_path / "last.json"
    command = [sys.executable, "-c", PROGRAM, *argv, "--termination-message", str(message)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, json.loads(message.read_text())


@pytest.mark.parametrize(
    ("how", "code", "error"),
    [
        ("input", 2, "data.jsonl:7: not JSON"),
        ("retry", 1, "the judge is away"),
        ("disk", 1, "no space left on the disk while writing /data/x; make room and run again: finished work is kept"),
    ],
)
def test_foreseen_failures_are_one_sentence(tmp_path: Path, how: str, code: int, error: str) -> None:
    got_code, stderr, word = run(tmp_path, "--how", how)
    assert (got_code, word) == (code, {"error": error})
    assert stderr == f"error: {error}\n"


@pytest.mark.parametrize("message", ["last.json", "/dev/full"])
def test_a_log_on_a_full_disk_changes_no_exit_code(tmp_path: Path, message: str) -> None:
    path = tmp_path / message
    command = [sys.executable, "-c", PROGRAM, "--how", "input", "--termination-message", str(path)]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(command, stdout=full, stderr=full, check=False).returncode == 2
    if path.parent == tmp_path:
        assert json.loads(path.read_text()) == {"error": "data.jsonl:7: not JSON"}


def test_done_is_zero_with_the_metrics(tmp_path: Path) -> None:
    assert run(tmp_path, "--how", "done") == (0, "", {"metrics": {"rows": 3}})


def test_a_bug_keeps_its_traceback_and_may_be_retried(tmp_path: Path) -> None:
    code, stderr, word = run(tmp_path, "--how", "bug")
    assert code == 1
    assert "Traceback" in stderr
    assert word == {"error": "KeyError: 'a bug'"}


def test_a_wrong_flag_is_an_input_error_with_a_last_word(tmp_path: Path) -> None:
    code, _, word = run(tmp_path, "--hwo", "done")
    assert code == 2
    assert "--how" in word["error"]
    assert "--help" in word["error"]


def test_the_last_word_never_exceeds_what_kubernetes_keeps(tmp_path: Path) -> None:
    code, _, word = run(tmp_path, "--how", "long")
    assert (code, word) == (0, {"artifact": {"key": "k"}})


def test_sigterm_ends_with_a_sentence(tmp_path: Path) -> None:
    message = tmp_path / "last.json"
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--how", "sleep", "--termination-message", str(message)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 143
    assert "asked to stop" in json.loads(message.read_text())["error"]
    child.stdout.close()
