"""Where what takes long to make is kept between test runs, and how processes that want it take turns."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """The cache of this project."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "cai-operator"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of this file, once whoever holds it lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    """Tell whoever waits what is being made, past what is piped."""
    print(text, file=sys.stderr, flush=True)
