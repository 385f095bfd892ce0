"""Plays the kubelet: every pod the Job and Deployment controllers make gets the status a script has for it.

    with Player(control_plane, namespace) as player:
        player.script("sft", Fail(1, "the loss is NaN"), Run())    # its first pod fails, its second runs on
        ...                                                         # whatever has no script succeeds, servers get ready
        player.end("sft")                                           # the pod that runs on succeeds

Pods are not bound to a node, so a deleted one is gone at once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import httpx
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import Evicted, Fail, Outcome, Run, Succeed, ended, status_steps
from tests.harness.watching import Watching

from cai_operator.manifests.kinds import POD


class Player:
    """A context manager; plays all pods of one namespace from its own thread until it is left.

    Attributes:
        started: the node of every job pod that was let run, in order; "NODE/server" for servers' pods.
        jobs: node -> names of the Jobs whose pods were let run.
    """

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.started: list[str] = []
        self.jobs: dict[str, set[str]] = defaultdict(set)
        self._client = control_plane.client()
        self._api = Api(self._client, namespace)
        self._scripts: dict[str, list[Outcome]] = defaultdict(list)
        self._played: set[str] = set()
        self._running: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._problem: Exception | None = None
        self._lock = threading.RLock()
        self._watching = Watching()
        self._thread = threading.Thread(target=self._play, name="player", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._watching.end()
        self._thread.join()
        self._client.close()
        if kind is None and self._problem is not None:
            raise self._problem

    def script(self, what: str, *outcomes: Outcome) -> None:
        """What becomes of the next pods of a node's job (`sft`) or of its servers (`rlData/server`); then the default.

        By default jobs succeed and servers get ready.
        """
        with self._lock:
            self._scripts[what].extend(outcomes)

    def running(self, what: str) -> list[str]:
        """Names of the pods of a node's job, or of its servers, that run on by script."""
        with self._lock:
            return [pod["metadata"]["name"] for pod in self._running[what]]

    def wait_for_running(self, what: str) -> str:
        """Wait until a pod runs on by script, and return its name."""
        return wait_for(lambda: self.running(what), f"a pod of {what} to run")[0]

    def end(self, what: str, outcome: Succeed | Fail | Evicted = Succeed()) -> None:  # noqa: B008 - frozen
        """Let the pods of a node's job that run on by script end so."""
        with self._lock:
            pods = self._running.pop(what, [])
        assert pods, f"no pod of {what} runs on"
        for pod in pods:
            self._write(pod, ended(pod, outcome))

    def change(self, what: str, outcome: Outcome) -> None:
        """Let the pods of a node's job, or its servers, that are there now come to another outcome."""
        is_server = what.endswith("/server")
        labels = {"cai.dev/node": what.removesuffix("/server"), "cai.dev/kind": "server" if is_server else "job"}
        for pod in self._api.list(POD, **labels):
            for status in status_steps(pod, outcome):
                self._write(pod, status)

    def _play(self) -> None:
        version = ""
        while not self._watching.over.is_set():
            try:
                if not version:
                    listed = self._client.get(POD.path(self._api.namespace)).raise_for_status().json()
                    version = listed["metadata"]["resourceVersion"]
                    for pod in listed["items"]:
                        self._play_pod(pod)
                version = self._watch(version)
            except (httpx.TransportError, httpx.HTTPStatusError):
                version = ""  # the API server is being restarted: look at everything again
                self._watching.over.wait(0.2)
            except Exception as problem:  # shown when the test ends
                self._problem = problem
                return

    def _watch(self, version: str) -> str:
        for event in self._watching.events(self._client, POD.path(self._api.namespace), version):
            if event["type"] == "ERROR":
                return ""
            version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "DELETED":
                self._play_pod(event["object"])
        return version

    def _play_pod(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        labels = metadata.get("labels", {})
        with self._lock:
            if metadata["uid"] in self._played or "deletionTimestamp" in metadata or "cai.dev/node" not in labels:
                return
            self._played.add(metadata["uid"])
            is_job = labels["cai.dev/kind"] == "job"
            what = labels["cai.dev/node"] if is_job else f"{labels['cai.dev/node']}/server"
            default: Outcome = Succeed() if is_job else Run()
            outcome = self._scripts[what].pop(0) if self._scripts[what] else default
            self.started.append(what)
            if is_job:
                self.jobs[what].add(labels["batch.kubernetes.io/job-name"])
        for status in status_steps(pod, outcome):
            self._write(pod, status)
        if isinstance(outcome, Run):
            with self._lock:
                self._running[what].append(pod)

    def _write(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        try:
            self._api.patch(POD, pod["metadata"]["name"], {"status": status}, "status")
        except httpx.HTTPStatusError as problem:
            if problem.response.status_code not in (404, 409):  # deleted meanwhile
                raise


def runs_of(started: Iterable[str]) -> dict[str, int]:
    """How often each node's program was started."""
    counts: dict[str, int] = {}
    for what in started:
        counts[what] = counts.get(what, 0) + 1
    return counts
