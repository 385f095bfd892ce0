"""Plays all controllers of one namespace at once, step by step: for tests that must be the same every time.

No kube-controller-manager may run there. `step` takes every Job, Deployment and object being deleted one step further,
the way its controller would, and writes what that controller and the kubelet would write, in their order.

Nothing is listed or watched. Who writes to the namespace is known, and every write's answer has the object as it is
then: so `objects` is what the API server has, and `index` what watches would have told the operator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import httpx
from tests.harness.outcomes import Succeed, ended, now

from cai_operator.manifests.kinds import CHILD_KINDS, DEPLOYMENT, JOB, PIPELINE, POD, ObjectKind
from cai_operator.names import PIPELINE_LABEL

ACCOUNTS = "/api/v1/namespaces/{}/serviceaccounts"
BY_KIND = {kind.kind: kind for kind in (PIPELINE, *CHILD_KINDS, POD)}

Tell = Callable[[str, str, int, bool], None]


class HandPlayed:
    """One namespace; every program succeeds, every server gets ready.

    Attributes:
        objects: everything that is there, by kind and name.
        runs: how often the program of each node was run.
        tell: called at every change with the pipeline's name, the object's uid, its resourceVersion, and whether it is
            gone now.
    """

    def __init__(self, client: httpx.AsyncClient, namespace: str) -> None:
        self.namespace = namespace
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.runs: Counter[str] = Counter()
        self.tell: Tell = lambda *_: None
        self._client = client

    async def make_namespace(self) -> None:
        """Make the namespace, and the service account without which no pod is taken."""
        await self._write("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        await self._write("POST", ACCOUNTS.format(self.namespace), {"metadata": {"name": "default"}})

    async def create(self, kind: ObjectKind, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create an object."""
        typed = {"apiVersion": kind.api_version, "kind": kind.kind, **manifest}
        return await self._write("POST", kind.path(self.namespace), typed)

    async def lists(self, *kinds: ObjectKind) -> dict[tuple[str, str], dict[str, Any]]:
        """What the API server itself has of these kinds, by kind and name."""
        found = {}
        for kind in kinds:
            answer = await self._client.get(kind.path(self.namespace))
            for item in answer.raise_for_status().json()["items"]:
                found[kind.kind, item["metadata"]["name"]] = item
        return found

    def saw(self, method: str, answer: dict[str, Any]) -> None:
        """Take note of the answer to a write, be it the operator's."""
        if answer.get("kind") not in BY_KIND:
            return
        metadata = answer["metadata"]
        is_gone = (method == "DELETE" or _is_going(answer)) and not metadata.get("finalizers")
        if is_gone:
            self.objects.pop((answer["kind"], metadata["name"]), None)
        else:
            self.objects[answer["kind"], metadata["name"]] = answer
        self.tell(_pipeline_of(answer), metadata["uid"], int(metadata["resourceVersion"]), is_gone)

    def index(self, kind: ObjectKind) -> Index:
        """What a watch of that kind would have told so far."""
        return Index(self, kind)

    def of(self, kind: ObjectKind) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return [item for (its_kind, _), item in self.objects.items() if its_kind == kind.kind]

    async def step(self) -> bool:
        """Let everything go one step further; whether anything did."""
        moved = False
        for item in list(self.objects.values()):
            kind = BY_KIND[item["kind"]]
            if _is_going(item):
                await self._let_go(kind, item)
                moved = True
            elif kind == DEPLOYMENT:
                moved |= await self._step_deployment(item)
            elif kind == JOB:
                moved |= await self._step_job(item)
        return moved

    async def _step_deployment(self, deployment: dict[str, Any]) -> bool:
        replicas, generation = deployment["spec"]["replicas"], deployment["metadata"]["generation"]
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        status = {"observedGeneration": generation, **dict.fromkeys(counts, replicas)}
        if all(deployment.get("status", {}).get(name, 0) == value for name, value in status.items()):
            return False
        await self._write_status(DEPLOYMENT, deployment, status)
        return True

    async def _step_job(self, job: dict[str, Any]) -> bool:
        status = job.get("status", {})
        if status.get("succeeded"):
            return False
        if not status.get("active"):
            await self._start(job)
        else:
            await self._finish(job)
        return True

    async def _start(self, job: dict[str, Any]) -> None:
        metadata, template = job["metadata"], job["spec"]["template"]
        self.runs[metadata["labels"]["cai.dev/node"]] += 1
        owner = {"apiVersion": JOB.api_version, "kind": JOB.kind, "name": metadata["name"], "uid": metadata["uid"]}
        pod = {
            "metadata": {
                "name": _pod_name(job),
                "labels": template["metadata"]["labels"],
                "ownerReferences": [{**owner, "controller": True}],
            },
            "spec": template["spec"],
        }
        await self.create(POD, pod)
        running = {"startTime": now(), "active": 1, "ready": 1, "terminating": 0, "uncountedTerminatedPods": {}}
        await self._write_status(JOB, job, running)

    async def _finish(self, job: dict[str, Any]) -> None:
        pod = self.objects[POD.kind, _pod_name(job)]
        await self._write_status(POD, pod, ended(pod, Succeed()))
        conditions = [
            {"type": type_, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now()}
            for type_ in ("SuccessCriteriaMet", "Complete")
        ]
        counts = {"active": None, "ready": 0, "succeeded": 1}
        await self._write_status(JOB, job, {**counts, "completionTime": now(), "conditions": conditions})

    async def _let_go(self, kind: ObjectKind, found: dict[str, Any]) -> None:
        """What the garbage collector does: what an object owned goes, then the object itself."""
        for pod in self.of(POD):
            if pod["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]:
                await self._write("DELETE", POD.path(self.namespace, pod["metadata"]["name"]), None)
        path = kind.path(self.namespace, found["metadata"]["name"])
        await self._write("PATCH", path, {"metadata": {"finalizers": None}})

    async def _write_status(self, kind: ObjectKind, found: dict[str, Any], status: dict[str, Any]) -> None:
        path = f"{kind.path(self.namespace, found['metadata']['name'])}/status"
        await self._write("PATCH", path, {"status": status})

    async def _write(self, method: str, path: str, body: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        answer = await self._client.request(method, path, content=json.dumps(body), headers=headers)
        assert not answer.is_error, f"{method} {path}: {answer.status_code} {answer.text}"
        document = dict(answer.json())
        self.saw(method, document)
        return document


class Index:
    """The part of one of kopf's indexes that the operator uses: objects of a kind by namespace and pipeline."""

    def __init__(self, world: HandPlayed, kind: ObjectKind) -> None:
        self._world, self._kind = world, kind

    def get(self, key: tuple[str, str], default: Iterable[Any] = ()) -> Iterable[Any]:
        """The objects of a pipeline."""
        return [item for item in self._world.of(self._kind) if _pipeline_of(item) == key[1]] or default


def _is_going(found: dict[str, Any]) -> bool:
    return "deletionTimestamp" in found["metadata"]


def _pipeline_of(found: dict[str, Any]) -> str:
    metadata = found["metadata"]
    return str(metadata["name"] if found["kind"] == PIPELINE.kind else metadata.get("labels", {}).get(PIPELINE_LABEL))


def _pod_name(job: dict[str, Any]) -> str:
    return f"{job['metadata']['name']}-{job['metadata']['uid'][:5]}"
