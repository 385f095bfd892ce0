"""One node for everybody on this machine: a supervisor of its own process brings it up, and takes it down when told to.

    python -m tests.harness.up up       bring it up to stay, print how to use it (make cluster)
    python -m tests.harness.up down     take it down, or clean up after one that was killed (make cluster-down)

Tests share one: the first that calls `join` starts a supervisor, which takes the node down when the last has left, also
when they were killed. Locks say who lives, so nothing has to be tidied by those who die: the supervisor holds ALIVE for
as long as anything of the node is there, every test process shares USERS, and STARTING is held while one is made.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from tests.harness import binaries, images, node
from tests.harness.node_files import NODE, ROOT
from tests.harness.node_traces import remove_traces
from tests.harness.processes import StartError, Unavailable, wait_for

KUBECONFIG = ROOT / "control-plane" / "admin.kubeconfig"

_ALIVE, _USERS, _STARTING, _QUEUE = (
    Path(f"/run/{NODE}.{name}.lock") for name in ("alive", "users", "starting", "queue")
)
_READY = ROOT / "ready.json"
_LOG = Path(f"/run/{NODE}.log")
_REPOSITORY = Path(__file__).parents[2]

FOR_TESTS, TO_STAY = "for tests", "to stay"
_START_PATIENCE_S = 300.0
_END_PATIENCE_S = 120.0
_POLL_S = 0.2


@dataclass
class _ThisProcess:
    uses: int = 0
    is_alone: bool = False


_this = _ThisProcess()


@contextmanager
def join() -> Iterator[Path]:
    """The tests' node, started if there is none: the admin's kubeconfig. Raises Unavailable or StartError."""
    node.refuse_where_impossible()
    with _opened(_USERS) as users:
        with nullcontext() if _this.is_alone else _held(_QUEUE):
            # not granted while a node is being taken down
            fcntl.flock(users, fcntl.LOCK_SH)
        with _held(_STARTING):
            _refuse_beside_one_that_stays()
            if _is_free(_ALIVE):
                _start_supervisor(FOR_TESTS)
        _this.uses += 1
        try:
            yield KUBECONFIG
        finally:
            _this.uses -= 1
            fcntl.flock(users, fcntl.LOCK_UN)
            _wait_for_the_end_unless_others_use_it()


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process uses the node, and let none begin; `join` works within. For tests of its end."""
    node.refuse_where_impossible()
    _refuse_beside_one_that_stays()
    assert _this.uses == 0, "this process uses the node itself: run what needs to be alone before what uses it"
    with _held(_QUEUE):
        wait_for("the end of others' use of the node", lambda: _is_free(_ALIVE) and _is_free(_USERS), 3600)
        _this.is_alone = True
        try:
            yield
        finally:
            _this.is_alone = False


def supervisor() -> int:
    """The process that holds the node; 0: there is none."""
    return 0 if _is_free(_ALIVE) else int(_ALIVE.read_text())


def up() -> None:
    """Bring up a node that stays until `down`; one that stays already is left as it is."""
    node.refuse_where_impossible()
    with _held(_STARTING):
        if _is_free(_ALIVE):
            _start_supervisor(TO_STAY)
        elif _purpose() != TO_STAY:
            raise Unavailable("tests are using this machine's node just now: wait until they have ended")


def down() -> None:
    """Take the node down, whoever uses it, and remove what a killed one left."""
    node.refuse_where_impossible()
    with _held(_STARTING):
        if not _is_free(_ALIVE):
            os.kill(int(_ALIVE.read_text()), signal.SIGTERM)
            wait_for("the end of the node", lambda: _is_free(_ALIVE), _END_PATIENCE_S)
        remove_traces()


def _refuse_beside_one_that_stays() -> None:
    if not _is_free(_ALIVE) and _purpose() == TO_STAY:
        raise Unavailable(
            f"the cluster of `make cluster` is up: use it with CAI_TEST_KUBECONFIG={KUBECONFIG}, or take it down with "
            "`make cluster-down` and the tests make their own"
        )


def _start_supervisor(purpose: str) -> None:
    # here and not in the supervisor, whose words go to a file
    node.prepare()
    command = [sys.executable, "-m", "tests.harness.up", "serve", purpose]
    _READY.unlink(missing_ok=True)
    with _LOG.open("w") as log:
        supervisor = subprocess.Popen(
            command, cwd=_REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    end = time.monotonic() + _START_PATIENCE_S
    while not (_READY.exists() and not _is_free(_ALIVE)):
        if supervisor.poll() is not None:
            # what it printed before belongs to other things; a log it cites is indented
            sentence = re.split("^error: ", _LOG.read_text().strip(), maxsplit=1, flags=re.MULTILINE)[-1]
            raise (Unavailable if supervisor.returncode == _UNAVAILABLE else StartError)(sentence)
        if time.monotonic() > end:
            supervisor.terminate()
            raise StartError(f"the node was not up within {_START_PATIENCE_S:.0f} s; see {_LOG} and {node.LOGS}")
        time.sleep(_POLL_S)


def _wait_for_the_end_unless_others_use_it() -> None:
    end = time.monotonic() + _END_PATIENCE_S
    while not _is_free(_ALIVE) and time.monotonic() < end:
        if not _is_free(_USERS) and _is_free(_USERS, fcntl.LOCK_SH):
            return
        time.sleep(_POLL_S)


def _purpose() -> str:
    with suppress(OSError, ValueError):
        return str(json.loads(_READY.read_text())["purpose"])
    return FOR_TESTS


# ---- the supervisor -------------------------------------------------------------------------------------------------

_UNAVAILABLE = 3


def _serve(purpose: str) -> None:
    """Hold a node until SIGTERM, or until no test uses it any more."""
    signal.signal(signal.SIGTERM, _leave)
    with _opened(_ALIVE) as alive, _opened(_USERS) as users:
        fcntl.flock(alive, fcntl.LOCK_EX)
        alive.truncate(0)
        alive.write(str(os.getpid()))
        alive.flush()
        its = node.Node()
        try:
            its.start()
            _READY.write_text(json.dumps({"purpose": purpose, "pid": os.getpid()}))
            # kept to the end: who comes now waits, and starts a new one
            while purpose == TO_STAY or not _try(users, fcntl.LOCK_EX):
                time.sleep(_POLL_S)
                if failure := its.failed():
                    print(f"a program of the node is gone: {failure}", flush=True)
                    time.sleep(60)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            its.close()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


# ---- locks ----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with path.open("a+") as lock:
        yield lock


@contextmanager
def _held(path: Path) -> Iterator[None]:
    with _opened(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _try(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(path: Path, how: int = fcntl.LOCK_EX) -> bool:
    with _opened(path) as lock:
        return _try(lock, how)


# ---- the command ----------------------------------------------------------------------------------------------------


def main(words: list[str]) -> None:
    """Run one of the commands; a sentence and exit code 3 where this machine cannot."""
    try:
        match words:
            case ["up"]:
                up()
                _print_use()
                _bring_images()
            case ["down"]:
                down()
            case ["serve", purpose]:
                _serve(purpose)
            case _:
                sys.exit(f"usage: python -m tests.harness.up up|down, not {' '.join(words)!r}")
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_UNAVAILABLE)
    except StartError as error:
        sys.exit(f"error: {error}")


def _print_use() -> None:
    print("A Kubernetes node is up on this machine. To use it:")
    print(f"  export KUBECONFIG={KUBECONFIG}")
    if not shutil.which("kubectl"):
        print(f"  export PATH={binaries.find_or_build('kubectl')['kubectl'].parent}:$PATH")
    print("  kubectl get nodes")
    print("`make cluster-down` takes it down again.", flush=True)


def _bring_images() -> None:
    for image in images.build("operator", "jobs-cpu").values():
        node.import_image(image.archive)
        print(f"The node has the image {image.reference}.", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
