"""A server under the wrapper: its inputs are looked at, signals reach it in the form it understands."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cai_jobs.contract.program import RetryableError
from cai_jobs.nemo import inputs, log
from cai_jobs.nemo.child import STOP_SIGNALS, Child
from cai_jobs.nemo.commands import name_of
from cai_jobs.nemo.failures import failure

LOOK_S = 1.0


def serve(args: argparse.Namespace, command: Sequence[str]) -> NoReturn:
    """Run a server until this process is asked to stop, which ends it as the exception of that signal does.

    Raises:
        InputError: an input is not whole, or the server refuses a setting.
        RetryableError: the server ended by itself.
    """
    inputs.check(args.input, args.check_inputs or "sizes")
    until_ended(args, command, lambda: False)
    raise AssertionError("nobody asks it to stop but by a signal")


def until_ended(args: argparse.Namespace, command: Sequence[str], is_to_stop: Callable[[], bool]) -> None:
    """Run a server until it is to stop; return when it is stopped.

    Raises:
        InputError: the server refuses a setting.
        RetryableError: the server ended by itself.
    """
    reading = log.Reading()
    with (
        tempfile.TemporaryDirectory(prefix="nemo-") as directory,
        Child(command, Path(directory), args.grace_s, STOP_SIGNALS[args.stop_signal]) as child,
    ):
        while child.code is None:
            for line in child.lines(LOOK_S):
                reading.read(line)
            if is_to_stop():
                return
        for line in child.lines(LOOK_S):
            reading.read(line)
        code = child.code
    if code:
        raise failure(name_of(command), code, reading)
    raise RetryableError(f"{name_of(command)}, a server, ended by itself with 0; its log says why")
