"""How every program starts, fails and says its last word.

The contract (docs/contracts.md, "Programs"): exit 0 is done, 2 means the input or a setting is wrong and running again
cannot help, anything else may be tried again. The last word is one JSON object of at most 4096 bytes, the size
Kubernetes keeps of a container's termination message.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

EXIT_INPUT = 2
EXIT_RETRY = 1
EXIT_TERMINATED = 143
TERMINATION_MESSAGE_LIMIT = 4096
KUBERNETES_TERMINATION_LOG = Path("/dev/termination-log")

Main = Callable[[Sequence[str] | None], Mapping[str, Any] | None]


class InputError(Exception):
    """The input or a setting is wrong: say what, where and what to do. Exit code 2, never retried."""


class RetryableError(Exception):
    """Something outside failed and may work later (a server gone, a full disk). Exit code 1."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `InputError`s, with the flags of the program contract.

    Adds --artifact-dir, --artifact-header, --termination-message, --progress; see `contract.artifacts` and
    `contract.progress` for what they mean.
    """

    def __init__(self, program: str, description: str, *, artifact: bool = True) -> None:
        super().__init__(
            prog=f"python -m cai_jobs.{program}",
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        group = self.add_argument_group("program contract")
        if artifact:
            group.add_argument("--artifact-dir", type=Path, help="publish the outputs as this directory")
            group.add_argument("--artifact-header", help="JSON {stage, key, parameters, inputs} for its manifest")
        group.add_argument("--termination-message", type=Path, help="write the last word (JSON, at most 4 KB) here")
        group.add_argument(
            "--progress", choices=["auto", "bar", "json", "none"], default="auto", help="how it is shown"
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; --help lists the flags")


def run(main: Main) -> NoReturn:
    """Run a program's `main(argv)` under the contract and exit the process."""
    argv = sys.argv[1:]
    signal.signal(signal.SIGTERM, _raise_terminated)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    message_path = _termination_message_path(argv)
    try:
        last_word = dict(main(argv) or {})
    except (InputError, RetryableError) as problem:
        code = EXIT_INPUT if isinstance(problem, InputError) else EXIT_RETRY
        _leave(message_path, {"error": str(problem)}, code)
    except KeyboardInterrupt:
        _leave(message_path, {"error": "interrupted; the same command goes on from here"}, 130)
    except _TerminatedError:
        _leave(message_path, {"error": "asked to stop; the same command goes on from here"}, EXIT_TERMINATED)
    except OSError as problem:
        sentence = describe_os_error(problem)
        if sentence is None:
            traceback.print_exc()
            sentence = f"{type(problem).__name__}: {problem}"
        _leave(message_path, {"error": sentence}, EXIT_RETRY)
    except Exception as problem:  # the pod's last line must name the failure, whatever it was
        traceback.print_exc()
        _leave(message_path, {"error": f"{type(problem).__name__}: {problem}"}, EXIT_RETRY)
    _write_last_word(message_path, last_word)
    _exit(0)


def available_cores() -> int:
    """Cores this process may use: its CPU affinity, lowered by a cgroup v1 or v2 CPU quota where one is set."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return cores
    if quota in ("max", "-1"):
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def describe_os_error(problem: OSError) -> str | None:
    """A sentence for the operating system errors a user meets, or None for one that deserves its traceback."""
    where = problem.filename or "the output"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk while writing {where}; make room and run again: finished work is kept"
    if problem.errno == errno.EADDRINUSE:
        return f"{problem.strerror or 'address already in use'}: choose another --port or stop what listens there"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {where} ({problem.strerror}); check its owner and the pod's user"
    return None


class _TerminatedError(BaseException):
    pass


def _raise_terminated(_signum: int, _frame: FrameType | None) -> None:
    raise _TerminatedError


def _termination_message_path(argv: Sequence[str]) -> Path | None:
    # read before the parser runs: a mistake on the command line must leave its sentence too
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--termination-message", type=Path)
    try:
        path: Path | None = finder.parse_known_args(argv)[0].termination_message
    except SystemExit:
        path = None
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None  # torchrun starts several processes with the same flags; one of them speaks for the pod
    if path is None and KUBERNETES_TERMINATION_LOG.is_file():
        return KUBERNETES_TERMINATION_LOG
    return path


def _leave(path: Path | None, last_word: Mapping[str, Any], code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # its log may be on the full disk it complains of
        print(f"error: {last_word['error']}", file=sys.stderr, flush=True)
    _write_last_word(path, last_word)
    _exit(code)


def _exit(code: int) -> NoReturn:
    # not sys.exit: a library's threads must not keep a failed program alive, and torch takes a second to unload
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _write_last_word(path: Path | None, last_word: Mapping[str, Any]) -> None:
    if path is None:
        return
    text = json.dumps(last_word, ensure_ascii=False)
    if len(text.encode()) > TERMINATION_MESSAGE_LIMIT:
        keep = {k: v for k, v in last_word.items() if k in ("artifact", "error")}
        if isinstance(keep.get("error"), str):
            keep["error"] = keep["error"].encode()[:3500].decode(errors="ignore")
        text = json.dumps(keep, ensure_ascii=False)
    try:
        path.write_text(text)
    except OSError as problem:
        with contextlib.suppress(OSError):
            print(f"warning: the termination message could not be written to {path}: {problem}", file=sys.stderr)
