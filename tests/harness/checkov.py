"""checkov, which looks for insecure settings in manifests, in an environment of its own: it pins what we have newer.

`python -m tests.harness.checkov DIRECTORY` finds or makes the environment and checks a directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.cache import cache_root, locked, say
from tests.harness.processes import Unavailable

LOCK = Path(__file__).parents[1] / "checkov_packages" / "requirements.txt"
LOCKED_FOR = "3.11"


@dataclass(frozen=True, order=True)
class Complaint:
    """What checkov has against an object: its check, and the object as KIND.NAMESPACE.NAME."""

    check: str
    about: str
    title: str


def find_or_make() -> Path:
    """The environment's Python: from the cache, or made into it by one process while the others wait.

    Raises:
        Unavailable: this machine cannot have it, with the reason.
    """
    if sysconfig.get_config_var("py_version_short") != LOCKED_FOR:
        raise Unavailable(f"{LOCK.name} of checkov is locked for Python {LOCKED_FOR}")
    kept = cache_root() / "checkov"
    directory = kept / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    if not directory.is_dir():
        with locked(kept / "lock"):
            if not directory.is_dir():
                _make(directory)
                for other in kept.iterdir():
                    if other.is_dir() and other != directory:
                        shutil.rmtree(other)
    return directory / "bin" / "python"


def check(directory: Path) -> tuple[list[Complaint], int]:
    """What is wrong with the manifests of a directory, and how many checks passed.

    Raises:
        Unavailable: checkov cannot be had.
        AssertionError: it could not read a file.
    """
    python = find_or_make()
    command = [python, "-m", "checkov.main", "--directory", directory, "--framework", "kubernetes", "--output", "json"]
    command += ["--compact", "--skip-download", "--soft-fail"]
    # nothing of our own environment, and no word to anybody
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "PYTHONNOUSERSITE": "1"}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    reports: Any = json.loads(done.stdout)
    complaints, passed = [], 0
    for report in reports if isinstance(reports, list) else [reports]:
        assert report["summary"]["parsing_errors"] == 0, report["results"].get("parsing_errors")
        passed += report["summary"]["passed"]
        complaints += [
            Complaint(found["check_id"], found["resource"], found["check_name"])
            for found in report["results"]["failed_checks"]
        ]
    return sorted(complaints), passed


def _make(directory: Path) -> None:
    say("installing checkov for the tests (about a minute and 300 MB, once)")
    began = time.monotonic()
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _run(sys.executable, "-m", "venv", "--without-pip", partial)
    _run(
        sys.executable, "-m", "pip", "--python", partial / "bin" / "python", "install", "--quiet", "--no-cache-dir",
        "--no-deps", "--requirement", LOCK,
    )  # fmt: skip
    partial.rename(directory)
    say(f"installed in {time.monotonic() - began:.0f} s")


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise Unavailable(f"checkov could not be installed ({' '.join(map(str, command[1:3]))}):\n{said}")


if __name__ == "__main__":
    try:
        for complaint in check(Path(sys.argv[1]))[0]:
            print(complaint)
    except Unavailable as error:
        sys.exit(f"error: {error}")
