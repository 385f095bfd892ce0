"""Build the container images with docker or buildah, whichever works here: `make images`, or

    python3 images/build.py [operator] [jobs] [jobs-cpu] [nemo] [--builder buildah] [--base REFERENCE]

Tags cai-operator:dev, cai-jobs:dev (GPUs, 6 GB), cai-jobs:dev-cpu, and, if asked, cai-nemo:dev, whose base is
NVIDIA's. pip in the build uses the index and the certificates that this machine's pip is set to, in its environment or
in `pip config`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Debian's empty directory for passing mounts: nothing has to be made in the image to mount certificates there.
CERTIFICATES = "/mnt"


@dataclass(frozen=True)
class Flavour:
    """An image we build: its Dockerfile, its locked packages (both below images/) and its tag."""

    dockerfile: str
    lock: str
    tag: str


FLAVOURS = {
    "operator": Flavour("operator/Dockerfile", "requirements-operator.txt", "cai-operator:dev"),
    "jobs": Flavour("jobs/Dockerfile", "requirements-jobs.txt", "cai-jobs:dev"),
    "jobs-cpu": Flavour("jobs/Dockerfile.cpu", "requirements-jobs-cpu.txt", "cai-jobs:dev-cpu"),
    "nemo": Flavour("nemo/Dockerfile", "requirements-nemo.txt", "cai-nemo:dev"),
}
# nemo only by name: its base is tens of gigabytes
DEFAULT = ("operator", "jobs", "jobs-cpu")


def main() -> int:
    parser = argparse.ArgumentParser(prog="images/build.py", description="Build the container images.")
    parser.add_argument(
        "flavours", nargs="*", metavar="FLAVOUR", help=f"{', '.join(FLAVOURS)}; default: {', '.join(DEFAULT)}"
    )
    parser.add_argument("--builder", choices=("docker", "buildah"), help="default: docker if it answers, else buildah")
    parser.add_argument("--base", help="base image instead of the Dockerfile's own (for one flavour)")
    parser.add_argument("--python", metavar="PACKAGE", help="of nemo: the base's own Python package, if not python3.11")
    options = parser.parse_args()
    unknown = [name for name in options.flavours if name not in FLAVOURS]
    if unknown:
        parser.error(f"no image is called {unknown[0]!r}; there are {', '.join(FLAVOURS)}")
    if options.base and len(options.flavours) != 1:
        parser.error("--base goes with one image: name which")
    if options.python and options.flavours != ["nemo"]:
        parser.error("--python is for nemo alone: the other images have their base's Python")
    given = {name: value for name, value in (("BASE", options.base), ("PYTHON", options.python)) if value}
    builder = options.builder or working_builder()
    if not builder:
        print("error: neither a running docker nor buildah is on this machine; install one of them", file=sys.stderr)
        return 1
    for name in options.flavours or DEFAULT:
        flavour = FLAVOURS[name]
        print(f"building {flavour.tag} from images/{flavour.dockerfile} with {builder}", flush=True)
        done = subprocess.run(command(builder, flavour, given), cwd=ROOT)
        if done.returncode:
            print(f"error: {flavour.tag} could not be built; {builder} says why above", file=sys.stderr)
            return 1
    return 0


def working_builder() -> str | None:
    """docker if its engine answers, else buildah if it is installed."""
    if shutil.which("docker") and subprocess.run(["docker", "version"], capture_output=True).returncode == 0:
        return "docker"
    return "buildah" if shutil.which("buildah") else None


def command(builder: str, flavour: Flavour, given: dict[str, str]) -> list[str]:
    """The command that builds a flavour, with these build arguments besides; run it in the repository's root."""
    arguments = labels() | given
    mounts: list[str] = []
    pip = pip_settings()
    if "index-url" in pip:
        arguments["PIP_INDEX_URL"] = pip["index-url"]
    if "cert" in pip and builder == "buildah":
        certificates = Path(pip["cert"]).absolute()
        arguments["PIP_CERT"] = f"{CERTIFICATES}/{certificates.name}"
        mounts = ["--volume", f"{certificates.parent}:{CERTIFICATES}:ro"]
    # buildah: the host's network and no runtime of its own, so that it also builds inside a container
    start = ["docker", "build"]
    if builder == "buildah":
        start = ["buildah", "build", "--layers", "--isolation", "chroot", "--network", "host", *mounts]
    words = [word for key, value in sorted(arguments.items()) for word in ("--build-arg", f"{key}={value}")]
    return [*start, *words, "--file", f"images/{flavour.dockerfile}", "--tag", flavour.tag, "."]


def labels() -> dict[str, str]:
    """Build arguments of the labels: version from pyproject.toml, revision and source from git where there is one."""
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    found = {"VERSION": version[1] if version else ""}
    found["REVISION"] = said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    # an address may hold a password
    found["SOURCE"] = re.sub(r"//[^/]*@", "//", said("git", "-C", str(ROOT), "remote", "get-url", "origin"))
    return {name: value for name, value in found.items() if value}


def pip_settings() -> dict[str, str]:
    """This machine's own settings of pip by name ("index-url", "cert"); a variable PIP_... wins over a file."""
    settings: dict[str, str] = {}
    for line in said(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'\"")
    for name in ("index-url", "cert"):
        variable = f"PIP_{name.replace('-', '_').upper()}"
        if os.environ.get(variable):
            settings[name] = os.environ[variable]
    return settings


def said(*words: str) -> str:
    """What a command printed; nothing if it failed or is not there."""
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
