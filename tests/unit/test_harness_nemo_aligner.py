"""The environment of the real NeMo-Aligner: made whole or not at all, once for each lock, or else said why not."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from tests.harness import nemo_aligner, package_environment
from tests.harness.processes import Unavailable


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, on a machine with room and the Python of the lock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(nemo_aligner.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1e12))
    monkeypatch.setattr(nemo_aligner.sysconfig, "get_config_var", lambda name: nemo_aligner.LOCKED_FOR)
    monkeypatch.setattr(nemo_aligner.sys, "platform", "linux")
    return tmp_path / "cai-operator" / "nemo-aligner"


def installs(monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> list[tuple[Any, ...]]:
    """Play venv and pip; the commands that would have run."""
    commands: list[tuple[Any, ...]] = []

    def run(_: str, *command: str | Path) -> None:
        commands.append(command)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
        elif fails:
            raise Unavailable("no index can be reached")

    monkeypatch.setattr(package_environment, "_run", run)
    return commands


def test_it_is_made_once_for_each_lock(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands = installs(monkeypatch)
    first = nemo_aligner.find_or_make()
    assert nemo_aligner.find_or_make() == first
    assert len(commands) == 2
    other = tmp_path / "requirements.txt"
    shutil.copyfile(nemo_aligner.LOCK, other)
    with other.open("a") as lock:
        lock.write("# another\n")
    monkeypatch.setattr(nemo_aligner, "LOCK", other)
    assert nemo_aligner.find_or_make() != first
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_a_failed_install_leaves_nothing_to_be_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installs(monkeypatch, fails=True)
    with pytest.raises(Unavailable, match="no index can be reached"):
        nemo_aligner.find_or_make()
    commands = installs(monkeypatch)
    assert nemo_aligner.find_or_make().parent.is_dir()
    assert len(commands) == 2


def test_a_full_disk_is_said_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = installs(monkeypatch)
    monkeypatch.setattr(nemo_aligner.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1e9))
    with pytest.raises(Unavailable, match=r"5 GB while they are installed, and .* has 1 GB free"):
        nemo_aligner.find_or_make()
    assert commands == []


def test_another_python_is_said_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemo_aligner.sysconfig, "get_config_var", lambda name: "3.13")
    with pytest.raises(Unavailable, match=r"locked for Python 3\.11 on Linux"):
        nemo_aligner.find_or_make()
