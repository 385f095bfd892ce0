"""An event loop inside a program, ended by SIGTERM as surely as a program without one."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
COLLECT_EVERY = 50_000
"""Objects made, less those freed, between two garbage collections."""


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run`, with SIGTERM ending the work first where the program has a handler for it.

    A handler that raises, as that of `contract.program.run` does, is not heard while the loop calls one of its own
    callbacks: asyncio logs what these raise and goes on. So the loop is told of the signal, the work is cancelled, and
    the handler has its say once the work has let go of its files and connections.

    Raises:
        RuntimeError: a loop runs in this thread already.
    """
    # a collection looks at every row in work; at the default pace that is a seventh of a busy generator's time
    gc.set_threshold(COLLECT_EVERY)
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        return asyncio.run(work)
    terminated = False

    async def heeding() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, stop)
        try:
            return await work
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        return asyncio.run(heeding())
    except asyncio.CancelledError:
        if terminated:
            handler(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
