"""Programs as processes of their own that start in milliseconds: forks of one that has imported what they need.

What a program does to its process (signals, exit codes, files, being killed) is real; only the seconds that imports
take are spared, so that a test can start and kill it many times. That it also starts by itself is other tests' matter.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.harness.processes import die_with, wait_until_ready
from tests.harness.stand_in import call

PRELOADED = "tests.harness.preloaded"


class ForkedProgram:
    """A running program, `python -m MODULE ARGUMENTS` but for its start; it dies with the test's process.

    Args:
        log: where its output is appended.
        environment: all of its environment; None: the test's own.
        directory: its working directory; None: the test's own.
        kill: (URL of a stand-in server, fields of its `Kill` but the pid): the program asks to be killed before it
            begins; None lets it live.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        kill: tuple[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.name, self.log = module, log
        log.touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOADED])
        its_environment = dict(os.environ if environment is None else environment)
        given = (module, list(arguments), log.absolute(), its_environment, directory or Path.cwd(), kill)
        self._process = context.Process(target=_run, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id, and that of its session and process group."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code; -N if signal N killed it; None while it runs."""
        return self._process.exitcode

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.returncode is None

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.returncode

    def wait(self, timeout: float = 900.0) -> int:
        """Its exit code once it has ended.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds; it is killed.
        """
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"{self.name} had not ended after {timeout:.0f} s")
        return code

    def wait_until(self, ready: Callable[[], bool], patience_s: float = 120.0) -> None:
        """Return once `ready` holds; StartError with the end of the log if it ends or takes too long."""
        wait_until_ready(self, ready, patience_s)

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.running:
            os.kill(self.pid, number)

    def stop(self, patience_s: float = 15.0) -> None:
        """SIGTERM, then SIGKILL for one that does not go; no error if it is gone already."""
        self.send_signal(signal.SIGTERM)
        self._process.join(patience_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        self._process.kill()
        self._process.join()


def become(module: str, arguments: Sequence[str], environment: Mapping[str, str], output: int, parent: int) -> NoReturn:
    """Be the program from here on, in a process that was just forked for it and dies with `parent`."""
    os.setsid()
    die_with(parent)
    for descriptor, number in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0, closefd=False)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    code: object = 0
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        _count_threads()
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _run(
    module: str,
    arguments: list[str],
    log: Path,
    environment: dict[str, str],
    directory: Path,
    kill: tuple[str, Mapping[str, Any]] | None,
) -> None:
    os.chdir(directory)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if kill is not None:
        url, fields = kill
        call("PUT", f"{url}/stand-in/kill", {"pid": os.getpid(), **fields})
    become(module, arguments, environment, output, os.getppid())


def _count_threads() -> None:
    # torch read how many there are to be when it was imported, in another environment
    if "torch" in sys.modules:
        cores = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
        sys.modules["torch"].set_num_threads(int(cores))
