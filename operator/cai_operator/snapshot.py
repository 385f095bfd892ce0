"""What the operator believes a pipeline and its children to be: kopf's indexes, set right by what the API server said.

A watch may lose an event, and one that begins anew does not tell what was deleted meanwhile. So what was read from the
API server itself is remembered where it is newer than the index, and what it no longer had is passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cai_operator.cluster import Cluster, newest, version
from cai_operator.manifests.kinds import CHILD_KINDS, JOB, PIPELINE, POD, ObjectKind
from cai_operator.names import PIPELINE_LABEL

Key = tuple[str, str]
"""Namespace and name of a pipeline."""

WATCHED = (PIPELINE, *CHILD_KINDS, POD)
POD_PARTS = frozenset({"nodeName", "restartPolicy", "schedulingGates"})
CONTAINER_PARTS = ("name", "image", "resources")


@dataclass(frozen=True)
class Snapshot:
    """A pipeline and its children: kind -> name -> object, as the API server gives them, without managedFields."""

    pipeline: dict[str, Any] | None = None
    children: Mapping[str, Mapping[str, dict[str, Any]]] = field(default_factory=dict)

    def of(self, kind: ObjectKind) -> Mapping[str, dict[str, Any]]:
        """The children of that kind, by name."""
        return self.children.get(kind.kind, {})

    def every(self) -> Iterator[dict[str, Any]]:
        """All children but pods."""
        for kind in CHILD_KINDS:
            yield from self.of(kind).values()


class Index(Protocol):
    """The part of a kopf index that is used: objects by the pipeline they belong to."""

    def get(self, key: Key, default: Iterable[Any] = ...) -> Iterable[Any]: ...


class View:
    """Kopf's indexes, by kind, and what is known better."""

    def __init__(self, indexes: Mapping[str, Index]) -> None:
        self._indexes = indexes
        self._better: dict[Key, dict[str, dict[str, Any]]] = {}  # uid -> object
        self._gone: dict[Key, frozenset[str]] = {}

    def snapshot(self, key: Key, kinds: Collection[ObjectKind] = WATCHED) -> Snapshot:
        """What is believed now, of these kinds."""
        gone, better = self._gone.get(key, frozenset()), self._better.get(key, {})
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        seen = set()
        for kind in kinds:
            for item in self._indexes[kind.kind].get(key, ()):
                uid = item["metadata"]["uid"]
                seen.add(uid)
                if uid in gone:
                    continue
                known = better.get(uid)
                item = known if known is not None and version(known) > version(item) else item
                found.setdefault(kind.kind, {}).setdefault(item["metadata"]["name"], []).append(item)
        names = {kind.kind for kind in kinds}
        for uid, item in better.items():
            if uid not in seen and uid not in gone and item["kind"] in names:  # its first event is still on its way
                found.setdefault(item["kind"], {}).setdefault(item["metadata"]["name"], []).append(item)
        children = {kind: {name: newest(items) for name, items in by_name.items()} for kind, by_name in found.items()}
        pipelines = children.pop(PIPELINE.kind, {})
        return Snapshot(pipelines.get(key[1]), children)

    def uids(self, key: Key) -> frozenset[str]:
        """The objects the indexes have of a pipeline: ask before reading from the API server, for `correct`."""
        return frozenset(self._indexed(key))

    def correct(self, key: Key, live: Snapshot, before: Collection[str]) -> None:
        """Take over what the API server itself said about a pipeline and its children.

        Args:
            key: the pipeline.
            live: what it said.
            before: what `uids` was before it was asked. Watches go on meanwhile: what they brought or took since then
                is newer than the answer.
        """
        objects = [*live.every(), *live.of(POD).values()]
        if live.pipeline is not None:
            objects.append(live.pipeline)
        there = {item["metadata"]["uid"]: item for item in objects}
        indexed = self._indexed(key)
        self._gone[key] = frozenset(uid for uid in indexed if uid in before and uid not in there)
        self._better[key] = {
            uid: item
            for uid, item in there.items()
            if (uid not in before if uid not in indexed else version(indexed[uid]) < version(item))
        }

    def note(self, key: Key, item: dict[str, Any]) -> None:
        """Take over one object as the API server just answered it."""
        self._better.setdefault(key, {})[item["metadata"]["uid"]] = item

    def seen_event(self, key: Key, uid: str, resource_version: int, deleted: bool) -> None:
        """An event about an object has come: what it says replaces what was known better."""
        better = self._better.get(key)
        if better is not None and uid in better and (deleted or version(better[uid]) <= resource_version):
            del better[uid]

    def forget(self, key: Key) -> None:
        """The pipeline is gone."""
        self._better.pop(key, None)
        self._gone.pop(key, None)

    def _indexed(self, key: Key) -> dict[str, dict[str, Any]]:
        return {item["metadata"]["uid"]: item for kind in WATCHED for item in self._indexes[kind.kind].get(key, ())}


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """The parts of an object anybody here looks at.

    Most of a Job is its template and most of a pod its spec, both said once more in what the plan wants: with them the
    objects of a pipeline take twice the memory.
    """
    spec = found.get("spec", {})
    if found["kind"] == JOB.kind:
        return {**found, "spec": {name: part for name, part in spec.items() if name != "template"}}
    if found["kind"] == POD.kind:
        parts = {name: part for name, part in spec.items() if name in POD_PARTS}
        for name in ("containers", "initContainers"):
            if name in spec:
                parts[name] = [{field: one[field] for field in CONTAINER_PARTS if field in one} for one in spec[name]]
        return {**found, "spec": parts}
    return found


async def read(cluster: Cluster, key: Key) -> Snapshot:
    """A pipeline and its children as the API server has them now.

    Raises:
        Unavailable: it cannot be asked now.
        Refused: it does not let us.
    """
    namespace, name = key
    kinds = (*CHILD_KINDS, POD)
    selector = f"{PIPELINE_LABEL}={name}"
    pipeline, *lists = await asyncio.gather(
        cluster.get(PIPELINE, namespace, name), *(cluster.list_all(kind, namespace, labels=selector) for kind in kinds)
    )
    children = {
        kind.kind: {item["metadata"]["name"]: item for item in items} for kind, items in zip(kinds, lists, strict=True)
    }
    return Snapshot(pipeline, children)
