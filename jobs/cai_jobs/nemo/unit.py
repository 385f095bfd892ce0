"""Where the wrappers of critic and actor meet: a few small files on the volume, below the unfinished artifact.

The actor's wrapper is the one that orders. It says in `order.json` what the critic is to do, and in `actor.json` what
it does itself, with a count that moves on as long as it lives. Every machine of the critic says in `critic-RANK.json`
which life of its program this is, whether that serves, and which order it last obeyed.
"""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cai_jobs.contract.artifacts import write_synced

FOLDER = "unit"
BEAT_S = 10.0


class Order(StrEnum):
    """What the critic is to do: serve, anew if it does; stop for a while; stop for good."""

    SERVE = "serve"
    STOP = "stop"
    DONE = "done"


class State(StrEnum):
    """What a machine of the critic does."""

    SERVING = "serving"
    STOPPED = "stopped"


class Phase(StrEnum):
    """What the actor's wrapper does."""

    SETTLING = "settling"
    TRAINING = "training"


@dataclass(frozen=True)
class Ordered:
    """An order; a later one has a higher number."""

    number: int = 0
    order: Order = Order.SERVE


@dataclass(frozen=True)
class Seen:
    """What a machine of the critic says of itself.

    Attributes:
        life: names one start of its program; another start has another.
        state: what it does.
        obeyed: the number of the last order it has obeyed, or found when it came.
    """

    life: str
    state: State
    obeyed: int


class Meeting:
    """The files of one actor and its critic.

    Args:
        partial: the unfinished artifact of the actor.
    """

    def __init__(self, partial: Path) -> None:
        self._folder = partial / FOLDER

    def order(self) -> Ordered:
        """The last order; number 0 where there was none yet, or its file is gone with all others."""
        found = self._read("order.json")
        return Ordered() if found is None else Ordered(int(found["number"]), Order(found["order"]))

    def give(self, order: Order) -> Ordered:
        """Give the next order."""
        given = Ordered(self.order().number + 1, order)
        self._write("order.json", asdict(given))
        return given

    def critic(self, ranks: int) -> tuple[Seen, ...]:
        """What each machine of the critic says; empty as long as one of them never said anything."""
        found = [self._read(f"critic-{rank}.json") for rank in range(ranks)]
        seen = [Seen(one["life"], State(one["state"]), int(one["obeyed"])) for one in found if one is not None]
        return tuple(seen) if len(seen) == ranks else ()

    def say(self, rank: int, seen: Seen) -> None:
        """Say what this machine of the critic does."""
        self._write(f"critic-{rank}.json", asdict(seen))

    def claimed(self) -> str:
        """The life of the critic that an actor was last started with; empty where none was."""
        return str((self._read("claim.json") or {}).get("life", ""))

    def claim(self, life: str) -> None:
        """Write down, before the actor starts, which life of the critic it will change."""
        self._write("claim.json", {"life": life})

    def actor(self) -> tuple[Phase, int] | None:
        """What the actor's wrapper does, and its count; None where it never came."""
        found = self._read("actor.json")
        return None if found is None else (Phase(found["phase"]), int(found["beat"]))

    def beat(self, phase: Phase, count: int) -> None:
        """Say that the actor's wrapper lives."""
        self._write("actor.json", {"phase": phase, "beat": count})

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self._folder / name).read_text())
        except (OSError, ValueError):  # not there yet, or just being replaced on a file server
            return None
        return found if isinstance(found, dict) else None

    def _write(self, name: str, document: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_synced(self._folder / name, json.dumps(document) + "\n")


class Beat:
    """Says that the actor's wrapper lives, as long as the `with` lasts; `phase` may be changed at any time."""

    def __init__(self, meeting: Meeting, every_s: float = BEAT_S) -> None:
        self._meeting, self._every_s = meeting, every_s
        self._count = (meeting.actor() or (Phase.SETTLING, 0))[1]
        self._phase = Phase.SETTLING
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self.tell(Phase.SETTLING)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        # nothing is written after this: the files are about to go
        self._over.set()
        self._thread.join()

    def tell(self, phase: Phase) -> None:
        """Say at once what is done now."""
        with self._lock:
            self._phase, self._count = phase, self._count + 1
            self._meeting.beat(phase, self._count)

    def _go_on(self) -> None:
        while not self._over.wait(self._every_s):
            with contextlib.suppress(OSError):  # a file server that is away; the next beat may come through
                self.tell(self._phase)
