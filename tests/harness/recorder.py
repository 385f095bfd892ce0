"""Writes down what happens to the children of a namespace, in the API server's own order.

One etcd gives every change of every object the next number, its resourceVersion: so changes of different kinds can be
put in one order, and a test can ask what was there when something came.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from tests.harness.control_plane import ControlPlane
from tests.harness.watching import Watching

from cai_operator.manifests.kinds import DEPLOYMENT, JOB, ObjectKind


@dataclass(frozen=True)
class Change:
    """One change: `what` is ADDED, MODIFIED or DELETED, `found` the object after it."""

    version: int
    what: str
    found: dict[str, Any]

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.found["metadata"]["name"])

    @property
    def node(self) -> str:
        """The node of the graph it works for."""
        return str(self.found["metadata"]["labels"].get("cai.dev/node", ""))

    @property
    def is_complete(self) -> bool:
        """Whether it is a Job whose program has ended well; that the Job is Complete follows."""
        conditions = self.found.get("status", {}).get("conditions", [])
        return any(one["type"] in ("SuccessCriteriaMet", "Complete") and one["status"] == "True" for one in conditions)

    @property
    def is_ready(self) -> bool:
        """Whether it is a Deployment with a ready pod."""
        return bool(self.found.get("status", {}).get("readyReplicas", 0))

    @property
    def is_going(self) -> bool:
        """Whether it is gone, or being deleted."""
        return self.what == "DELETED" or "deletionTimestamp" in self.found["metadata"]


class Recorder:
    """A context manager that records kinds of objects of one namespace from when it is entered."""

    def __init__(self, control_plane: ControlPlane, namespace: str, *kinds: ObjectKind) -> None:
        self._client, self._namespace = control_plane.client(), namespace
        self._kinds = kinds or (JOB, DEPLOYMENT)
        self._changes: list[tuple[str, Change]] = []
        self._lock = threading.Lock()
        self._watches: list[Watching] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for kind in self._kinds:
            answer = self._client.get(kind.path(self._namespace)).raise_for_status().json()
            for item in answer["items"]:
                self._note(kind, "ADDED", item)
            self._watches.append(Watching())
            arguments = (kind, answer["metadata"]["resourceVersion"], self._watches[-1])
            self._threads.append(threading.Thread(target=self._watch, args=arguments, daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for watching in self._watches:
            watching.end()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def changes(self, kind: ObjectKind, node: str | None = None) -> list[Change]:
        """All changes of a kind so far, or of one node's, in order."""
        with self._lock:
            found = [change for name, change in self._changes if name == kind.kind]
        return sorted((c for c in found if node is None or c.node == node), key=lambda change: change.version)

    def first(self, kind: ObjectKind, node: str, matches: Callable[[Change], bool]) -> int:
        """The number of the first change of a node's object that matches.

        Raises:
            AssertionError: there is none.
        """
        found = next((change for change in self.changes(kind, node) if matches(change)), None)
        assert found is not None, f"no such change of {kind.kind} of {node}"
        return found.version

    def made(self, kind: ObjectKind) -> dict[str, int]:
        """How many different objects of a kind there were, by node."""
        uids: dict[str, set[str]] = {}
        for change in self.changes(kind):
            uids.setdefault(change.node, set()).add(change.found["metadata"]["uid"])
        return {node: len(found) for node, found in uids.items()}

    def there_at(self, kind: ObjectKind, version: int) -> set[str]:
        """The names of the objects of a kind that were there, and not being deleted, at that number."""
        there: set[str] = set()
        for change in self.changes(kind):
            if change.version <= version:
                (there.discard if change.is_going else there.add)(change.name)
        return there

    def _watch(self, kind: ObjectKind, version: str, watching: Watching) -> None:
        while not watching.over.is_set():
            try:
                for event in watching.events(self._client, kind.path(self._namespace), version):
                    assert event["type"] != "ERROR", f"the watch of a test broke: {event}"
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._note(kind, event["type"], event["object"])
            except httpx.TransportError:
                watching.over.wait(0.2)

    def _note(self, kind: ObjectKind, what: str, found: dict[str, Any]) -> None:
        with self._lock:
            self._changes.append((kind.kind, Change(int(found["metadata"]["resourceVersion"]), what, found)))
