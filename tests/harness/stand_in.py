"""Stand-in servers as a test or a benchmark has them: processes of their own, to be killed and started again."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.processes import Program, free_port

ROOT = Path(__file__).parents[2]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method: str, url: str, body: Any = None) -> Any:
    """What a page of a stand-in server answers."""
    data = None if body is None else json.dumps(body).encode()
    with _OPENER.open(urllib.request.Request(url, data, method=method), timeout=60) as answer:
        return json.load(answer)


class StandInServer:
    """A running stand-in server; a context manager. See `stand_in_server` for the flags.

    Args:
        log: where its output goes.
        flags: of the program, without the port.
    """

    def __init__(self, log: Path, *flags: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log, self._flags = log, flags
        self._program: Program | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "tests.harness.stand_in_server", "--port", str(self.port), *self._flags]
        self._program = Program("the stand-in server", command, self._log, directory=ROOT)
        self._program.wait_until(self._answers, patience_s=60)

    def kill(self) -> None:
        """SIGKILL: connections break, and the port refuses new ones."""
        if self._program is not None:
            self._program.kill()

    def statistics(self) -> dict[str, float]:
        """What it has done since it was started; a count that is missing is 0."""
        found: dict[str, float] = call("GET", f"{self.url}/stand-in/statistics")
        return found

    def _answers(self) -> bool:
        try:
            self.statistics()
        except (urllib.error.URLError, ConnectionError):
            return False
        return True
