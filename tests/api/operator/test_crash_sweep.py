"""For every single write of the operator a run in which it is killed right before and right after it and goes on.

Whatever the moment, the pipeline must end as if nothing had happened: the same stages, keys and figures, the same
children and no other, every program run once. The sweep over all writes runs the operator's reconciler in the test's
own process against a real API server: "killed" is an exception that nothing of it can catch, "started again" a new one
that knows nothing. So every run takes the same steps. A run is killed at several writes, far from each other; with
CAI_FULL_SWEEP=1 every write has a run of its own. `test_killed_processes.py` does it to real processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.api.conftest import CRDS
from tests.harness.availability import skipped_where_unavailable
from tests.harness.control_plane import ONE_CLIENT, ControlPlane
from tests.harness.hand_played import HandPlayed
from tests.harness.pipelines import JOBS, pocket

from cai_operator.cluster import Cluster
from cai_operator.manifests.kinds import CHILD_KINDS, PIPELINE, POD
from cai_operator.reconcile import Reconciler
from cai_operator.settings import read_settings
from cai_operator.snapshot import WATCHED, View

SHARES = 4
RUNS = 12
"""Runs that share the writes of a clean run, each taking every twelfth; some more follow for what those left out."""
AT_ONCE = 6
MOST_LOOKS = 400
CHANGES_WITH_EVERY_RUN = ("started", "finished", "lastTransitionTime")

Death = tuple[str, str]
"""When the operator dies: "before" or "after", and which of its writes, by its name."""


class Killed(BaseException):
    """The process ends here: no `except Exception` of the operator's keeps it from that."""


class DyingTransport(httpx.AsyncBaseTransport):
    """Passes requests on and names the writes; dies once at each of `deaths`.

    A write's name is what is written and how many such were answered before: one that was cut off has the name of the
    one that is made in its place.

    Attributes:
        made: the names of the writes that were answered.
        died: the deaths died so far, in order.
    """

    def __init__(
        self, inner: httpx.AsyncBaseTransport, token: str, world: HandPlayed, deaths: Collection[Death] = ()
    ) -> None:
        self.made: list[str] = []
        self.died: list[Death] = []
        self._inner, self._token, self._world, self._deaths = inner, token, world, deaths
        self._counts: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Authorization"] = f"Bearer {self._token}"
        if request.method == "GET":
            return await self._inner.handle_async_request(request)
        what = _what_is_written(request).replace(self._world.namespace, "NAMESPACE")
        name = f"{what} #{self._counts[what] + 1}"
        self._die("before", name)
        response = await self._inner.handle_async_request(request)
        self._world.saw(request.method, json.loads(await response.aread()))
        self._counts[what] += 1
        self.made.append(name)
        self._die("after", name)
        return response

    def _die(self, when: str, name: str) -> None:
        death = (when, name)
        if death in self._deaths and death not in self.died:
            self.died.append(death)
            raise Killed


def _what_is_written(request: httpx.Request) -> str:
    words = [request.method, request.url.path]
    if request.url.path.endswith("/events"):
        event = json.loads(request.content)
        words += [event["reason"], event["message"]]
    return " ".join(words)


@dataclass(frozen=True)
class End:
    """How a run ended: all that must be the same whenever the operator died; its writes, and when it did die."""

    status: Any
    children: dict[tuple[str, str], Any]
    runs: Counter[str]
    made: tuple[str, ...]
    died: tuple[Death, ...]


@pytest.fixture(scope="module")
def quiet_plane() -> Iterator[ControlPlane]:
    """An API server with a CAIPipeline resource and no controllers: the test plays all of them."""
    plane = ControlPlane(controllers=(), apiserver_flags=ONE_CLIENT)
    with skipped_where_unavailable():
        plane.start()
    with plane:
        plane.install_crds(CRDS)
        yield plane


@pytest.fixture(scope="module")
def clean(quiet_plane: ControlPlane) -> End:
    """How a run ends in which nobody dies."""
    [end] = asyncio.run(_run_all(quiet_plane, [[]]))
    return end


def test_the_clean_run(clean: End) -> None:
    """What the others are compared with must itself be right."""
    assert clean.status["phase"] == "Succeeded"
    assert clean.runs == Counter(JOBS)
    assert {kind for kind, _ in clean.children} == {kind.kind for kind in CHILD_KINDS}
    assert [name for kind, name in clean.children if kind == "Deployment"] == ["pocket-serve"]
    assert [name for kind, name in clean.children if kind == "Service"] == ["pocket-serve"]
    assert len(set(clean.made)) == len(clean.made) > 4 * RUNS


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_before_and_after_every_write(quiet_plane: ControlPlane, clean: End, share: int) -> None:
    problems = asyncio.run(_sweep(quiet_plane, clean, share))
    assert problems == [], "\n".join(problems)


async def _sweep(plane: ControlPlane, clean: End, share: int) -> list[str]:
    """What went wrong in the runs of one share of all writes."""
    count = len(clean.made) if "CAI_FULL_SWEEP" in os.environ else RUNS
    # killed as it is about to be made, and again when the next operator has just made it
    planned = [
        [(when, name) for name in clean.made[run::count] for when in ("before", "after")]
        for run in range(share, count, SHARES)
    ]
    ends = await _run_all(plane, planned)
    # but the next one may do something else first, or nothing: an event that was cut off is not told again
    left = _left(planned, ends)
    some = [left[run::SHARES] for run in range(SHARES)]
    ends += (more := await _run_all(plane, some))
    alone = [[death] for death in _left(some, more)]
    ends += (more := await _run_all(plane, alone))
    problems = [problem for end in ends for problem in _problems(clean, end)]
    return problems + [f"was not killed {when} {name}" for when, name in _left(alone, more)]


def _left(planned: Sequence[Collection[Death]], ends: Sequence[End]) -> list[Death]:
    return [death for deaths, end in zip(planned, ends, strict=True) for death in deaths if death not in end.died]


def _problems(clean: End, end: End) -> list[str]:
    where = f"killed {', '.join(f'{when} {name}' for when, name in end.died)}"
    problems = []
    if end.runs != clean.runs:
        too_often, not_at_all = dict(end.runs - clean.runs), dict(clean.runs - end.runs)
        problems.append(f"{where}: programs ran too often: {too_often}, not: {not_at_all}")
    if end.children != clean.children:
        problems.append(f"{where}: children differ: {_difference(clean.children, end.children)}")
    if end.status != clean.status:
        problems.append(f"{where}: the status differs: {_difference(clean.status, end.status)}")
    return problems


async def _run_all(plane: ControlPlane, deaths: list[list[Death]]) -> list[End]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(deaths: list[Death]) -> End:
        async with turn:
            return await _run(plane, transport, client, deaths)

    async with _connected(plane) as (transport, client):
        return list(await asyncio.gather(*(one(each) for each in deaths)))


async def _run(
    plane: ControlPlane, transport: httpx.AsyncBaseTransport, client: httpx.AsyncClient, deaths: list[Death]
) -> End:
    """One pipeline from its creation until neither the operator nor anybody else has anything to do."""
    world = HandPlayed(client, f"sweep-{secrets.token_hex(4)}")
    wire = DyingTransport(transport, plane.admin_token, world, deaths)
    await world.make_namespace()
    await world.create(PIPELINE, pocket())
    operator, is_new = _new_operator(plane, wire, world), True
    for _ in range(MOST_LOOKS):
        before = len(wire.made)
        try:
            await operator.reconcile((world.namespace, "pocket"), live=is_new)
            is_new = False
        except Killed:
            operator, is_new = _new_operator(plane, wire, world), True
            continue
        if not await world.step() and len(wire.made) == before:
            break
    else:
        raise AssertionError(f"killed {wire.died}: no end in sight, the last writes: {wire.made[-5:]}")
    return await _end(world, wire)


def _new_operator(plane: ControlPlane, wire: DyingTransport, world: HandPlayed) -> Reconciler:
    view = View({kind.kind: world.index(kind) for kind in WATCHED})
    world.tell = lambda pipeline, uid, version, gone: view.seen_event((world.namespace, pipeline), uid, version, gone)
    return Reconciler(view, Cluster(transport=wire, base_url=plane.url), read_settings({}))


async def _end(world: HandPlayed, wire: DyingTransport) -> End:
    there = await world.lists(PIPELINE, *CHILD_KINDS, POD)
    assert there.keys() == world.objects.keys()
    assert len([name for kind, name in there if kind == POD.kind]) == len(JOBS)
    children = {
        (kind, name): [item["metadata"]["labels"], [one["name"] for one in item["metadata"].get("ownerReferences", [])]]
        for (kind, name), item in there.items()
        if kind not in (PIPELINE.kind, POD.kind)
    }
    status = json.loads(json.dumps(there[PIPELINE.kind, "pocket"]["status"]).replace(world.namespace, "NAMESPACE"))
    return End(_without_times(status), children, world.runs, tuple(wire.made), tuple(wire.died))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(part) for name, part in value.items() if name not in CHANGES_WITH_EVERY_RUN}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def _difference(wanted: Any, found: Any, path: str = "") -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        parts = [_difference(wanted.get(n), found.get(n), f"{path}.{n}") for n in sorted({*wanted, *found})]
        return "; ".join(part for part in parts if part)
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        parts = [_difference(*both, f"{path}[{n}]") for n, both in enumerate(zip(wanted, found, strict=True))]
        return "; ".join(part for part in parts if part)
    return "" if wanted == found else f"{path}: wanted {wanted!r}, found {found!r}"


@asynccontextmanager
async def _connected(plane: ControlPlane) -> AsyncIterator[tuple[httpx.AsyncBaseTransport, httpx.AsyncClient]]:
    tls = ssl.create_default_context(cafile=str(plane.ca))
    headers = {"Authorization": f"Bearer {plane.admin_token}"}
    client = httpx.AsyncClient(base_url=plane.url, verify=tls, headers=headers, trust_env=False, timeout=60)
    async with httpx.AsyncHTTPTransport(verify=tls) as transport, client:
        yield transport, client
