"""Processes of the local executor: started in sessions of their own, never outliving the one that started them.

Linux only: a child asks the kernel for SIGKILL at its parent's death, and a guard process kills what such a child had
started itself. So not even SIGKILL of `cai run` leaves a program behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from cai_operator.workloads import Probe

PR_SET_PDEATHSIG = 1
PROBE_TIMEOUT_S = 1.0
LOOPBACK = "127.0.0.1"
LONGEST_SENTENCE = 600
ERROR_MARK = "error: "

# what a program may see of the user's environment: paths, locale, proxies, caches, devices; no tokens or keys
INHERITED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "OMP_WAIT_POLICY",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT",
    "TRANSFORMERS_OFFLINE",
})  # fmt: skip
INHERITED_PREFIXES = ("LC_", "XDG_", "CUDA_", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_")

# reads "+ID" and "-ID" lines of process groups; at the end of its input it kills the groups it was not told to forget
_GUARD = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Guard:
    """The process that kills the process groups we leave behind should we be killed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-I", "-S", "-c", _GUARD]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, text=True, start_new_session=True, env=dict(environment)
        )

    def watch(self, group: int) -> None:
        """Kill this process group if we die."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """This process group is gone."""
        self._tell(f"-{group}")

    def close(self) -> None:
        """End the guard; whatever it still watches dies."""
        with contextlib.suppress(OSError):
            self._input.close()
        self._process.wait()

    @property
    def _input(self) -> Any:
        assert self._process.stdin is not None
        return self._process.stdin

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a killed guard: the kernel's signal at our death still stands
            self._input.write(line + "\n")
            self._input.flush()


class Process:
    """One started program, leader of its own session, with its output appended to a log.

    Start from the main thread only: the kernel's signal at the parent's death follows the thread that started it.

    Raises:
        OSError: the log cannot be written or the program does not exist.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, header: str, guard: Guard
    ) -> None:
        self._guard = guard
        argv = [sys.executable if command[0] == "python" else command[0], *command[1:]]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            output.write(b"==== " + " ".join(header.splitlines()).encode() + b"\n")
            output.flush()
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        guard.watch(self.pid)

    @property
    def pid(self) -> int:
        """Process and process group id."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """None while it runs; -N if signal N killed it. What it left in its process group is killed with it."""
        if self._popen.returncode is None:
            # the leader is still a zombie here, so that its group's id cannot be anybody else's yet
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.signal_group(signal.SIGKILL)
            self._popen.wait()
            self._guard.forget(self.pid)
        return self._popen.returncode

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the program and everything it started."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def child_environment(base: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The part of `base` every program may see, overlaid by its own variables."""
    inherited = {
        name: value for name, value in base.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    return {**inherited, "PYTHONUNBUFFERED": "1", **own}


def answers(host: str, port: int, probe: Probe, client: httpx.Client) -> bool:
    """Whether the path of the probe answers 200; with no path, whether the port accepts a connection."""
    if probe.path is None:
        try:
            with socket.create_connection((host, port), PROBE_TIMEOUT_S):
                return True
        except OSError:
            return False
    try:
        return client.get(f"http://{host}:{port}{probe.path}").status_code == 200
    except httpx.HTTPError:
        return False


def free_port(preferred: int, taken: frozenset[int]) -> int:
    """The preferred port of the loopback address, or any free one where that is taken or in use."""
    if preferred not in taken and port_is_free(preferred):
        return preferred
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class LogTail:
    """The newest progress line of a log that grows; every look reads only what is new."""

    BACKLOG = 1 << 20

    def __init__(self, path: Path) -> None:
        self._path, self._rest = path, b""
        self._offset = path.stat().st_size if path.exists() else 0
        self.progress: Mapping[str, Any] | None = None

    def look(self) -> Mapping[str, Any] | None:
        """The value of the newest `{"progress": …}` line so far."""
        try:
            size = self._path.stat().st_size
            if size == self._offset:
                return self.progress
            with self._path.open("rb") as file:
                self._offset = max(min(self._offset, size), size - self.BACKLOG)
                file.seek(self._offset)
                new = file.read(self.BACKLOG)
        except OSError:
            return self.progress
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        self._rest = self._rest[-self.BACKLOG :]
        for line in reversed(lines):
            if line.startswith(b'{"progress"'):
                with contextlib.suppress(ValueError):
                    value = json.loads(line)["progress"]
                    if isinstance(value, dict):
                        self.progress = value
                        break
        return self.progress


def read_last_word(path: Path) -> Mapping[str, Any] | None:
    """A program's termination message, or None where it left none that can be read."""
    try:
        word = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return word if isinstance(word, dict) else None


def why(code: int, word: Mapping[str, Any] | None, log: Path) -> str:
    """A sentence for a program's end: its own, else the signal, else the last line it wrote."""
    if word is not None and isinstance(word.get("error"), str):
        return str(word["error"])
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
        return f"killed by {name}{memory}"
    lines = _last_lines(log)
    own = next((line for line in lines if line.startswith(ERROR_MARK)), None)  # there though its last word is not
    if own is not None:
        return own.removeprefix(ERROR_MARK)
    return f"exited with code {code}" + (f": {lines[0]}" if lines else "")


def now() -> datetime:
    """The present, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _last_lines(log: Path) -> list[str]:
    """The newest lines of the last attempt, the newest first, without its progress."""
    found: list[str] = []
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        for line in reversed(file.read().decode(errors="replace").splitlines()):
            if line.startswith("==== "):  # what stands above is of an earlier attempt
                break
            if line.strip() and not line.startswith('{"progress"'):
                found.append(line.strip()[:LONGEST_SENTENCE])
    return found


def _die_with_parent(parent: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died in between
            os._exit(1)

    return prepare
