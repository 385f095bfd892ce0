"""The API server's audit log: who asked what and when, by its own clock."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

# bodies are left out; reads of the benchmark itself and of those who keep house are not looked at
POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: None, users: ["system:kube-controller-manager", "system:apiserver"]}
  - {level: None, users: [admin], verbs: [get, list, watch]}
  - {level: Metadata}
"""
PIPELINE_NAME = re.compile(r"p\d{4}(?=[-.]|$)")
WRITES = frozenset({"create", "update", "patch", "delete"})
STARTING_SHOTS = frozenset({("patch", "jobs/status"), ("patch", "deployments/status")})


@dataclass(frozen=True)
class Call:
    """One request; times as seconds since 1970."""

    user: str
    verb: str
    resource: str
    pipeline: str
    name: str
    asked: float
    answered: float

    @property
    def what(self) -> str:
        """Verb and resource."""
        return f"{self.verb} {self.resource}"


class Calls:
    """All requests, in the order they came."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.all: Sequence[Call] = sorted(calls, key=lambda call: call.asked)

    def within(self, begin: float, end: float) -> list[Call]:
        """Those that came in a stretch of time."""
        return [call for call in self.all if begin <= call.asked < end]

    def reactions(self, operator: str, begin: float, end: float) -> list[float]:
        """Seconds from every last status of a Job or Deployment to the operator's next write for that pipeline.

        Where several things happen to a pipeline before the operator writes, the first one counts.
        """
        waiting: dict[str, float] = {}
        found = []
        last = {call.name: call for call in self.all if (call.verb, call.resource) in STARTING_SHOTS}
        shots = {id(call) for call in last.values()}
        moments = [(call.answered, call) for call in self.all if id(call) in shots and begin <= call.asked < end]
        moments += [
            (call.asked, call)
            for call in self.within(begin, end)
            if call.user == operator and call.verb in WRITES and call.pipeline
        ]
        for moment, call in sorted(moments, key=lambda pair: pair[0]):
            if call.user != operator:
                waiting.setdefault(call.pipeline, moment)
            elif call.pipeline in waiting:
                found.append(moment - waiting.pop(call.pipeline))
        return found


def read_calls(path: Path) -> Calls:
    """Every request of a log."""
    with path.open(encoding="utf-8") as lines:
        return Calls(call for line in lines if (call := _call(json.loads(line))) is not None)


def _call(event: dict[str, object]) -> Call | None:
    about = event.get("objectRef")
    if not isinstance(about, dict):
        return None
    name = str(about.get("name", ""))
    pipeline = PIPELINE_NAME.match(name)
    subresource = about.get("subresource")
    user = event["user"]
    assert isinstance(user, dict)
    return Call(
        user=str(user.get("username", "")),
        verb=str(event["verb"]),
        resource=str(about.get("resource", "")) + (f"/{subresource}" if subresource else ""),
        pipeline=pipeline[0] if pipeline else "",
        name=name,
        asked=_seconds(event["requestReceivedTimestamp"]),
        answered=_seconds(event["stageTimestamp"]),
    )


def _seconds(text: object) -> float:
    return datetime.fromisoformat(str(text)).timestamp()
