"""A program run as a child: its output line by line, signals passed on, nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cai_jobs.contract.program import InputError

STOP_SIGNALS: Mapping[str, signal.Signals] = {"TERM": signal.SIGTERM, "INT": signal.SIGINT}
KILLED_S = 10.0
_OWN_THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
"""Set for this one process by the program contract; a program that starts one for each GPU has its own ways."""

_ENDS = re.compile(rb"[\r\n]")


class Child:
    """A program in a process group of its own, as long as the `with` lasts.

    Leaving the `with` in any way, a signal to this process among them, stops the group: first with `stop_signal`, after
    `grace_s` with SIGKILL. Everything the program prints is printed here as it comes.

    Args:
        command: the program and its arguments; no shell is between.
        directory: where it runs.
        grace_s: seconds between asking and killing.
        stop_signal: how it is asked.

    Raises:
        InputError: there is no such program.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        grace_s: float = 50.0,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = list(command)
        self._directory, self._grace_s, self._stop_signal = directory, grace_s, stop_signal
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._over = False

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._directory,
                env={name: value for name, value in os.environ.items() if name not in _OWN_THREADS},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as problem:
            raise InputError(
                f"{self.command[0]}: {problem.strerror}; is this the image with NVIDIA's programs?"
            ) from problem
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.stop()

    def lines(self, patience_s: float) -> list[str]:
        """What it printed since the last call, waiting at most so long for the first; tqdm's rewritten lines too."""
        found: list[str] = []
        if self._over:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
            return found
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=patience_s)
            while line is not None:
                found.append(line)
                line = self._lines.get_nowait()
            self._over = True
        return found

    @property
    def code(self) -> int | None:
        """Its exit code once it has ended, negative for a signal; None before."""
        return self._process.poll()

    def stop(self) -> None:
        """End the group, whatever is left of it."""
        # a second signal to this process must not leave the program behind
        with _signals_held():
            if self.code is None:
                self._send(self._stop_signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(self._grace_s)
            # also where the program itself has ended: workers of its data loaders may not have
            self._send(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_S)
            self._reader.join(KILLED_S)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        while block := os.read(stream.fileno(), 65536):
            _show(block)
            *whole, rest = _ENDS.split(rest + block)
            for line in filter(None, whole):
                self._lines.put(line.decode(errors="replace"))
        if rest:
            self._lines.put(rest.decode(errors="replace"))
        self._lines.put(None)


def _show(block: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.buffer.write(block)
        sys.stderr.buffer.flush()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
