"""One of NeMo's converters, run to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cai_jobs.nemo import commands, log
from cai_jobs.nemo.child import Child
from cai_jobs.nemo.failures import failure

OUTPUT_FLAG = "--output_path"
LOOK_S = 1.0


def convert(converter: Sequence[str], work: Path, grace_s: float, what: str) -> None:
    """Run a converter in `work`; its log is passed on.

    Args:
        what: for the sentence of a failure, such as " on base".

    Raises:
        InputError: it refuses its input.
        RetryableError: it failed.
    """
    reading = log.Reading()
    with Child(converter, work, grace_s) as child:
        while child.code is None:
            for line in child.lines(LOOK_S):
                reading.read(line)
        for line in child.lines(LOOK_S):
            reading.read(line)
        code = child.code
    if code:
        raise failure(commands.name_of(converter), code, reading, what)


def output_of(converter: Sequence[str]) -> Path | None:
    """Where a converter is told to write; None where it is not told."""
    place = list(converter).index(OUTPUT_FLAG) + 1 if OUTPUT_FLAG in converter else len(converter)
    return Path(converter[place]) if place < len(converter) else None
