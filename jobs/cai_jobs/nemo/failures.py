"""A program's end in words: what is wrong, and whether trying again can help."""

from __future__ import annotations

import signal

from cai_jobs.contract.program import EXIT_INPUT, InputError, RetryableError
from cai_jobs.nemo.log import Reading


def failure(name: str, code: int, reading: Reading, where: str = "") -> InputError | RetryableError:
    """The exception for a program that ended with an exit code other than 0.

    Args:
        name: what the program is called.
        code: its exit code, negative for a signal.
        reading: what its log said.
        where: how far it was, such as " at step 3 of 50".
    """
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    if reading.setting is not None:
        return InputError(f"{name} refuses a setting: {reading.setting}; correct the stage's overrides")
    why = reading.error or reading.last or "its log says nothing"
    if code == EXIT_INPUT:
        return InputError(f"{name}: {why}")
    if reading.memory:
        why = f"{why}; a smaller micro batch or a larger tensor_model_parallel_size takes less memory"
    if code == -signal.SIGKILL:
        why = f"{why}; the pod's memory may not have sufficed"
    return RetryableError(f"{name} {how}{where}: {why}")
