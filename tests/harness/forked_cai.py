"""`cai` whose programs are forks of it, where it has been forked from one that has imported what they need.

Pids, sessions, signals, logs, environments and exit codes are those of a run; only starting is sooner. The command line
that /proc shows of a program is not its own: look for the log it writes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, BinaryIO
from unittest.mock import patch

from tests.harness.forked_program import become

from cai_operator import cli, local_processes

PROGRAMS = "cai_jobs."


class _Fork:
    """What `cai_operator.local_processes` needs of a `subprocess.Popen`."""

    def __init__(self, argv: Sequence[str], output: BinaryIO, environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        parent = os.getpid()
        begun, to_tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            become(argv[2], argv[3:], environment, output.fileno(), parent)
        # the fork closes its end once it has a session: from then on its process group can be sent a signal
        os.close(to_tell)
        os.read(begun, 1)
        os.close(begun)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def _start(argv: Sequence[str], **given: Any) -> Any:
    if argv[1] == "-m" and argv[2].startswith(PROGRAMS):
        return _Fork(argv, given["stdout"], given["env"])
    return subprocess.Popen(argv, **given)


if __name__ == "__main__":
    with patch.object(local_processes, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": _start})):
        cli.main()
