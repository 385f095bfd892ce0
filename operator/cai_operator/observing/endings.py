"""How a pod's program ended: its last word, or what can be said in its stead."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cai_jobs.contract.program import EXIT_INPUT
from cai_operator import conditions
from cai_operator.manifests.job import INDEX_ANNOTATION
from cai_operator.manifests.pod import CONTAINER
from cai_operator.observing.fields import Fields
from cai_operator.observing.objects import Raw, condition, dig, items, label, mapping, name_of, number, text, time

ERROR_MARK = "error: "
LONGEST_SENTENCE = 600


@dataclass(frozen=True)
class Ending:
    """One end of a program.

    Attributes:
        pod: the pod it ran in.
        exit_code: None where the pod ended without one, as an evicted one may.
        word: the JSON object it left as termination message.
        sentence: why it ended, for people; empty for a good end.
        reason: why, as one word; empty for a good end.
    """

    pod: str
    exit_code: int | None
    word: Mapping[str, Any] | None = None
    sentence: str = ""
    reason: str = ""
    started: datetime | None = None
    finished: datetime | None = None

    @property
    def is_good(self) -> bool:
        """Whether the program did what it should."""
        return self.exit_code == 0


def program_status(pod: Raw) -> Raw:
    """The status of the pod's program container, empty before there is one."""
    return next((status for status in items(pod, "status", "containerStatuses") if status.get("name") == CONTAINER), {})


def is_running(pod: Raw) -> bool:
    """Whether its program runs now."""
    return bool(dig(program_status(pod), "state", "running"))


def has_ended(pod: Raw) -> bool:
    """Whether it will run no more."""
    return text(pod, "status", "phase") in ("Succeeded", "Failed") or bool(
        mapping(program_status(pod), "state", "terminated") and text(pod, "spec", "restartPolicy") == "Never"
    )


def rank_of(pod: Raw) -> int:
    """The pod's completion index; 0 in a Job without."""
    index = text(pod, "metadata", "annotations", INDEX_ANNOTATION) or label(pod, INDEX_ANNOTATION)
    return int(index) if index.isdigit() else 0


def newest_first(pods: Iterable[Raw]) -> list[Raw]:
    """Pods by when they were made, the newest first."""
    return sorted(pods, key=lambda pod: (text(pod, "metadata", "creationTimestamp"), name_of(pod)), reverse=True)


def ending_of(pod: Raw, fields: Fields) -> Ending | None:
    """How this pod's program ended, or did the last time before it was started again; None where it never ended."""
    status = program_status(pod)
    ended = mapping(status, "state", "terminated") or mapping(status, "lastState", "terminated")
    name = name_of(pod)
    away = _evicted(pod)
    if not ended:
        if text(pod, "status", "phase") != "Failed":
            return None
        reason, sentence = away or (conditions.CONTAINER_FAILED, _pod_message(pod))
        return Ending(name, None, None, sentence, reason)
    code, message = number(ended, "exitCode"), text(ended, "message")
    word = _word(message)
    sentence = reason = ""
    if code != 0:
        reason, sentence = away or _why(ended, code, message, word, pod, fields)
    return Ending(name, code, word, sentence, reason, time(ended, "startedAt"), time(ended, "finishedAt"))


def _why(
    ended: Raw, code: int, message: str, word: Mapping[str, Any] | None, pod: Raw, fields: Fields
) -> tuple[str, str]:
    if text(ended, "reason") == "OOMKilled":
        limit = _memory_limit(pod)
        return conditions.OUT_OF_MEMORY, (
            f"ran out of memory{f' (limit {limit})' if limit else ''}: raise {fields.memory}"
        )
    reason = conditions.INPUT_ERROR if code == EXIT_INPUT else conditions.CRASH_LOOPING
    error = (word or {}).get("error")
    if isinstance(error, str) and error:
        return reason, error
    if text(ended, "reason") in ("ContainerCannotRun", "StartError"):
        return conditions.CONTAINER_FAILED, f"its container cannot be started: {_shortened(message)}"
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith('{"progress"')]
    own = next((line for line in reversed(lines) if line.startswith(ERROR_MARK)), None)
    if own is not None:
        return reason, _shortened(own.removeprefix(ERROR_MARK))
    number_ = number(ended, "signal") or (code - 128 if code > 128 else 0)
    if number_ in set(signal.Signals):
        how = f"was killed by {signal.Signals(number_).name}"
    else:
        how = f"ended with exit code {code}"
    return reason, how + (f": {_shortened(lines[-1])}" if lines and word is None else "")


def _evicted(pod: Raw) -> tuple[str, str] | None:
    message = text(pod, "status", "message") or text(condition(pod, "DisruptionTarget"), "message")
    disrupted = condition(pod, "DisruptionTarget").get("status") == "True"
    if text(pod, "status", "reason") not in ("Evicted", "Preempting") and not disrupted:
        return None
    return conditions.EVICTED, f"pod {name_of(pod)} was evicted" + (f": {_shortened(message)}" if message else "")


def _pod_message(pod: Raw) -> str:
    reason, message = text(pod, "status", "reason"), text(pod, "status", "message")
    words = ": ".join(filter(None, [reason, message])) or "no reason given"
    return f"pod {name_of(pod)} failed: {_shortened(words)}"


def _memory_limit(pod: Raw) -> str:
    for container in items(pod, "spec", "containers"):
        if container.get("name") == CONTAINER:
            return text(container, "resources", "limits", "memory")
    return ""


def _word(message: str) -> Mapping[str, Any] | None:
    try:
        word = json.loads(message)
    except ValueError:
        return None
    return word if isinstance(word, dict) else None


def _shortened(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= LONGEST_SENTENCE else words[: LONGEST_SENTENCE - 1] + "…"
