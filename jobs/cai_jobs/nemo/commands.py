"""Command lines that hold other command lines: FLAGS -- PROGRAM ARGUMENTS [-- PROGRAM ARGUMENTS ...]."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cai_jobs.contract.program import InputError

MARK = "--"


def split(argv: Sequence[str] | None) -> tuple[list[str], list[list[str]]]:
    """The flags before the first `--`, and the commands after each.

    Raises:
        InputError: a command is empty.
    """
    parts: list[list[str]] = [[]]
    for argument in sys.argv[1:] if argv is None else argv:
        if argument == MARK:
            parts.append([])
        else:
            parts[-1].append(argument)
    flags, *commands = parts
    if not all(commands):
        raise InputError("nothing follows a --; a program and its arguments are wanted there")
    return flags, commands


def name_of(command: Sequence[str]) -> str:
    """What to call a command: its script, or its program where it has none."""
    scripts = (part for part in command if part.endswith(".py"))
    return next(scripts, command[0]).rsplit("/", 1)[-1]
