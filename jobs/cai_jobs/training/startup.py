"""The imports of torch, transformers and TRL: most of a small run's time, so done with care."""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """A block that imports torch and its kin, or loads a model, which imports more; it takes a sixth less.

    Importing makes some hundred thousand objects that stay; the garbage collector would walk over them again and again.
    Nothing is sent to or asked of the hub.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # transformers announces the renaming of an option that TRL itself still sets
    warnings.filterwarnings("ignore", message=r"`gradient_checkpointing` is deprecated", category=FutureWarning)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()
