"""Programs of `cai_jobs` as processes of their own that start in milliseconds: forks of one that has imported them.

What a program does to its process (signals, exit codes, files, being killed) is real; only the second that imports take
is spared, so that a test can kill it many times.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.stand_in import call

_PRELOADED = ["aiohttp", "cai_jobs.generate_sl_cai_dataset", "cai_jobs.generate_rl_cai_dataset"]


class ForkedProgram:
    """A running program.

    Args:
        module: whose `main` is run, as `python -m` would.
        log: where its output is appended.
        kill: (URL of a stand-in server, fields of its `Kill` but the pid): the program asks to be killed before it
            begins; None lets it live.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], log: Path, kill: tuple[str, Mapping[str, Any]] | None = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._process = context.Process(target=_run, args=(module, list(arguments), log, kill), daemon=True)
        self._process.start()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def wait(self, patience_s: float = 300.0) -> int:
        """Its exit code once it has ended; -9 if it was killed.

        Raises:
            TimeoutError: it has not ended; it is killed.
        """
        self._process.join(patience_s)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"{self._process.name} had not ended after {patience_s:.0f} s")
        return code


def _run(module: str, arguments: list[str], log: Path, kill: tuple[str, Mapping[str, Any]] | None) -> None:
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if kill is not None:
        url, fields = kill
        call("PUT", f"{url}/stand-in/kill", {"pid": os.getpid(), **fields})
    from cai_jobs.contract import program

    sys.argv = [module, *arguments]
    program.run(importlib.import_module(module).main)
