"""The Kubernetes programs of the tests: taken from the machine where they fit, else built once."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.harness import binaries
from tests.harness.availability import skipped_where_unavailable
from tests.harness.processes import Unavailable

ROOT = Path(__file__).parents[2]

# builds what it is asked for as empty programs, slowly, and counts its calls
GO = """#!/bin/sh
[ "$1" = version ] && { echo "go version go1.26.8 linux/amd64"; exit; }
echo build >> "$CALLS"
sleep 1
while [ "$1" != -o ]; do shift; done
for name in kube-apiserver kube-controller-manager kubectl; do echo built > "$2$name"; done
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that holds all programs of a machine, which has an empty cache."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return programs


def _put(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def _program(directory: Path, name: str, version: str) -> Path:
    return _put(directory, name, f"#!/bin/sh\necho Kubernetes v{version}\n")


def test_programs_on_the_path_are_taken(machine: Path) -> None:
    apiserver = _program(machine, "kube-apiserver", "1.34.2")
    manager = _program(machine, "kube-controller-manager", "1.34.1")
    found = binaries.find_or_build("kube-apiserver", "kube-controller-manager")
    assert found == {"kube-apiserver": apiserver, "kube-controller-manager": manager}


def test_the_named_directory_goes_before_the_path(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(machine, "kube-apiserver", "1.35.0")
    named = _program(tmp_path / "assets", "kube-apiserver", "1.33.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.find_or_build("kube-apiserver") == {"kube-apiserver": named}


@pytest.mark.parametrize(("apiserver", "manager"), [("1.32.9", "1.32.9"), ("1.36.0", "1.36.0"), ("1.35.0", "1.34.0")])
def test_programs_that_do_not_fit_are_built_instead(machine: Path, apiserver: str, manager: str) -> None:
    _program(machine, "kube-apiserver", apiserver)
    _program(machine, "kube-controller-manager", manager)
    _put(machine, "go", GO)
    found = binaries.find_or_build("kube-apiserver", "kube-controller-manager")
    assert {path.read_text() for path in found.values()} == {"built\n"}


def test_many_processes_build_once(machine: Path, tmp_path: Path) -> None:
    _put(machine, "go", GO)
    words = "from tests.harness.binaries import find_or_build as find; print(*find('kube-apiserver').values())"

    def ask(_: int) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with ThreadPoolExecutor(3) as asked:
        paths = set(asked.map(ask, range(3)))
    assert (tmp_path / "calls").read_text() == "build\n"
    assert [Path(path).read_text() for path in paths] == ["built\n"]


def test_a_build_that_fails_leaves_nothing_and_says_why(machine: Path, tmp_path: Path) -> None:
    _put(machine, "go", GO.replace("sleep 1", "echo no space left on device >&2; exit 1"))
    with pytest.raises(Unavailable, match="no space left on device"):
        binaries.find_or_build("kube-apiserver")
    assert list((tmp_path / "cache" / "cai-operator" / "kubernetes").iterdir()) == []


def test_an_old_go_is_named(machine: Path) -> None:
    _put(machine, "go", GO.replace("1.26.8", "1.19.8"))
    with pytest.raises(Unavailable, match=r"go1\.19\.8 .* install Go 1\.21 or newer"):
        binaries.find_or_build("kube-apiserver")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_machine_that_cannot_skips_but_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no root here"), skipped_where_unavailable():
        raise Unavailable("no root here")
