"""Where things are for the programs: the only difference between executors that commands can see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _as_written(path: str) -> str:
    return path


@dataclass(frozen=True)
class Places:
    """How one executor lays things out.

    Attributes:
        artifacts: the root directory of artifacts as programs see it (the volume, or below the work directory).
        texts_of: workload name -> the directory in which `Workload.texts` are laid for it.
        address_of: server workload name and its port in the spec -> host and port at which jobs reach it; the server
            itself is told to listen on that port.
        replicas_apart: whether each replica of a server that jobs use is a workload of its own, with its own address.
        path_of: a path written in the manifest -> the same as programs see it.
        bind: the address servers listen on.
    """

    artifacts: str
    texts_of: Callable[[str], str]
    address_of: Callable[[str, int], tuple[str, int]]
    path_of: Callable[[str], str] = _as_written
    replicas_apart: bool = False
    bind: str = "0.0.0.0"  # noqa: S104 - in a pod; the local executor binds to loopback

    def artifact(self, relative: str) -> str:
        """The artifact directory as programs see it."""
        return f"{self.artifacts.rstrip('/')}/{relative}"
