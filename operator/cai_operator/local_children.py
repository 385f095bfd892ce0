"""The children of the local executor: jobs tried again until they are done, servers kept up until nobody needs them.

What a cluster's Job and Deployment controllers do, for processes: retries with back-off, deadlines, readiness, ports,
GPUs, and the secrets and texts a workload is given.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from cai_operator.local_processes import (
    LOOPBACK,
    Guard,
    LogTail,
    Process,
    answers,
    child_environment,
    free_port,
    now,
    port_is_free,
    read_last_word,
    why,
)
from cai_operator.workloads import JobSeen, JobState, Kind, ServerSeen, Workload

EXIT_INPUT = 2
PROBE_INTERVAL_S = 0.3
LONGEST_BACKOFF_S = 60.0

# the critic holds what the actor's steps taught it: after a crash of either both go back to their last checkpoint
UNITS = frozenset({"ppo"})


def texts_directory(workdir: Path, name: str) -> Path:
    """Where the texts of a workload are laid."""
    return workdir / "texts" / name


@dataclass
class Child:
    """One workload and what has become of it.

    `failures` are ends that count against its retries; `stale` says that its command names a port it has lost.
    """

    workload: Workload
    state: JobState = JobState.PENDING
    process: Process | None = None
    attempts: int = 0
    failures: int = 0
    not_before: float = 0.0
    ready: bool = False
    stale: bool = False
    probed: float = 0.0
    first_start: float = 0.0
    started: datetime | None = None
    finished: datetime | None = None
    devices: tuple[str, ...] = ()
    tail: LogTail | None = None
    last_word: Mapping[str, Any] | None = None
    problem: str | None = None
    reason: str | None = None


@dataclass
class _Leaving:
    name: str
    process: Process
    devices: tuple[str, ...]
    kill_at: float


@dataclass
class Children:
    """Every process of one work directory.

    Args:
        workdir: holds `logs/`, `run/` (last words) and `texts/`.
        root: the artifacts' root, against which `Workload.artifact` is checked.
        environment: what our own process was given; secrets are looked up here.
        devices: ids of the GPUs that may be handed out.
        grace_s: seconds between SIGTERM and SIGKILL.
        backoff_s: seconds before the first retry; doubled for each further one.
        started: how many programs were started so far.
    """

    workdir: Path
    root: Path
    environment: Mapping[str, str]
    devices: Sequence[str] = ()
    grace_s: float = 20.0
    backoff_s: float = 1.0
    started: int = 0
    _children: dict[str, Child] = field(default_factory=dict)
    _leaving: list[_Leaving] = field(default_factory=list)
    _ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._guard = Guard(child_environment(self.environment, {}))
        # a proxy of the user's must not be asked for our own servers
        self._client = httpx.Client(timeout=1.0, trust_env=False)

    def address_of(self, name: str, preferred: int) -> tuple[str, int]:
        """Host and port of a server; the port stays while its process lives."""
        if name not in self._ports:
            self._ports[name] = free_port(preferred, frozenset(self._ports.values()))
        return LOOPBACK, self._ports[name]

    def want(self, workload: Workload) -> None:
        """Run this workload, if it does not run or has not ended already; a changed one counts from its next start."""
        child = self._children.setdefault(workload.name, Child(workload))
        if child.workload.kind == Kind.SERVER and child.workload.key != workload.key:
            self._dismiss(child)  # a kept server has the same name and port whatever model it serves
            self._children[workload.name] = Child(workload)
        elif child.process is None and child.state == JobState.PENDING:
            child.workload, child.stale = workload, False

    def drop(self, name: str) -> None:
        """Stop a child without waiting for its end, and forget it."""
        child = self._children.pop(name, None)
        if child is not None:
            self._dismiss(child)
        self._ports.pop(name, None)

    def look(self) -> None:
        """Take note of what ended, became ready or overran."""
        self._sweep()
        for child in list(self._children.values()):
            if child.process is not None:
                self._look_at(child, child.process)

    def start_due(self) -> None:
        """Start what is wanted and need not wait."""
        for child in self._children.values():
            if child.process is None and child.state == JobState.PENDING and time.monotonic() >= child.not_before:
                self._start_if_possible(child)

    def jobs(self) -> dict[str, JobSeen]:
        """Every job, by name."""
        return {
            name: JobSeen(
                name=name,
                state=child.state,
                attempts=child.attempts,
                started=child.started,
                finished=child.finished,
                progress=child.tail.look() if child.tail else None,
                last_word=child.last_word,
                log=str(self.log_of(name)),
                problem=child.problem,
                problem_reason=child.reason,
            )
            for name, child in self._children.items()
            if child.workload.kind == Kind.JOB
        }

    def servers(self) -> dict[str, ServerSeen]:
        """Every server, by name."""
        return {
            name: ServerSeen(
                name=name,
                ready=child.ready,
                started=child.started,
                problem=child.problem,
                problem_reason=child.reason,
                failed=child.state == JobState.FAILED,
                key=child.workload.key,
            )
            for name, child in self._children.items()
            if child.workload.kind == Kind.SERVER
        }

    def busy(self) -> bool:
        """Whether anything runs or is about to."""
        waiting = (JobState.PENDING, JobState.RUNNING)
        return bool(self._leaving) or any(child.state in waiting for child in self._children.values())

    def servers_of_nodes(self) -> dict[str, list[bool]]:
        """Readiness of the servers of each node that has any."""
        found: dict[str, list[bool]] = {}
        for child in self._children.values():
            if child.workload.kind == Kind.SERVER:
                found.setdefault(child.workload.node, []).append(child.ready)
        return found

    def log_of(self, name: str) -> Path:
        """The log of a workload, of all its attempts."""
        return self.workdir / "logs" / f"{name}.log"

    def begin_stop(self) -> None:
        """SIGTERM to everything; `look` sends SIGKILL to what is still there after the grace time."""
        for name in list(self._children):
            self.drop(name)

    def kill(self) -> None:
        """SIGKILL to everything at once."""
        self.begin_stop()
        for leaving in self._leaving:
            leaving.process.signal_group(signal.SIGKILL)

    def all_gone(self) -> bool:
        """Whether no process is left."""
        self._sweep()
        return not self._leaving and all(child.process is None for child in self._children.values())

    def close(self) -> None:
        """Kill what is left and release what is held."""
        self.kill()
        while not self.all_gone():
            time.sleep(0.01)
        self._client.close()
        self._guard.close()

    def _start_if_possible(self, child: Child) -> None:
        workload = child.workload
        if any(leaving.name == workload.name for leaving in self._leaving):
            return
        if workload.kind == Kind.JOB and not all(peer.ready for peer in self._servers_of(workload.node)):
            return
        secrets = {}
        for name, reference in workload.secrets.items():
            if not self.environment.get(name):
                self._fail(
                    child,
                    "SecretMissing",
                    f"the environment variable {name} is not set; it takes the place of key {reference.key} "
                    f"of the Secret {reference.name}: export it and run again",
                )
                return
            secrets[name] = self.environment[name]
        if workload.resources.gpus > len(self.devices):
            wanted, have = workload.resources.gpus, len(self.devices)
            self._fail(
                child,
                "NoSuchGpus",
                f"asks for {wanted} GPU(s), this machine offers {have}; lower gpusPerNode or server.gpus",
            )
            return
        devices = self._free_devices()[: workload.resources.gpus]
        if len(devices) < workload.resources.gpus:
            return
        if child.stale or self._has_lost_its_port(workload):
            # somebody else took it in the meantime: the next plan renders the command anew, with another one
            self._ports.pop(workload.name, None)
            child.stale = True
            self._restart_peers(child, Kind.JOB)  # a job that runs knows the old port
            return
        self._start(child, secrets, tuple(devices))

    def _has_lost_its_port(self, workload: Workload) -> bool:
        return (
            workload.kind == Kind.SERVER
            and workload.name in self._ports
            and not port_is_free(self._ports[workload.name])
        )

    def _start(self, child: Child, secrets: Mapping[str, str], devices: tuple[str, ...]) -> None:
        workload = child.workload
        child.attempts += 1
        child.started = now() if child.started is None or workload.kind == Kind.SERVER else child.started
        child.first_start = child.first_start or time.monotonic()
        child.devices, child.ready = devices, False
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if self.devices else {}
        environment = child_environment(self.environment, {**visible, **workload.environment, **secrets})
        message = self._message_of(workload.name)
        command = [*workload.command, "--termination-message", str(message)]
        log = self.log_of(workload.name)
        header = f"{now().isoformat()} attempt {child.attempts}: {shlex.join(command)}"
        try:
            message.parent.mkdir(parents=True, exist_ok=True)
            message.unlink(missing_ok=True)
            self._lay_texts(workload)
            child.tail = LogTail(log)
            child.process = Process(command, environment, log, header, self._guard)
        except OSError as problem:
            self._count_failure(child, f"{workload.command[0]} could not be started: {problem}")
            return
        child.state = JobState.RUNNING
        self.started += 1

    def _look_at(self, child: Child, process: Process) -> None:
        code = process.exit_code()
        if code is None:
            if child.workload.kind == Kind.JOB:
                self._keep_deadline(child)
            elif not child.ready and time.monotonic() - child.probed > PROBE_INTERVAL_S:
                self._probe(child)
            return
        child.process, child.ready, child.devices = None, False, ()
        word = self._redacted(read_last_word(self._message_of(child.workload.name)), child.workload)
        artifact = child.workload.artifact
        if child.workload.kind == Kind.JOB and code == 0 and (artifact is None or (self.root / artifact).is_dir()):
            child.state, child.last_word, child.finished = JobState.SUCCEEDED, word, now()
            child.problem = child.reason = None
            return
        child.last_word = word
        if code == 0:
            sentence = f"ended without publishing {artifact}" if artifact else "ended, though a server is to stay up"
        else:
            sentence = self._without_secrets(why(code, word, self.log_of(child.workload.name)), child.workload)
        if code == EXIT_INPUT and self._has_lost_its_port(child.workload):
            # another program was quicker between our look at the port and the server's: take a new one
            child.state, child.stale = JobState.PENDING, True
        elif code == EXIT_INPUT:
            self._fail(child, "InputError", sentence)
        else:
            self._count_failure(child, sentence)
        if child.workload.node in UNITS:
            self._restart_peers(child, Kind.JOB, Kind.SERVER)

    def _keep_deadline(self, child: Child) -> None:
        deadline = child.workload.deadline_s
        if deadline is not None and time.monotonic() - child.first_start > deadline:
            self._dismiss(child)
            self._fail(child, "DeadlineExceeded", f"took longer than its deadline of {deadline} s and was stopped")

    def _probe(self, child: Child) -> None:
        child.probed = time.monotonic()
        probe = child.workload.probe
        port = self._ports.get(child.workload.name, probe.port if probe else 0)
        child.ready = probe is None or answers(LOOPBACK, port, probe, self._client)
        if child.ready:
            child.problem = child.reason = None

    def _count_failure(self, child: Child, sentence: str) -> None:
        child.failures += 1
        if child.failures > child.workload.retries:
            self._fail(child, "RetriesExhausted", sentence)
            return
        child.state, child.problem, child.reason = JobState.PENDING, sentence, "Retrying"
        child.not_before = time.monotonic() + min(LONGEST_BACKOFF_S, self.backoff_s * 2 ** (child.failures - 1))

    def _fail(self, child: Child, reason: str, sentence: str) -> None:
        child.state, child.reason, child.problem, child.finished = JobState.FAILED, reason, sentence, now()

    def _restart_peers(self, child: Child, *kinds: Kind) -> None:
        """Start again, with this child, what runs of these kinds for the same node: no failure of theirs."""
        for peer in self._children.values():
            is_one = peer.workload.node == child.workload.node and peer.workload.kind in kinds
            if peer is not child and is_one and peer.process is not None:
                self._dismiss(peer)
                peer.state, peer.not_before = JobState.PENDING, child.not_before

    def _dismiss(self, child: Child) -> None:
        if child.process is None:
            return
        child.process.signal_group(signal.SIGTERM)
        kill_at = time.monotonic() + self.grace_s
        self._leaving.append(_Leaving(child.workload.name, child.process, child.devices, kill_at))
        child.process, child.ready, child.devices = None, False, ()

    def _sweep(self) -> None:
        staying = []
        for leaving in self._leaving:
            if leaving.process.exit_code() is None:
                if time.monotonic() > leaving.kill_at:
                    leaving.process.signal_group(signal.SIGKILL)
                staying.append(leaving)
        self._leaving = staying

    def _servers_of(self, node: str) -> list[Child]:
        return [
            child
            for child in self._children.values()
            if child.workload.kind == Kind.SERVER and child.workload.node == node
        ]

    def _free_devices(self) -> list[str]:
        taken = {device for child in self._children.values() for device in child.devices}
        taken |= {device for leaving in self._leaving for device in leaving.devices}
        return [device for device in self.devices if device not in taken]

    def _message_of(self, name: str) -> Path:
        return self.workdir / "run" / f"{name}.json"

    def _lay_texts(self, workload: Workload) -> None:
        directory = texts_directory(self.workdir, workload.name)
        for name, text in workload.texts.items():
            directory.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")

    def _redacted(self, word: Mapping[str, Any] | None, workload: Workload) -> Mapping[str, Any] | None:
        if word is None or not isinstance(word.get("error"), str):
            return word
        return {**word, "error": self._without_secrets(word["error"], workload)}

    def _without_secrets(self, sentence: str, workload: Workload) -> str:
        for name in workload.secrets:
            if self.environment.get(name):
                sentence = sentence.replace(self.environment[name], f"${name}")
        return sentence
