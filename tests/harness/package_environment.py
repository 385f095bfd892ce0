"""Python packages that cannot live beside ours: a locked set of them in an environment of its own, in the cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.harness.cache import cache_root, locked, say
from tests.harness.processes import Unavailable


def find_or_make(
    name: str, lock: Path, packages: str, costs: str, *, free_gb: int = 0, pip_flags: Sequence[str] = ()
) -> Path:
    """The environment's Python: from the cache, or made into it by one process while the others wait.

    One is kept for each name, that of the present lock.

    Args:
        name: its folder in the cache.
        lock: requirements that are installed as they stand.
        packages: what they are, for people.
        costs: what installing them takes, for people.
        free_gb: disk that must be free to begin; 0: it is not looked at.
        pip_flags: more flags for pip.

    Raises:
        Unavailable: this machine cannot have it, with the reason.
    """
    kept = cache_root() / name
    directory = kept / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not directory.is_dir():
        with locked(kept / "lock"):
            if not directory.is_dir():
                _require_room(kept, packages, free_gb)
                say(f"installing {packages} for the tests ({costs}, once)")
                _make(directory, lock, packages, pip_flags)
                for other in kept.iterdir():
                    if other.is_dir() and other != directory:
                        shutil.rmtree(other)
    return directory / "bin" / "python"


def _require_room(folder: Path, packages: str, free_gb: int) -> None:
    free = shutil.disk_usage(folder).free / 1e9 if free_gb else 0.0
    if free < free_gb:
        raise Unavailable(
            f"{packages} take {free_gb} GB while they are installed, and {folder} has {free:.0f} GB free; "
            "free some, or set XDG_CACHE_HOME to a larger disk"
        )


def _make(directory: Path, lock: Path, packages: str, pip_flags: Sequence[str]) -> None:
    began = time.monotonic()
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _run(packages, sys.executable, "-m", "venv", "--without-pip", partial)
    # this environment's pip does the work, so that the other one holds what its programs need and no more
    _run(
        packages, sys.executable, "-m", "pip", "--python", partial / "bin" / "python", "install", "--quiet",
        "--no-cache-dir", "--no-deps", *pip_flags, "--requirement", lock,
    )  # fmt: skip
    partial.rename(directory)
    say(f"installed in {time.monotonic() - began:.0f} s")


def _run(packages: str, *command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise Unavailable(f"{packages} could not be installed ({' '.join(map(str, command[1:3]))}):\n{said}")
