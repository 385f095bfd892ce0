"""The launcher ends as its processes end: exit code 2 stays 2, SIGTERM reaches them, nodes find each other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parents[2] / "jobs"
PATIENCE_S = 240


@pytest.fixture
def start(tmp_path):
    """Start the launcher over a program given as source text, in a directory of its own."""
    started = []

    def launch(source, *, flags=(), processes=2, nodes=1, environment=None):
        (tmp_path / "child_program.py").write_text(source)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
        paths = os.pathsep.join([str(JOBS), str(tmp_path)])
        launcher = ("cai_jobs.launch", f"--nodes={nodes}", f"--processes={processes}")
        process = subprocess.Popen(
            [sys.executable, "-m", *launcher, "-m", "child_program", *flags],
            env={**inherited, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **(environment or {})},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ended(process):
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_every_process_gets_the_flags_and_success_is_0(start, tmp_path):
    source = """
import os, sys
open(f"seen-{os.environ['RANK']}-{os.environ['WORLD_SIZE']}", "w").write("\\n".join(sys.argv[1:]))
"""
    flags = ["--nodes=9", "-m", "--text", "$(HOME) a  b", "--splits", "{'train': 0.8}"]
    code, _, err = ended(start(source, flags=flags))
    assert code == 0, err
    assert {path.name for path in tmp_path.glob("seen-*")} == {"seen-0-2", "seen-1-2"}
    assert (tmp_path / "seen-1-2").read_text().split("\n") == flags


@pytest.mark.parametrize(
    ("source", "code"),
    [
        # only one of them finds the input wrong, the other one is at work
        ("import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(2)\ntime.sleep(600)", 2),
        ("import os, sys, time\nif os.environ['RANK'] == '0': sys.exit(1)\ntime.sleep(600)", 1),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 1),
    ],
)
def test_wrong_input_is_2_and_everything_else_1(start, source, code):
    assert ended(start(source))[0] == code


def test_sigterm_reaches_the_processes_and_is_told(start, tmp_path):
    source = """
import os, signal, sys, time
def leave(*_):
    open(f"saved-{os.environ['RANK']}", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
open(f"up-{os.environ['RANK']}", "w").close()
time.sleep(600)
"""
    process = start(source)
    until = time.monotonic() + PATIENCE_S
    while len(list(tmp_path.glob("up-*"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 128 + signal.SIGTERM
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


def test_nodes_find_each_other_by_the_environment(start):
    source = """
import os, sys, torch.distributed as distributed
distributed.init_process_group("gloo")
print("ranks", distributed.get_rank(), distributed.get_world_size(), flush=True)
distributed.barrier()
sys.exit(2 if os.environ["RANK"] == "1" else 0)
"""
    where = {"PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(free_port())}
    second, first = (  # rank 0's node is the last to come
        start(source, processes=1, nodes=2, environment={**where, "PET_NODE_RANK": str(rank)}) for rank in (1, 0)
    )
    code, out, _ = ended(second)
    assert (code, out) == (2, "ranks 1 2\n")
    first.kill()  # it waits for the other node to say that it is done, too
    assert "ranks 0 2" in ended(first)[1]


def test_a_node_that_is_not_told_where_the_others_are(start):
    code, _, err = ended(start("", nodes=2, environment={"PET_NODE_RANK": "0"}))
    assert code == 2
    assert "PET_MASTER_ADDR, PET_MASTER_PORT is not set" in err
