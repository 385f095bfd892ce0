"""Write images/requirements-*.txt: for each image the packages it needs, at the versions of requirements.lock.

    .venv/bin/python images/locks.py            write the files
    .venv/bin/python images/locks.py --check    exit 1, naming the file, if one is not as it would be written

What needs what is read from the packages installed in .venv (`make` installs requirements.lock there), so run it after
`make lock`.
"""

import sys
from collections.abc import Collection
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
PYTHON_OF_BOOKWORM = "3.11"  # and of the nemo image: the second Python of its Ubuntu
PYTHON_OF_TRIXIE = "3.13"
NVIDIAS_PART = ("torch", "trl", "accelerate", "tensorboard", "fastapi", "uvicorn")
# `pip freeze` leaves setuptools out of requirements.lock, though torch and tensorboard ask for it.
LEFT_OUT_OF_LOCK = {"setuptools": "84.2.1"}


def main() -> int:
    pins = locked(HERE.parent / "requirements.lock") | LEFT_OUT_OF_LOCK
    files = {
        "requirements-build.txt": needs("hatchling", PYTHON_OF_BOOKWORM) | {"hatchling"},
        "requirements-operator.txt": needs("cai-operator", PYTHON_OF_BOOKWORM),
        "requirements-jobs.txt": needs("cai-operator", PYTHON_OF_BOOKWORM, extras=("jobs",)),
        # Debian's torch comes with what it needs itself; the rest is the same as on GPUs.
        "requirements-jobs-cpu.txt": needs("cai-operator", PYTHON_OF_TRIXIE, extras=("jobs",), without=("torch",)),
        # What trains and serves is NVIDIA's own there.
        "requirements-nemo.txt": needs("cai-operator", PYTHON_OF_BOOKWORM, extras=("jobs",), without=NVIDIAS_PART),
    }
    stale = []
    for name, packages in files.items():
        text = "# Made by `.venv/bin/python images/locks.py` from requirements.lock.\n"
        text += "".join(f"{package}=={pins[package]}\n" for package in sorted(packages))
        path = HERE / name
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(f"images/{name}")
    if stale:
        print(f"error: {', '.join(stale)}: not what requirements.lock gives; run .venv/bin/python images/locks.py")
    return 1 if stale else 0


def locked(path: Path) -> dict[str, str]:
    """Name (canonical) -> version of every `name==version` line of a lock file."""
    lines = [line.split("==") for line in path.read_text().splitlines() if "==" in line]
    return {canonicalize_name(name): version.strip() for name, version in lines}


def needs(package: str, python: str, extras: Collection[str] = (), without: Collection[str] = ()) -> set[str]:
    """Names of everything `package` needs on that Python, itself left out; what stands in `without` is not followed."""
    todo: list[tuple[str, tuple[str, ...]]] = [(package, ("", *extras))]
    done = set()
    while todo:
        current = todo.pop()
        if current in done:
            continue
        done.add(current)
        name, wanted_extras = current
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            needed = canonicalize_name(requirement.name)
            environments = [
                {"python_version": python, "python_full_version": f"{python}.0", "extra": e} for e in wanted_extras
            ]
            applies = requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments)
            if applies and needed not in without:
                todo.append((needed, ("", *sorted(requirement.extras))))
    return {name for name, _ in done} - {package}


if __name__ == "__main__":
    sys.exit(main())
