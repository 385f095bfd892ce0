"""The operator's entry: `python -m cai_operator.main`. Kopf watches; what it sees lands in indexes and in a queue.

Only event handlers and indexes are used, so kopf puts no finalizer and no annotation on anything.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import kopf

from cai_jobs.contract.program import EXIT_INPUT, InputError
from cai_operator import log_format
from cai_operator.api import GROUP
from cai_operator.cluster import Cluster, LoginFailed, Refused, Unavailable, login, slim, version
from cai_operator.kopf_session import CountedSession
from cai_operator.manifests.kinds import CHILD_KINDS, PIPELINE, POD, ObjectKind
from cai_operator.metrics.recorder import Metrics
from cai_operator.names import PIPELINE_LABEL
from cai_operator.no_storage import NoDifferences, NoProgress
from cai_operator.operate import Operation
from cai_operator.settings import VARIABLES, Settings, read_settings
from cai_operator.snapshot import WATCHED, Key, View, kept

WATCH_SERVER_S = 240  # a watch ends and begins anew at least this often
WATCH_CLIENT_S = 270
WATCH_SILENCE_S = 75  # bookmarks come every minute: a watch silent for longer is dead
SERVED_AGAIN_S = 1.0

log = logging.getLogger("cai_operator")


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> None:
    """Run until SIGTERM or SIGINT."""
    if arguments:
        wants_help = arguments[0] in ("-h", "--help")
        print(usage(), file=sys.stdout if wants_help else sys.stderr)
        sys.exit(0 if wants_help else EXIT_INPUT)
    try:
        settings = read_settings()
        login()
    except (InputError, LoginFailed) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    log_format.set_up(settings.log_format, settings.log_level)
    port = settings.liveness_port
    asyncio.run(
        kopf.operator(
            registry=build_registry(settings),
            settings=kopf_settings(),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            liveness_endpoint=f"http://0.0.0.0:{port}/healthz" if port else None,
        )
    )


def usage() -> str:
    """What --help says."""
    width = max(map(len, VARIABLES))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in VARIABLES.items())
    return (
        f"usage: python -m cai_operator.main\n\nThe cai-operator. It takes no flags; its environment sets it:\n{lines}"
    )


def build_registry(settings: Settings) -> kopf.OperatorRegistry:
    """Everything kopf is to call."""
    registry = kopf.OperatorRegistry()
    operation: list[Operation] = []
    metrics = Metrics()

    @kopf.on.login(registry=registry)
    def log_in(**_: Any) -> kopf.AiohttpSession:
        return CountedSession(login(), metrics.answered)

    @kopf.on.startup(registry=registry)
    async def start(**given: Any) -> None:
        view = View({kind.kind: given[index_name(kind)] for kind in WATCHED})
        cluster = Cluster(on_answer=metrics.answered)
        one = Operation(settings, view, cluster, metrics)
        try:
            await one.open_endpoint()
        except OSError as problem:
            raise kopf.PermanentError(f"CAI_METRICS_PORT: {problem}; name another port, or 0 for none") from problem
        await wait_for_resource(cluster)
        operation.append(one)
        operation[0].start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        for one in operation:
            await one.stop()

    @kopf.on.probe(registry=registry, id="queue")
    async def probe(**_: Any) -> dict[str, float]:
        return operation[0].check_health() if operation else {}  # waiting for the resource is no illness

    for kind in WATCHED:
        _watch(registry, kind, operation)
    return registry


async def wait_for_resource(cluster: Cluster) -> None:
    """Return once the API server serves pipelines: kopf looks only once for what there is to watch."""
    told = ""
    while True:
        try:
            if await cluster.serves(PIPELINE):
                return
            why = f"no {PIPELINE.plural} of {PIPELINE.api_version} are served here yet: kubectl apply -f crds/"
        except Refused:
            return
        except Unavailable as problem:
            why = str(problem)
        if why != told:
            log.warning("waiting: %s", why)
            told = why
        await asyncio.sleep(SERVED_AGAIN_S)


class Patience:
    """Seconds between tries of a request of kopf's, without end: a watch that is given up never begins again."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 1, 2, 3, 5, 8, 13)
        while True:
            yield 20


def kopf_settings() -> kopf.OperatorSettings:
    """Kopf's own settings: no look at namespaces and CRDs, watches that cannot go silent, no events from its logs."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = WATCH_SERVER_S
    settings.watching.client_timeout = WATCH_CLIENT_S
    settings.watching.inactivity_timeout = WATCH_SILENCE_S
    settings.watching.connect_timeout = 30
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Patience()
    settings.queueing.idle_timeout = 1
    settings.persistence.diffbase_storage = NoDifferences()
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.finalizer = f"{GROUP}/operator"
    for kind in (*CHILD_KINDS, POD):
        settings.watching.label_selectors[_selector(kind)] = PIPELINE_LABEL
    return settings


def index_name(kind: ObjectKind) -> str:
    """The name of the kopf index of a kind."""
    return f"{kind.kind.lower()}_index"


def key_of(kind: ObjectKind, metadata: Any) -> Key | None:
    """The pipeline an object is or belongs to."""
    name = metadata["name"] if kind == PIPELINE else metadata.get("labels", {}).get(PIPELINE_LABEL)
    return None if name is None else (metadata["namespace"], name)


def _watch(registry: kopf.OperatorRegistry, kind: ObjectKind, operation: list[Operation]) -> None:
    selector = _selector(kind)
    labels = None if kind == PIPELINE else {PIPELINE_LABEL: kopf.PRESENT}

    # coroutines all: kopf calls plain functions in threads, and queue and view belong to the event loop
    @kopf.index(*selector, id=index_name(kind), labels=labels, registry=registry)
    async def index(body: kopf.Body, **_: Any) -> dict[Key, dict[str, Any]] | None:
        key = key_of(kind, body["metadata"])
        found = kept({"apiVersion": kind.api_version, "kind": kind.kind, **slim(dict(body))})
        return None if key is None else {key: found}

    @kopf.on.event(*selector, id=f"{kind.kind.lower()}_event", labels=labels, registry=registry)
    async def note(body: kopf.Body, type: str | None, **_: Any) -> None:
        key = key_of(kind, body["metadata"])
        if key is not None:
            operation[0].saw(key, body["metadata"]["uid"], version(body), deleted=type == "DELETED")


def _selector(kind: ObjectKind) -> tuple[str, str, str]:
    group, _, its_version = kind.api_version.rpartition("/")
    return group, its_version, kind.plural


if __name__ == "__main__":
    main()
