"""The Kubernetes programs and tools: found on this machine, or built once from source into a cache.

`python -m tests.harness.binaries` finds or builds them and prints where they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tests.harness.cache import cache_root, locked, say
from tests.harness.processes import Unavailable

SOURCES = Path(__file__).parents[1] / "cluster" / "binaries"
TOOLS = Path(__file__).parents[1] / "cluster" / "tools"
POD_PROGRAM = Path(__file__).parents[1] / "cluster" / "pod_program"

KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
BUILT = (*KUBERNETES, "kubectl", "coredns")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE = ("etcd", *BUILT)

# 1.33: the first with everything the resource's rules use; after 1.35 the kubelet refuses Debian's containerd
OLDEST, NEWEST = 33, 35


def find_or_build(*names: str) -> dict[str, Path]:
    """Paths of the named programs (default: all), all the Kubernetes ones of one minor version.

    Looked for in the directory KUBEBUILDER_ASSETS, on PATH, and in the cache; built into the cache if need be, by one
    process while the others wait. Raises Unavailable with a sentence.
    """
    wanted = names or NODE
    found = {"etcd": etcd()} if "etcd" in wanted else {}
    of_kubernetes = [name for name in wanted if name in BUILT]
    if of_kubernetes:
        found |= _on_this_machine(of_kubernetes) or _from_cache(of_kubernetes)
    return found


def pod_program() -> Path:
    """The static program of the node's own images: pauses, serves and calls (see its source)."""
    inputs = sorted(POD_PROGRAM.iterdir())

    def build(directory: Path) -> None:
        _go(
            ["build", "-trimpath", "-ldflags", "-s -w", "-o", str(directory / "pod"), "."], POD_PROGRAM, CGO_ENABLED="0"
        )

    return _cached("pod-program", inputs, build, "building the pods' test program from source (seconds)") / "pod"


def tool(name: Literal["helm", "kubeconform"]) -> Path:
    """A platform engineer's tool, built once into the cache in the version that tests/cluster/tools/go.mod names."""
    inputs = [TOOLS / "go.mod", TOOLS / "go.sum"]

    def build(directory: Path) -> None:
        _go(["build", "-trimpath", "-ldflags", "-s -w", "-o", f"{directory}/", "tool"], TOOLS, CGO_ENABLED="0")

    text = "building helm and kubeconform from source, once: some minutes with two cores"
    return _cached("tools", inputs, build, text) / name


def etcd() -> Path:
    """KUBEBUILDER_ASSETS' or PATH's etcd, else Debian's, installed where we may."""
    found = _find("etcd")
    if not found:
        install("etcd-server")
        found = _find("etcd")
    if not found:
        raise Unavailable("etcd was installed and is still not on PATH")
    return found


def install(*packages: str) -> None:
    """Install Debian packages; Unavailable, with the command to run, where we may not."""
    command = ["apt-get", "install", "-qy", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"needed and not on this machine: {', '.join(packages)}. As root: {' '.join(command)}")
    say(f"installing {' '.join(packages)} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with locked(cache_root() / "apt.lock"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            # a machine that was never updated knows no package
            subprocess.run(["apt-get", "update", "-q"], env=environment, capture_output=True)
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-800:]}")


def version_of(program: Path) -> str:
    """The "1.35.4" of a Kubernetes program; "" if it does not tell."""
    words = ["version", "--client"] if program.name == "kubectl" else ["--version"]
    done = subprocess.run([program, *words], capture_output=True, text=True)
    match = re.search(r"v(\d+\.\d+\.\d+)", done.stdout)
    return match[1] if match and not done.returncode else ""


def _find(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = shutil.which(name, path=assets) if assets else None
    path = path or shutil.which(name)
    return Path(path) if path else None


def _on_this_machine(names: Sequence[str]) -> dict[str, Path] | None:
    found: dict[str, Path] = {}
    for name in names:
        path = _find(name)
        if not path:
            return None
        found[name] = path
    minors = {version_of(path).rpartition(".")[0] for name, path in found.items() if name in KUBERNETES}
    fits = len(minors) == 1 and minors <= {f"1.{minor}" for minor in range(OLDEST, NEWEST + 1)}
    return found if fits else None


def _from_cache(names: Sequence[str]) -> dict[str, Path]:
    inputs = [SOURCES / "go.mod", SOURCES / "go.sum", SOURCES / "coredns" / "main.go"]
    text = (
        "building the Kubernetes programs from source, once: some ten minutes with two cores, and 2 GB of memory.\n"
        f"  Where programs of version 1.{OLDEST} to 1.{NEWEST} are at hand, name their directory in KUBEBUILDER_ASSETS."
    )
    directory = _cached("kubernetes", inputs, _build_kubernetes, text)
    return {name: directory / name for name in names}


def _build_kubernetes(directory: Path) -> None:
    match = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", (SOURCES / "go.mod").read_text())
    assert match, "go.mod requires no k8s.io/kubernetes"
    stamp = "k8s.io/component-base/version.git"
    flags = f"-s -w -X {stamp}Version=v{match[1]} -X {stamp}Major={match[2]} -X {stamp}Minor={match[3]}"
    _go(["build", "-trimpath", "-ldflags", flags, "-o", f"{directory}/", "tool", "./coredns"], SOURCES)


def _cached(kind: str, inputs: Sequence[Path], build: Callable[[Path], None], announcement: str) -> Path:
    """The directory of what `build` made of these inputs: whole or not there; made by one process at a time."""
    digest = hashlib.sha256()
    for path in inputs:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    directory = cache_root() / kind / digest.hexdigest()[:16]
    if directory.is_dir():
        return directory
    with locked(cache_root() / f"{kind}.lock"):
        if not directory.is_dir():
            say(announcement)
            began = time.monotonic()
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix="building-") as building:
                made = Path(building) / "made"
                made.mkdir()
                build(made)
                made.rename(directory)
            say(f"built into {directory} in {time.monotonic() - began:.0f} s")
    return directory


def _go(words: Sequence[str], directory: Path, **environment: str) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not go:
        raise Unavailable(
            "the Kubernetes programs are built with Go 1.21 or newer, and no go command is on PATH: install it "
            "(https://go.dev/dl), or name a directory that holds the programs in KUBEBUILDER_ASSETS"
        )
    version = subprocess.run([go, "version"], capture_output=True, text=True).stdout
    minor = re.search(r"go1\.(\d+)", version)
    if minor and int(minor[1]) < 21:
        raise Unavailable(f"{version.strip()} cannot build the Kubernetes programs; install Go 1.21 or newer")
    # GOWORK, GOFLAGS: a developer's own settings must not change what is built
    settings = {**os.environ, "GOWORK": "off", "GOFLAGS": "", **environment}
    done = subprocess.run([go, *words], cwd=directory, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"go {words[0]} failed in {directory}:\n{done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    try:
        for name, path in find_or_build().items():
            print(f"{name:24} {path}")
        for path in (tool("helm"), tool("kubeconform")):
            print(f"{path.name:24} {path}")
    except Unavailable as error:
        sys.exit(f"error: {error}")
