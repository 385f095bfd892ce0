"""One look at one pipeline: observe, plan, delete and make, write the status once, tell the events.

Level-triggered: it may be called at any time, any number of times, and killed at any point; the next call goes on from
what is there. Nothing is decided here: what should exist is the plan's, what to write for it `changes.py`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cai_operator import conditions
from cai_operator.api import CAIPipeline, PipelineStatus, parse_status
from cai_operator.changes import Apply, Changes, changes, own
from cai_operator.cluster import Cluster, Conflict, Refused
from cai_operator.engines import EngineError
from cai_operator.gathering import TEXTS_MAX_AGE_S, Memory, age, read_progress, read_texts, read_warnings
from cai_operator.manifests.children import places_of
from cai_operator.manifests.event import event_object
from cai_operator.manifests.kinds import DEPLOYMENT, JOB, PIPELINE, POD, kind_of
from cai_operator.names import MANAGED_BY_LABEL, PIPELINE_LABEL
from cai_operator.observing import Children, observe
from cai_operator.observing.objects import is_going
from cai_operator.observing.troubles import NOT_OURS
from cai_operator.plan import Event, Plan, plan
from cai_operator.settings import Settings
from cai_operator.site_defaults import with_site_defaults
from cai_operator.snapshot import Key, Snapshot, View, read
from cai_operator.status import Phase
from cai_operator.summary import events_between, refused_status
from cai_operator.validation import InvalidResource, parse_served
from cai_operator.workloads import JobState, Observed

TEXT_MISSING_AGAIN_S = 3.0
REFUSED_AGAIN_S = 3.0
STARTING_AGAIN_S = 3.0
MOST_TRIES = 5

Wrote = Callable[[Mapping[str, Any], PipelineStatus, PipelineStatus], None]
"""Told of every status that was written: the resource before it, its status before, and the new one."""

log = logging.getLogger("cai_operator")


class _Outdated(Exception):
    """The pipeline is not what it was believed to be; look again."""


@dataclass(frozen=True)
class _Look:
    """What one look at a pipeline is based on; the snapshot is without what is going."""

    key: Key
    document: dict[str, Any]
    pipeline: CAIPipeline
    status: PipelineStatus
    snapshot: Snapshot
    memory: Memory
    now: datetime


class Reconciler:
    """Brings the pipelines of one cluster to what their specs say.

    Args:
        view: what watches say.
        cluster: the API server.
        settings: the operator's.
        may_write: called before every write; raises where another operator may have taken over.
        clock: the time, aware.
        wrote: told of every status once it is written.
    """

    def __init__(
        self,
        view: View,
        cluster: Cluster,
        settings: Settings,
        may_write: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        wrote: Wrote = lambda *_: None,
    ) -> None:
        self._view, self._cluster, self._settings = view, cluster, settings
        self._may_write, self._clock, self._wrote = may_write, clock, wrote
        self._memories: dict[Key, Memory] = {}

    async def reconcile(self, key: Key, live: bool = False) -> float | None:
        """Look at a pipeline once; the seconds until it should be looked at again whatever happens, None if never.

        With `live`, the API server itself is asked for the pipeline and all its children first.

        Raises:
            Unavailable: the API server cannot be reached, or not now; nothing is lost, look again later.
            Refused: it does not let the operator read what it must, or write the status.
        """
        if live:
            before = self._view.uids(key)
            self._view.correct(key, await read(self._cluster, key), before)
        for _ in range(MOST_TRIES):
            try:
                return await self._look(key)
            except _Outdated:
                continue
        return STARTING_AGAIN_S

    async def _look(self, key: Key) -> float | None:
        everything = self._view.snapshot(key)
        document = everything.pipeline
        if document is None or is_going(document):
            self._memories.pop(key, None)
            if document is None:
                self._view.forget(key)
            return None  # the garbage collector takes its children
        now = self._clock().replace(microsecond=0)
        status = parse_status(document.get("status"))
        try:
            said, unknown = parse_served(document)
            pipeline = with_site_defaults(said, self._settings.site)
        except InvalidResource as problem:
            return await self._refuse(key, document, status, conditions.SPEC_INVALID, str(problem), now)
        memory = self._memories.setdefault(key, Memory())
        if unknown and unknown != memory.unknown:
            log.warning("%s/%s: this version does not know, and passes over: %s", *key, ", ".join(unknown))
        memory.unknown = unknown
        look = _Look(key, document, pipeline, status, own(pipeline, everything), memory, now)
        await read_texts(self._cluster, key[0], pipeline.spec, memory, now)
        try:
            observed, decision = self._decide(look)
        except EngineError as problem:
            return await self._refuse(key, document, status, conditions.ENGINE_UNAVAILABLE, str(problem), now)
        known = memory.said()
        site, refused = self._settings.site, memory.refusals.keys()
        await self._act(look, changes(pipeline, everything, observed, decision, refused, site))
        every_s = self._settings.progress_s
        await read_progress(self._cluster, key[0], look.snapshot, observed, memory, every_s, now)
        await read_warnings(self._cluster, key[0], look.snapshot, observed, memory, now)
        if memory.said() != known:
            observed, decision = self._decide(look)
        put_off = await self._write_plan(look, decision)
        return min(self._next_look(look, observed, decision), put_off)

    def _decide(self, look: _Look) -> tuple[Observed, Plan]:
        snapshot, memory = look.snapshot, look.memory
        observed = observe(
            look.pipeline,
            Children(jobs=snapshot.of(JOB), deployments=snapshot.of(DEPLOYMENT), pods=snapshot.of(POD)),
            progress=memory.progress,
            refusals=memory.refusals,
            warnings=memory.warnings,
            texts=memory.texts,
            now=look.now,
        )
        return observed, plan(look.pipeline, look.status, observed, look.now, places_of(look.pipeline))

    async def _act(self, look: _Look, wanted: Changes) -> None:
        refusals = look.memory.refusals
        for name in [name for name in refusals if name not in wanted.kept]:
            del refusals[name]
        if not wanted.delete and not wanted.apply:
            return
        await self._make_sure(look)
        for found in wanted.delete:
            self._may_write()
            await self._cluster.delete(found)
        refused_for_all: str | None = None
        for apply in wanted.apply:
            refusal = refused_for_all or await self._apply(look, apply)
            if apply.workload is None:
                refused_for_all = refusal
            elif refusal is None:
                refusals.pop(apply.workload.name, None)
            else:
                refusals[apply.workload.name] = refusal

    async def _apply(self, look: _Look, apply: Apply) -> str | None:
        """Apply what belongs to one workload, or to all; what the API server, or we, have against it."""
        for manifest in apply.manifests:
            if await self._is_taken(look, manifest):
                return f"{manifest['kind']} {manifest['metadata']['name']} {NOT_OURS}"
            self._may_write()
            try:
                self._view.note(look.key, await self._cluster.apply(manifest))
            except Refused as problem:
                # it is asked again every few seconds, and need not be told again
                level = logging.DEBUG if problem.message in look.memory.refusals.values() else logging.WARNING
                log.log(level, "%s/%s: %s was refused: %s", *look.key, manifest["metadata"]["name"], problem.message)
                return problem.message
            except Conflict as problem:  # it is being deleted, or was this moment: there will be an event of it
                log.debug("%s/%s: %s", *look.key, problem)
        return None

    async def _is_taken(self, look: _Look, manifest: dict[str, Any]) -> bool:
        """Whether somebody else's object has the name of a child that is not there yet: applying would take it over."""
        kind, metadata = kind_of(manifest), manifest["metadata"]
        if kind == JOB or metadata["name"] in self._view.snapshot(look.key).of(kind):
            return False  # a Job's name holds its key
        fields = f"metadata.name={metadata['name']}"
        found = await self._cluster.list_all(kind, metadata["namespace"], fields=fields)
        ours = metadata["labels"]
        return any(
            one["metadata"].get("labels", {}).get(label) != ours[label]
            for one in found
            for label in (MANAGED_BY_LABEL, PIPELINE_LABEL)
        )

    async def _make_sure(self, look: _Look) -> None:
        """Before anything is changed: is the pipeline what we believe it to be? A watch may be late or silent."""
        live = await self._cluster.get(PIPELINE, *look.key)
        if live is not None and live["metadata"]["resourceVersion"] == look.document["metadata"]["resourceVersion"]:
            return
        self._take_over(look.key, live)
        raise _Outdated

    def _take_over(self, key: Key, live: dict[str, Any] | None) -> None:
        if live is not None:
            self._view.note(key, live)
        else:
            self._view.correct(key, Snapshot(None, self._view.snapshot(key).children), self._view.uids(key))

    async def _refuse(
        self, key: Key, document: dict[str, Any], status: PipelineStatus, reason: str, why: str, now: datetime
    ) -> float:
        refused = refused_status(document, status, reason, why, now)
        await self._write_status(key, document, status, refused, events_between(status, refused))
        return self._settings.resync_s

    async def _write_plan(self, look: _Look, decision: Plan) -> float:
        """Write the status if it says anything new; the seconds until a write that was put off is due."""
        old = _written(look.document, look.status)
        new = _plain(decision.status.document())
        if old == new:
            return self._settings.resync_s
        memory = look.memory
        put_off = self._settings.progress_s - age(memory.progress_written, look.now)
        if put_off > 0 and _without_progress(old) == _without_progress(new):
            return put_off
        memory.progress_written = look.now
        await self._write_status(look.key, look.document, look.status, decision.status, decision.events)
        return self._settings.resync_s

    async def _write_status(
        self,
        key: Key,
        document: dict[str, Any],
        before: PipelineStatus,
        status: PipelineStatus,
        events: Sequence[Event],
    ) -> None:
        old, new = _written(document, before), status.document()
        if old == _plain(new):
            return
        self._may_write()
        try:
            written = await self._cluster.write_status(document, {**dict.fromkeys(old), **new})
        except Conflict:
            self._take_over(key, await self._cluster.get(PIPELINE, *key))
            raise _Outdated from None
        self._view.note(key, written)
        self._wrote(document, before, status)
        for number, event in enumerate(events):
            level = logging.WARNING if event.type == "Warning" else logging.INFO
            log.log(level, "%s/%s: %s", *key, event.message, extra={"pipeline": "/".join(key), "reason": event.reason})
            try:
                await self._cluster.post_event(
                    event_object(written, event, number, self._clock(), self._settings.identity)
                )
            except Refused as problem:  # a namespace that is going
                log.debug("%s/%s: event refused: %s", *key, problem.message)

    def _next_look(self, look: _Look, observed: Observed, decision: Plan) -> float:
        waits = [self._settings.resync_s]
        if any(seen.state == JobState.RUNNING for seen in observed.jobs.values()):
            waits.append(self._settings.progress_s)
        if _is_starting(observed):
            waits.append(STARTING_AGAIN_S)
        if look.memory.refusals:
            waits.append(REFUSED_AGAIN_S)
        if look.memory.lacks_texts:
            waits.append(TEXT_MISSING_AGAIN_S)
        if look.memory.sources and decision.status.phase not in (Phase.SUCCEEDED, Phase.FAILED):
            waits.append(TEXTS_MAX_AGE_S)
        return min(waits)


def _is_starting(observed: Observed) -> bool:
    """Whether something does not run yet and has not said why: no event may come of what holds it up."""
    jobs = any(seen.state == JobState.PENDING and not seen.problem for seen in observed.jobs.values())
    return jobs or any(not seen.ready and not seen.problem for seen in observed.servers.values())


def _written(document: dict[str, Any], status: PipelineStatus) -> dict[str, Any]:
    """The status of a resource as this version would have written it; empty where it has none."""
    return status.document() if document.get("status") else {}


def _plain(status: Mapping[str, Any] | None) -> dict[str, Any]:
    """A status document as the API server would give it back: read and written once."""
    return parse_status(dict(status or {})).document() if status else {}


def _without_progress(status: dict[str, Any]) -> dict[str, Any]:
    def bare(node: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in node.items() if name != "progress"}
        return {**kept, "parts": [bare(part) for part in node.get("parts", [])]}

    kept = {name: value for name, value in status.items() if name != "activity"}
    return {**kept, "stages": [bare(stage) for stage in status.get("stages", [])]}
