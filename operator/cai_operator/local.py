"""Run a plan with processes on this machine: observe, plan, start and stop, write the status, again.

The work directory holds `artifacts/` (the volume of a cluster), `logs/`, `run/` (last words), `texts/`, `status.json`
and, at the end, `report.html`. All that decides what runs next is in the plan; nothing here knows a stage.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from cai_jobs.contract import artifacts
from cai_jobs.contract.program import InputError
from cai_operator.local_children import Children, texts_directory
from cai_operator.local_processes import now
from cai_operator.status import NodeStatus, Phase, PipelineStatus, State, parse_status
from cai_operator.workloads import JobState, Observed, Workload

__all__ = [
    "Decide",
    "Outcome",
    "Timing",
    "View",
    "execute",
    "gpus",
    "is_running",
    "lock",
    "read_status",
    "texts_directory",
]

POLL_S = 0.2
REPLAN_S = 1.0
STALLED_S = 10.0
LOCK_TRIES = 3  # `is_running` of a cai status holds it for a moment
INTERRUPTED = "interrupted; the same command goes on from here"
NO_LONGER_UP = "stopped with cai run; the same command starts it again"

N = TypeVar("N", bound=NodeStatus)
AddressOf = Callable[[str, int], tuple[str, int]]


class Decision(Protocol):
    """What `execute` needs of a plan."""

    @property
    def apply(self) -> Sequence[Workload]: ...
    @property
    def delete(self) -> Sequence[str]: ...
    @property
    def status(self) -> PipelineStatus: ...
    @property
    def events(self) -> Sequence[Any]: ...


Decide = Callable[[PipelineStatus, Observed, datetime, AddressOf], Decision]


class View(Protocol):
    """Where the run is shown."""

    def show(self, status: PipelineStatus, servers: Mapping[str, Sequence[bool]]) -> None:
        """The present status, and of each node with servers which are ready; called several times a second."""

    def say(self, sentence: str) -> None:
        """Something the user should know now."""


@dataclass(frozen=True)
class Timing:
    """Seconds: between looks, SIGTERM to SIGKILL, first retry."""

    poll_s: float = POLL_S
    grace_s: float = 20.0
    backoff_s: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its last status, how many programs it started, and the signal that ended it."""

    status: PipelineStatus
    started: int
    signal: int | None


def artifacts_root(workdir: Path) -> Path:
    """What is a cluster's volume."""
    return workdir / "artifacts"


def status_path(workdir: Path) -> Path:
    """The resource's status, as JSON."""
    return workdir / "status.json"


def execute(
    decide: Decide,
    workdir: Path,
    view: View,
    *,
    texts: Mapping[str, Mapping[str, str]] | None = None,
    arrived: Callable[[PipelineStatus], None] | None = None,
    keep_serving: bool = False,
    devices: Sequence[str] = (),
    timing: Timing = Timing(),
) -> Outcome:
    """Run until the plan says Succeeded or Failed and no job is left, or SIGINT, SIGTERM or SIGHUP asks to stop.

    Call from the main thread, with the work directory locked (`lock`). The first signal stops every program and waits
    for it, a second one kills at once. With `keep_serving`, servers the plan still wants at success are kept until a
    signal; `arrived` is told of the success. `texts` is what `Observed.texts` is to be.
    """
    children = Children(workdir, artifacts_root(workdir), os.environ, devices, timing.grace_s, timing.backoff_s)
    writer = _StatusWriter(workdir, view)
    shelf = _Shelf(artifacts_root(workdir))
    status = read_status(workdir)
    last: tuple[Any, float] | None = None
    idle_since = time.monotonic()
    with _signals() as signals, contextlib.closing(children):
        while not signals:
            children.look()
            jobs, servers = children.jobs(), children.servers()
            observed = Observed(jobs=jobs, servers=servers, published=shelf.published(), texts=texts or {})
            if last is None or last[0] != observed or time.monotonic() - last[1] > REPLAN_S:
                last = (observed, time.monotonic())
                decision = decide(status, observed, now(), children.address_of)
                status = decision.status
                for name in decision.delete:
                    children.drop(name)
                for workload in decision.apply:
                    children.want(workload)
                writer.write(status)
                if _is_over(status, children):
                    if not (keep_serving and status.phase == Phase.SUCCEEDED and children.servers()):
                        break
                    if arrived is not None:
                        arrived(status)
                        arrived = None
            children.start_due()
            view.show(status, children.servers_of_nodes())
            if children.busy():
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > STALLED_S:
                view.say(
                    f"nothing is left to do, yet the pipeline is {status.phase}: {status.message or 'no reason given'}"
                )
                break
            time.sleep(timing.poll_s)
        if signals and children.busy():
            view.say("stopping: the programs get a moment to save their work (once more Ctrl-C kills them at once)")
        _stop(children, signals, timing.poll_s)
        if signals:
            status = _interrupted(status)
            writer.write(status)
    view.show(status, {})
    return Outcome(status, children.started, signals[0] if signals else None)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Hold the work directory, for one run at a time.

    Raises:
        InputError: another run holds it, or it cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(_lock_path(workdir), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as problem:
        raise InputError(f"{workdir}: cannot be used as work directory ({problem.strerror})") from problem
    try:
        if not _flock_soon(descriptor):
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            raise InputError(
                f"{workdir}: another cai run (process {holder or '?'}) works here; wait for it or use another --workdir"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def is_running(workdir: Path) -> bool:
    """Whether a run holds the work directory now."""
    try:
        descriptor = os.open(_lock_path(workdir), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def read_status(workdir: Path) -> PipelineStatus:
    """The status the last run left, empty where there is none."""
    try:
        return parse_status(json.loads(status_path(workdir).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return parse_status(None)


def gpus() -> list[str]:
    """Ids of the GPUs a program of ours may use, as nvidia-smi or CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=30)
    if listing.returncode != 0:
        return []
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]


def _lock_path(workdir: Path) -> Path:
    return workdir / ".lock"


def _flock_soon(descriptor: int) -> bool:
    for _ in range(LOCK_TRIES):
        if _flock(descriptor, fcntl.LOCK_EX):
            return True
        time.sleep(0.1)
    return False


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class _Shelf:
    """The artifacts that stand, by directory below the root; a manifest is read once as long as it does not change."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, tuple[int, Mapping[str, Any]]] = {}

    def published(self) -> dict[str, Mapping[str, Any]]:
        found = {}
        for path in self._root.glob(f"*/*/*/{artifacts.MANIFEST}"):
            name = path.parent.relative_to(self._root).as_posix()
            if path.parent.suffix == ".partial":
                continue
            try:
                changed = path.stat().st_mtime_ns
                if name not in self._read or self._read[name][0] != changed:
                    manifest = artifacts.read(path.parent)
                    if manifest is None:
                        continue
                    self._read[name] = (changed, artifacts.last_word(manifest))
            except (OSError, InputError, KeyError, TypeError):
                continue  # not whole: its program runs and says what is wrong with it
            found[name] = self._read[name][1]
        return found


class _StatusWriter:
    def __init__(self, workdir: Path, view: View) -> None:
        self._path, self._view = status_path(workdir), view
        self._written: Any = None
        self._warned = False

    def write(self, status: PipelineStatus) -> None:
        document = status.document()
        if document == self._written:
            return
        try:
            artifacts.write_synced(self._path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            self._written = document
        except OSError as problem:
            if not self._warned:
                self._view.say(f"{self._path} cannot be written ({problem.strerror}); the run goes on without it")
            self._warned = True


def _is_over(status: PipelineStatus, children: Children) -> bool:
    if any(seen.state in (JobState.RUNNING, JobState.PENDING) for seen in children.jobs().values()):
        return False
    return status.phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)


def _stop(children: Children, signals: list[int], poll_s: float) -> None:
    children.begin_stop()
    while not children.all_gone():
        if len(signals) > 1:
            children.kill()
        time.sleep(min(poll_s, 0.05))


def _interrupted(status: PipelineStatus) -> PipelineStatus:
    message = NO_LONGER_UP if status.phase == Phase.SUCCEEDED else INTERRUPTED
    stages = tuple(
        _waiting(stage, message).model_copy(update={"parts": tuple(_waiting(part, message) for part in stage.parts)})
        for stage in status.stages
    )
    changes: dict[str, Any] = {"stages": stages, "endpoint": None}
    if status.phase in (Phase.PENDING, Phase.RUNNING):
        changes |= {"phase": Phase.PENDING, "message": INTERRUPTED}
    return status.model_copy(update=changes)


def _waiting(node: N, message: str) -> N:
    if node.state not in (State.RUNNING, State.STARTING):
        return node
    return node.model_copy(update={"state": State.WAITING, "message": message, "progress": None})


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
