"""checkov, which looks for insecure settings in manifests, in an environment of its own: it pins what we have newer.

`python -m tests.harness.checkov DIRECTORY` finds or makes the environment and checks a directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import package_environment
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
    """The environment's Python, found or made.

    Raises:
        Unavailable: this machine cannot have it, with the reason.
    """
    if sysconfig.get_config_var("py_version_short") != LOCKED_FOR:
        raise Unavailable(f"{LOCK.name} of checkov is locked for Python {LOCKED_FOR}")
    return package_environment.find_or_make("checkov", LOCK, "checkov", "about a minute and 300 MB")


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


if __name__ == "__main__":
    try:
        for complaint in check(Path(sys.argv[1]))[0]:
            print(complaint)
    except Unavailable as error:
        sys.exit(f"error: {error}")
