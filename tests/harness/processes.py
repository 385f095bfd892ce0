"""Programs that a test starts: they log to a file, die with the test, and say why when they do not come up."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

PR_SET_PDEATHSIG = 1
# below the ports Linux gives to outgoing connections, so that a stopped server finds its port free again
PORTS = range(20000, 32000)
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Unavailable(RuntimeError):
    """This machine cannot do what was asked; the message says why and what to do about it."""


class StartError(RuntimeError):
    """A program did not come up; the message holds the end of its log."""


class Program:
    """A running program, its log and its end.

    It is killed when the thread that started it ends: start programs from the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        parent = os.getpid()
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                # a Ctrl-C on the terminal is for the test, which then stops its programs in order
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, patience_s: float = 15.0) -> None:
        """SIGTERM, then SIGKILL for one that does not go; no error if it is gone already."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        if self.running:
            self._process.kill()
        self._process.wait()

    @property
    def returncode(self) -> int | None:
        """Its exit code; -N if signal N killed it; None while it runs."""
        return self._process.poll()

    def wait_until(self, ready: Callable[[], bool], patience_s: float = 120.0) -> None:
        """Return once `ready` holds; StartError with the end of the log if the program ends or takes too long."""
        wait_until_ready(self, ready, patience_s)

    def last_lines(self, count: int = 15) -> str:
        """The end of the log, under a line that names its file."""
        return last_lines(self.log, count)


class Started(Protocol):
    """A program that was started and has a name and a log."""

    name: str
    log: Path

    @property
    def returncode(self) -> int | None: ...


def wait_until_ready(program: Started, ready: Callable[[], bool], patience_s: float = 120.0) -> None:
    """Return once `ready` holds; StartError with the end of the log if the program ends or takes too long."""
    end = time.monotonic() + patience_s
    while True:
        # running: another program may answer on the port this one could not have
        if ready() and program.returncode is None:
            return
        code = program.returncode
        if code is not None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise StartError(f"{program.name} {how} before it was ready.\n{last_lines(program.log)}")
        if time.monotonic() > end:
            raise StartError(f"{program.name} was not ready within {patience_s:.0f} s.\n{last_lines(program.log)}")
        time.sleep(0.05)


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, under a line that names its file."""
    lines = log.read_text(errors="replace").splitlines()[-count:]
    return "\n".join([f"The last lines of {log}:", *(f"  {line[:400]}" for line in lines)])


def wait_for(what: str, ready: Callable[[], bool], patience_s: float = 120.0) -> None:
    """Return once `ready` holds; StartError naming `what` if it takes too long."""
    end = time.monotonic() + patience_s
    while not ready():
        if time.monotonic() > end:
            raise StartError(f"{what} did not come to be within {patience_s:.0f} s")
        time.sleep(0.05)


def free_port(address: str = "127.0.0.1") -> int:
    """A port nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port


def die_with(parent: int) -> None:
    """Let the kernel kill this process, just forked, when the thread of `parent` that forked it ends."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
