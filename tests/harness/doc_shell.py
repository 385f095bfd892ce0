"""A reader's shell: runs the commands of our pages, and compares what they print with what the pages show."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness import binaries
from tests.harness.doc_commands import ROOT, Command

LONGEST_S = 120
OWN_FILES = (".git", ".venv", "runs", "build")
COPIED = ("charts", "crds", "docs", "examples", "operator")
"""What a reader may write into."""
STAYS = re.compile(r"( -w| --watch|&)$")
"""Commands that end when their reader ends them."""


class Shell:
    """A context manager: an empty directory that looks like a checkout, kubectl, helm and `cai` on PATH.

    Args:
        directory: where to make that directory.
        kubeconfig: what kubectl and helm talk to.
        until: called with a command that stays (`-w`) while it does; returns when the reader has seen enough of it.
    """

    def __init__(self, directory: Path, kubeconfig: Path, until: Callable[[str], object] = lambda _: None) -> None:
        self.checkout = directory / "checkout"
        self._until = until
        self._background: list[subprocess.Popen[str]] = []
        programs = directory / "bin"
        programs.mkdir()
        self.checkout.mkdir()
        for path in ROOT.iterdir():
            if path.name in COPIED:
                shutil.copytree(path, self.checkout / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif path.name not in OWN_FILES:
                (self.checkout / path.name).symlink_to(path)
        (programs / "cai").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cai_operator.cli "$@"\n')
        (programs / "cai").chmod(0o755)
        (self.checkout / ".venv").mkdir()
        (self.checkout / ".venv" / "bin").symlink_to(programs)
        kubectl, helm = binaries.find_or_build("kubectl")["kubectl"], binaries.tool("helm")
        path = [programs, kubectl.parent, helm.parent, Path(sys.executable).parent]
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PATH": ":".join([*map(str, path), os.environ["PATH"]]),
            "COLUMNS": "200",
            "KUBECACHEDIR": str(directory / "kubectl-cache"),
            **{
                home: str(directory / home.lower())
                for home in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
            },
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._background:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, command: Command) -> str:
        """Run it as it stands on its page; what it printed.

        Raises:
            AssertionError: it failed, or printed something else than its page shows.
        """
        said = self._stay(command) if STAYS.search(command.text) else self.shell(command.text)
        missing = [line for line in command.shown if not _is_in(line, said)]
        assert not missing, (
            f"{command.page} shows for {command.text!r} what it does not print: {missing}; it says: {said}"
        )
        return said

    def shell(self, text: str) -> str:
        """Run a line of shell in the checkout; AssertionError with what it said where it fails."""
        try:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", text], cwd=self.checkout, env=self._environment, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LONGEST_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"{text!r} does not end: {late.output}") from None
        assert done.returncode == 0, f"{text!r} ends with {done.returncode}: {done.stdout}"
        return done.stdout

    def _stay(self, command: Command) -> str:
        log = self.checkout / f"stays-{len(self._background)}.txt"
        with log.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-c", command.text.removesuffix("&")], cwd=self.checkout, env=self._environment, text=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._background.append(process)
        self._until(command.text)
        assert process.poll() is None, f"{command.text!r} ended: {log.read_text()}"
        return log.read_text()


def _is_in(line: str, said: str) -> bool:
    """Whether something was printed like this line: numbers and spaces may be others, … stands for anything."""
    pattern = re.escape(_plain(line)).replace("…", ".*")
    return any(re.search(pattern, _plain(other)) for other in said.splitlines())


def _plain(line: str) -> str:
    # kubectl's word for what it did depends on what was there before
    return re.sub(r"\d+", "0", re.sub(r" (configured|unchanged)$", " created", " ".join(line.split())))
