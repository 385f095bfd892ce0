"""Plays the controllers of Jobs and Deployments and the kubelet for very many pipelines at a time.

The controllers themselves would take more of a small machine than the operator that is measured.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import httpx
from tests.harness.control_plane import ControlPlane
from tests.harness.outcomes import Run, Succeed, ended, now, status_steps

from cai_operator.manifests.kinds import DEPLOYMENT, JOB, POD, ObjectKind
from cai_operator.names import NODE_LABEL, PIPELINE_LABEL

PATIENCE_S = 1800.0
WATCH_S = 60
TAKES_S = 1.0
NOTICE_S = 1.0
"""How long after its pod's end a Job is complete: its controller gathers what happens within a second."""


class Programs:
    """An async context manager; plays one namespace.

    Attributes:
        held: pipelines whose job of the held node runs, until they are let go.
    """

    def __init__(self, plane: ControlPlane, namespace: str, held: str) -> None:
        self.held: set[str] = set()
        self._plane, self._namespace, self._held_node = plane, namespace, held
        self._gates: dict[str, asyncio.Event] = {}
        self._played: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(
            base_url=self._plane.url,
            verify=ssl.create_default_context(cafile=str(self._plane.ca)),
            headers={"Authorization": f"Bearer {self._plane.admin_token}"},
            timeout=120,
            trust_env=False,
            limits=httpx.Limits(max_connections=40),
        )
        self._spawn(self._watch(JOB, self._play_job))
        self._spawn(self._watch(DEPLOYMENT, self._play_server))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def let_go(self, pipeline: str) -> None:
        """Let the held job of a pipeline end."""
        self._gate(pipeline).set()

    async def until(self, is_so: Callable[[], bool | Awaitable[bool]]) -> None:
        """Wait until something is so; whatever went wrong with a program meanwhile is raised."""
        end = time.monotonic() + PATIENCE_S
        while True:
            answer = is_so()
            if answer if isinstance(answer, bool) else await answer:
                return
            if self._problem is not None:
                raise self._problem
            if time.monotonic() > end:
                raise TimeoutError(f"waited {PATIENCE_S:.0f} s in vain; {len(self.held)} pipelines are held")
            await asyncio.sleep(0.2)

    async def get(self, path: str) -> dict[str, Any] | None:
        """An object, None where there is none."""
        return await self.send("GET", path)

    async def send(self, method: str, path: str, document: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Any request; None where the object is gone."""
        form = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = None if document is None else json.dumps(document)
        response = await self._client.request(method, path, content=content, headers={"Content-Type": form})
        if response.status_code == 404:
            return None
        if response.is_error:
            raise RuntimeError(f"{method} {path}: {response.text}")
        return dict(response.json())

    async def _watch(self, kind: ObjectKind, play: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        path = kind.path(self._namespace)
        parameters = {"watch": "1", "timeoutSeconds": str(WATCH_S), "labelSelector": PIPELINE_LABEL}
        while True:
            async with self._client.stream("GET", path, params=parameters) as answer:  # begins with all there are
                async for line in answer.aiter_lines():
                    event = json.loads(line)
                    found = event["object"]
                    if event["type"] == "ERROR":  # the server is only starting, or the watch is too far behind
                        await asyncio.sleep(0.2)
                        break
                    if found["metadata"]["uid"] not in self._played:
                        self._played.add(found["metadata"]["uid"])
                        self._spawn(play(found))

    async def _play_job(self, job: dict[str, Any]) -> None:
        metadata, template = job["metadata"], job["spec"]["template"]
        pipeline, node = metadata["labels"][PIPELINE_LABEL], metadata["labels"][NODE_LABEL]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        about = {**template["metadata"], "name": f"{metadata['name']}-x"}
        about["ownerReferences"] = [{**owner, "controller": True}]
        pod = await self.send("POST", POD.path(self._namespace), {"metadata": about, "spec": template["spec"]})
        assert pod is not None
        began = now()
        await self._status(POD, pod, status_steps(pod, Run())[0])
        await self._status(JOB, job, {"startTime": began, "active": 1, "ready": 1})
        if node == self._held_node:
            self.held.add(pipeline)
            await self._gate(pipeline).wait()
        await asyncio.sleep(TAKES_S)
        await self._status(POD, pod, ended(pod, Succeed()))
        await asyncio.sleep(NOTICE_S)
        conditions = [_condition(type_) for type_ in ("SuccessCriteriaMet", "Complete")]
        status = {"active": 0, "ready": 0, "succeeded": 1, "completionTime": now(), "conditions": conditions}
        await self._status(JOB, job, {"startTime": began, **status})

    async def _play_server(self, deployment: dict[str, Any]) -> None:
        await asyncio.sleep(TAKES_S)
        status = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), 1)
        status["observedGeneration"] = deployment["metadata"]["generation"]
        await self._status(DEPLOYMENT, deployment, {**status, "conditions": [_condition("Available")]})

    async def _status(self, kind: ObjectKind, found: dict[str, Any], status: dict[str, Any]) -> None:
        path = kind.path(self._namespace, found["metadata"]["name"]) + "/status"
        await self.send("PATCH", path, {"status": status})

    def _gate(self, pipeline: str) -> asyncio.Event:
        return self._gates.setdefault(pipeline, asyncio.Event())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._problem = task.exception()


def _condition(type_: str) -> dict[str, str]:
    return {"type": type_, "status": "True", "lastTransitionTime": now(), "lastProbeTime": now()}
