"""Values put into every Secret of a run, and a search for them in all that is left of it, and in its processes.

A value is looked for as it is and as base64 and URLs write it, in files also where they are compressed.
"""

from __future__ import annotations

import base64
import gzip
import secrets
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

SAMPLE_S = 0.1


class Canaries:
    """Secrets by name.

    Attributes:
        values: what each Secret holds; letters and digits, so that every text format writes them as they are.
        searched: kind of place -> how many of it were looked through.
        found: everything that was found, as "NAME in PLACE".
    """

    def __init__(self, *names: str) -> None:
        self.values = {name: f"canary{secrets.token_hex(12)}" for name in names}
        self.searched: dict[str, int] = defaultdict(int)
        self.found: list[str] = []
        self._forms = {name: _forms(value) for name, value in self.values.items()}

    def names_in(self, content: bytes) -> set[str]:
        """The Secrets whose value is in there."""
        return {name for name, forms in self._forms.items() if any(form in content for form in forms)}

    def search(self, kind: str, where: str, content: bytes | str) -> None:
        """Look through one place, which must hold none."""
        self.searched[kind] += 1
        data = content.encode(errors="replace") if isinstance(content, str) else content
        self.found += [f"{name} in {kind} {where}" for name in sorted(self.names_in(data))]

    def search_files(self, kind: str, root: Path) -> None:
        """Look through every file below a directory."""
        for path in sorted(root.rglob("*")):
            try:
                if path.is_file() and not path.is_symlink():
                    self.search(kind, str(path.relative_to(root)), _content(path))
            except FileNotFoundError:  # it went on while we looked
                continue

    def table(self) -> str:
        """What was searched, as a table."""
        lines = [f"| {kind} | {count} |" for kind, count in sorted(self.searched.items())]
        return "\n".join(["| searched | |", "|---|---|", *lines, f"| found | {len(self.found)} |"])


class ProcessWatch:
    """Looks at command lines and environments of processes, again and again, from its own thread.

    Attributes:
        holders: Secret -> who had it in the environment, as `name_of` calls them.
    """

    def __init__(
        self, canaries: Canaries, processes: Callable[[], Iterable[int]], name_of: Callable[[int], str | None]
    ) -> None:
        self.holders: Mapping[str, set[str]] = defaultdict(set)
        self._canaries, self._processes, self._name_of = canaries, processes, name_of
        self._seen: set[tuple[int, bytes]] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="canary-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            for process in list(self._processes()):
                self._look(process)

    def _look(self, process: int) -> None:
        directory = Path("/proc") / str(process)
        try:
            command, environment = (directory / "cmdline").read_bytes(), (directory / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours to look into
            return
        if (process, command) in self._seen:
            return
        name = self._name_of(process)
        if name is None:
            return
        self._seen.add((process, command))
        self._canaries.search("command lines of processes", name, command)
        self._canaries.searched["environments of processes"] += 1
        for secret in self._canaries.names_in(environment):
            self.holders[secret].add(name)


def _forms(value: str) -> tuple[bytes, ...]:
    """A value as texts hold it; base64 has three of it, by where in a longer text it stands."""
    data = value.encode()
    shifted = [base64.b64encode(b"\0" * shift + data).decode().rstrip("=") for shift in range(3)]
    # the ends depend on what stands beside it
    return (data, quote(value).encode(), data[::-1], *(text[4:-4].encode() for text in shifted))


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            return content + gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return content
    return content
