"""The operator as a real process: started, stopped, killed and started again at any moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from tests.harness.forked_program import ForkedProgram
from tests.harness.processes import Program

STOP_PATIENCE_S = 60.0


class OperatorProcess:
    """`python -m cai_operator.main` with a kubeconfig of its own; a context manager that leaves nothing running.

    Args:
        directory: where its kubeconfig and its log go; one for each operator.
        server: URL of the API server, or of a proxy before it.
        token: bearer token of the user it is.
        ca: the certificate that signed an https server's; None for a plain http proxy.
        settings: its CAI_ environment variables.
        module: the program; another one than the operator's own is `tests.harness.other_version`.
        forked: as a fork of one that has done its imports; False where its memory is looked at.
    """

    def __init__(
        self,
        directory: Path,
        server: str,
        token: str,
        ca: Path | None = None,
        settings: Mapping[str, str] | None = None,
        module: str = "cai_operator.main",
        forked: bool = True,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / "operator.log"
        self.starts = 0
        self._kubeconfig = directory / "kubeconfig"
        self._kubeconfig.write_text(yaml.safe_dump(_kubeconfig(server, token, ca)), encoding="utf-8")
        self._settings = {"CAI_LIVENESS_PORT": "0", "CAI_METRICS_PORT": "0", **(settings or {})}
        self._module = module
        self._forked = forked
        self._program: Program | ForkedProgram | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.kill()
        if kind is not None:
            print(f"--- the operator's log ({self.log_path})\n{self.log()}")

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._program is not None and self._program.running

    @property
    def pid(self) -> int:
        """Its process id, once it was started."""
        assert self._program is not None
        return self._program.pid

    def start(self) -> None:
        """Start it, from the test's main thread; its log goes on in the same file."""
        assert not self.is_running, "the operator runs already"
        self.starts += 1
        with self.log_path.open("a", encoding="utf-8") as log:
            log.write(f"--- start {self.starts}\n")
        environment = {"KUBECONFIG": str(self._kubeconfig), "PYTHONUNBUFFERED": "1", **self._settings}
        if self._forked:
            self._program = ForkedProgram(self._module, [], self.log_path, environment={**os.environ, **environment})
        else:
            command = [sys.executable, "-m", self._module]
            self._program = Program("operator", command, self.log_path, environment=environment)

    def stop(self) -> None:
        """Ask it to stop (SIGTERM, as Kubernetes does) and wait for its end."""
        assert self._program is not None
        self._program.stop(STOP_PATIENCE_S)

    def kill(self) -> None:
        """End it at once (SIGKILL): nothing of it is tidied up."""
        if self._program is not None:
            self._program.kill()

    def freeze(self) -> None:
        """Let it stand still (SIGSTOP), as on a machine that hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """All it wrote to stdout and stderr, over all its starts."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""


def _kubeconfig(server: str, token: str, ca: Path | None) -> dict[str, object]:
    cluster = {"server": server} | ({"certificate-authority": str(ca)} if ca is not None else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "operator"}}],
        "current-context": "test",
    }
