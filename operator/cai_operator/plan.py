"""What should exist now: a pure function of the pipeline, its last status, what is observed, and the time.

Level-triggered: it looks at what is, never at what happened, so it may be called at any time, any number of times;
given its own output it asks for the same again and reports no event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cai_operator import names, texts
from cai_operator.api import CAIPipeline, PipelineStatus, Spec
from cai_operator.engines import Engine, engine_of
from cai_operator.engines.run import Run
from cai_operator.keys import key_of
from cai_operator.nodes import assess
from cai_operator.outlook import Known, Outlook, know, outlooks
from cai_operator.places import Places
from cai_operator.room import make_room
from cai_operator.stages import active
from cai_operator.summary import Event, events_between, summarise
from cai_operator.workloads import Kind, Observed, Workload

__all__ = ["Event", "Plan", "node_keys", "plan"]


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Attributes:
        apply: workloads wanted now, servers before the jobs that use them; ones that run already are among them.
        delete: names of observed children nobody wants any more. A finished job of the present key is in neither list:
            it may stay, for its log. So may a kept server of an older model, until the new one is there.
        status: the whole new status.
        events: what changed since the last status.
    """

    apply: tuple[Workload, ...]
    delete: tuple[str, ...]
    status: PipelineStatus
    events: tuple[Event, ...]


def plan(
    pipeline: CAIPipeline,
    status: PipelineStatus,
    observed: Observed,
    now: datetime,
    places: Places,
    capacity: int | None = None,
) -> Plan:
    """Decide what should exist now.

    Args:
        pipeline: the validated resource.
        status: the status as last written; an empty or stale one costs nothing but figures.
        observed: every child of this pipeline, what is known to be published, and the texts of `texts.sources`.
        now: the time, aware.
        places: how this executor lays things out.
        capacity: at most so many jobs, each with its servers, at a time; the main chain goes first. None: no limit.

    Raises:
        EngineError: the spec's engine has not what the spec asks of it.
    """
    engine = engine_of(pipeline.spec)
    nodes = active(pipeline.spec)
    keys, missing = node_keys(pipeline.spec, observed.texts)
    known = {name: know(pipeline, node, keys.get(name), status, observed) for name, node in nodes.items()}
    outlook = make_room(nodes, known, outlooks(pipeline, nodes, known, capacity), status)
    wanted = {
        name: _wanted(engine, pipeline, known[name], keys, observed, places) if outlook[name] == Outlook.GO else ()
        for name in nodes
    }
    statuses = assess(pipeline, known, outlook, wanted, missing, status, now)
    new = summarise(pipeline, nodes, statuses, outlook, status, places, now)
    apply = tuple(workload for workloads in wanted.values() for workload in workloads)
    stays = {workload.name for workload in apply}
    for name in nodes:
        stays.update(_left_alone(pipeline, known[name], outlook[name], status, observed))
    seen = {*observed.jobs, *observed.servers}
    return Plan(apply, tuple(sorted(seen - stays)), new, events_between(status, new))


def node_keys(spec: Spec, observed: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """The key of every active node, by name; and the sentences about missing texts, by the node that reads them.

    A node that lacks a text has no key, nor has what depends on it.

    Raises:
        EngineError: the spec's engine has not what the spec asks of it.
    """
    engine = engine_of(spec)
    keys: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, node in active(spec).items():
        if any(before not in keys for before in node.inputs):
            continue
        try:
            used = texts.of_node(spec, name, observed)
        except texts.MissingTextError as problem:
            missing[name] = str(problem)
            continue
        inputs = {before: keys[before] for before in node.inputs}
        digests = {file: text.digest() for file, text in used.items()} | texts.shipped(spec, name)
        keys[name] = key_of(name, spec.engine, engine.parameters(spec, name), inputs, digests)
    return keys, missing


def _wanted(
    engine: Engine,
    pipeline: CAIPipeline,
    known: Known,
    keys: Mapping[str, str],
    observed: Observed,
    places: Places,
) -> tuple[Workload, ...]:
    if known.is_anothers:
        return ()
    used = texts.of_node(pipeline.spec, known.node.name, observed.texts)
    run = Run(pipeline, known.node, keys, used, known.retry, places)
    servers = engine.servers(run)
    if known.node.kind == Kind.SERVER:
        return servers
    ready = {server.name for server in known.servers if server.ready}
    # a job that runs stays wanted while a server of its is away: its program waits, and goes on
    if known.is_alive or all(server.name in ready for server in servers):
        return (*servers, engine.job(run))
    return servers


def _left_alone(
    pipeline: CAIPipeline, known: Known, outlook: Outlook, status: PipelineStatus, observed: Observed
) -> Iterable[str]:
    """Children of a node that are neither wanted nor to be deleted."""
    name = known.node.name
    if known.node.kind == Kind.SERVER:
        return () if pipeline.spec.suspend or outlook == Outlook.YIELDS else (names.serve_name(pipeline.name),)
    if outlook == Outlook.DONE and known.job is not None:
        return (known.job.name,)
    if outlook == Outlook.GO and known.is_anothers and known.job is not None:
        return (known.job.name, *(server.name for server in known.servers))
    old = status.node(name)
    if outlook == Outlook.MISSING and not pipeline.spec.suspend and old is not None and old.key is not None:
        servers = [names.server_name(pipeline.name, name, role, old.key, old.retry) for role in names.ROLES]
        left = [server for server in observed.servers if names.without_replica(server) in servers]
        return (names.job_name(pipeline.name, name, old.key, old.retry), *left)
    return ()
