"""Of two operators one works: the Lease says which, and the other takes over when it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.harness.control_plane import ControlPlane
from tests.harness.fault_proxy import FaultProxy
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Run
from tests.harness.pipelines import short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import LEASE, PIPELINE

REST_S = 3.0
ONCE_EACH = {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 1}


@dataclass
class Pair:
    """Two operators, each behind a proxy of its own; `first` holds the Lease."""

    first: OperatorProcess
    second: OperatorProcess
    first_proxy: FaultProxy
    second_proxy: FaultProxy


@pytest.fixture
def pair(
    make_operator: Callable[..., OperatorProcess], control_plane_with_jobs: ControlPlane, proxy: FaultProxy, api: Api
) -> Iterator[Pair]:
    plane = control_plane_with_jobs
    with FaultProxy(plane.url, plane.ca) as other:
        first, second = make_operator(proxy.url, "first"), make_operator(other.url, "second")
        first.start()
        wait_for(lambda: holder(api), "the first to hold the Lease", lambda name: name == "first")
        second.start()
        wait_for(lambda: [r for r in other.requests if r.resource == "leases"], "the second to look at the Lease")
        yield Pair(first, second, proxy, other)


def holder(api: Api) -> str | None:
    """Who holds the Lease now."""
    leases = api.list(LEASE)
    return leases[0]["spec"].get("holderIdentity") if leases else None


def at_rest(proxy: FaultProxy) -> int:
    """Wait until an operator has written nothing for a while; how many writes it has done.

    A lease cannot call back the one write that an operator stopped in the middle of.
    """
    seen, since = len(proxy.writes()), time.monotonic()

    def rested_s() -> float:
        nonlocal seen, since
        if len(proxy.writes()) != seen:
            seen, since = len(proxy.writes()), time.monotonic()
        return time.monotonic() - since

    wait_for(rested_s, "the operator to have nothing to write", lambda s: s > REST_S)
    return seen


def begin(api: Api, player: Player) -> None:
    """A pipeline whose slData runs on."""
    player.script("slData", Run())
    api.create(PIPELINE, short())
    player.wait_for_running("slData")


def end(api: Api, player: Player) -> None:
    """Let it run on to its end; every program must have run once."""
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE_EACH


def test_only_the_holder_writes(api: Api, player: Player, pair: Pair) -> None:
    begin(api, player)
    end(api, player)
    assert pair.first_proxy.writes()
    assert pair.second_proxy.writes() == []
    assert pair.second.is_running


def test_the_holder_is_killed(api: Api, player: Player, pair: Pair) -> None:
    begin(api, player)
    pair.first.kill()
    end(api, player)
    assert holder(api) == "second"


def test_the_holder_stops_in_order(api: Api, player: Player, pair: Pair) -> None:
    """It gives the Lease up, so that nobody waits for its end."""
    begin(api, player)
    pair.first.stop()
    assert holder(api) in ("", None, "second")
    end(api, player)
    assert holder(api) == "second"


def test_the_holder_stands_still_and_goes_on(api: Api, player: Player, pair: Pair) -> None:
    """A frozen machine: when it thaws it must know at once that it is not the holder any more."""
    begin(api, player)
    wait_for(lambda: api.node("short", "slData"), "slData to be seen running", lambda it: it.get("state") == "Running")
    before = at_rest(pair.first_proxy)
    pair.first.freeze()
    wait_for(lambda: holder(api), "the second to take over", lambda name: name == "second")
    pair.first.thaw()
    end(api, player)
    assert len(pair.first_proxy.writes()) == before
    assert holder(api) == "second"


def test_the_holder_loses_the_api_server(api: Api, player: Player, pair: Pair) -> None:
    begin(api, player)
    pair.first_proxy.cut(lambda _: True)
    wait_for(lambda: holder(api), "the second to take over", lambda name: name == "second")
    before = len(pair.first_proxy.writes())
    pair.first_proxy.mend()
    end(api, player)
    assert len(pair.first_proxy.writes()) == before
    assert pair.first.is_running


def test_the_lease_is_deleted_by_hand(api: Api, player: Player, pair: Pair) -> None:
    """Whoever makes it anew works; the other stops."""
    begin(api, player)
    api.delete(LEASE, api.list(LEASE)[0]["metadata"]["name"])
    wait_for(lambda: holder(api), "somebody to hold it again", lambda name: name in ("first", "second"))
    end(api, player)
