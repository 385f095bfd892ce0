"""The Lease on a real API server: of several operators one works, and another takes over when it is gone.

Each contender has a clock of its own, which a test moves; only how often they try goes by the real one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.fault_proxy import FaultProxy

from cai_operator import leadership as leadership_module
from cai_operator.cluster import Cluster
from cai_operator.leadership import DURATION_S, TRUSTED_S, Leadership, NotLeading
from cai_operator.manifests.kinds import LEASE, ObjectKind

NAME = "cai-operator"


class Counting(Cluster):
    """A client that counts how often the Lease was looked at."""

    looks = 0

    async def get(self, kind: ObjectKind, namespace: str, name: str) -> dict[str, Any] | None:
        found = await super().get(kind, namespace, name)
        self.looks += 1
        return found


class Contender:
    """An operator that wants the Lease; `hangs` lets it stand still as a frozen process does."""

    def __init__(self, namespace: str, identity: str) -> None:
        self.now = 0.0
        self.cluster = Counting()
        self.leadership = Leadership(self.cluster, namespace, NAME, identity, clock=lambda: self.now)
        self.took_over = 0
        self.task: asyncio.Task[None] | None = None

    @property
    def is_held(self) -> bool:
        return self.leadership.is_held

    def try_on(self) -> None:
        self.task = asyncio.create_task(self.leadership.keep(self._note))

    async def hang(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def tries(self, count: int = 3) -> None:
        """Wait until it has tried so often again, all of it after now."""
        assert self.task is not None
        wanted = self.cluster.looks + count + 1
        await until(lambda: self.cluster.looks >= wanted or self.task.done())
        assert not self.task.done(), self.task

    def _note(self) -> None:
        self.took_over += 1


async def until(is_so: Callable[[], bool], patience_s: float = 60.0) -> None:
    async with asyncio.timeout(patience_s):
        while not is_so():
            await asyncio.sleep(0.01)


Scenario = Callable[..., Awaitable[None]]


@pytest.fixture
def kubeconfig(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The contenders' kubeconfig; they try often."""
    monkeypatch.setattr(leadership_module, "RENEW_S", 0.02)
    return kubeconfig


@pytest.fixture
def play(kubeconfig: Path, namespace: str) -> Callable[[Scenario, int], None]:
    """Run a scenario with so many contenders, none of which has begun to try."""

    def run(scenario: Scenario, count: int) -> None:
        async def main() -> None:
            contenders = [Contender(namespace, f"operator-{number}") for number in range(count)]
            try:
                await scenario(*contenders)
            finally:
                for one in contenders:
                    if one.task is not None:
                        await one.hang()
                    await one.cluster.close()

        asyncio.run(main())

    return run


def test_the_first_takes_it_and_renews_it(play, api):
    async def scenario(one: Contender) -> None:
        assert not one.is_held
        with pytest.raises(NotLeading):
            one.leadership.check()
        one.try_on()
        await until(lambda: one.is_held)
        one.leadership.check()
        first = api.get(LEASE, NAME)["spec"]
        assert (first["holderIdentity"], first["leaseDurationSeconds"], first["leaseTransitions"]) == (
            "operator-0",
            15,
            0,
        )
        await one.tries()
        later = api.get(LEASE, NAME)["spec"]
        assert later["renewTime"] > first["renewTime"]
        assert (later["acquireTime"], later["leaseTransitions"]) == (first["acquireTime"], 0)
        assert one.took_over == 1

    play(scenario, 1)


def test_the_second_waits_while_the_first_renews(play, api):
    async def scenario(one: Contender, two: Contender) -> None:
        one.try_on()
        await until(lambda: one.is_held)
        two.try_on()
        for _ in range(5):
            two.now += DURATION_S - 1  # the first renews in between
            await one.tries()
            await two.tries()
        assert one.is_held
        assert not two.is_held
        assert two.took_over == 0

    play(scenario, 2)


def test_it_is_taken_when_the_holder_has_been_silent_for_its_whole_time_and_not_before(play, api):
    async def scenario(one: Contender, two: Contender) -> None:
        one.try_on()
        await until(lambda: one.is_held)
        await one.hang()
        two.now = 1000.0  # clocks of different machines have nothing to do with each other
        two.try_on()
        await two.tries()
        two.now += DURATION_S
        await two.tries()
        assert not two.is_held
        one.now += TRUSTED_S
        assert not one.is_held, "it must stop to work before anybody else begins"
        two.now += 0.1
        await until(lambda: two.is_held)
        assert two.took_over == 1
        spec = api.get(LEASE, NAME)["spec"]
        assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("operator-1", 1)
        one.try_on()
        await one.tries()
        assert not one.is_held, "back from its long sleep it finds another"
        with pytest.raises(NotLeading, match=NAME):
            one.leadership.check()

    play(scenario, 2)


def test_of_many_who_find_it_expired_one_gets_it(play, api):
    async def scenario(gone: Contender, *others: Contender) -> None:
        gone.try_on()
        await until(lambda: gone.is_held)
        await gone.hang()
        for other in others:
            other.try_on()
        for other in others:
            await other.tries()
        for other in others:
            other.now += DURATION_S + 1
        await until(lambda: any(other.is_held for other in others))
        for other in others:
            await other.tries()
        assert sum(other.is_held for other in others) == 1
        assert sum(other.took_over for other in others) == 1

    play(scenario, 7)


def test_one_that_stops_hands_it_over_at_once(play, api):
    async def scenario(one: Contender, two: Contender) -> None:
        one.try_on()
        await until(lambda: one.is_held)
        two.try_on()
        await two.tries()
        await one.hang()
        await one.leadership.release()
        assert not one.is_held
        await until(lambda: two.is_held)
        await one.leadership.release()
        await two.tries()
        assert two.is_held, "who does not hold it gives nothing up"

    play(scenario, 2)


def test_one_stopped_while_taking_it_gives_it_up_all_the_same(play, api):
    class Deaf(Counting):
        async def send(self, *request: Any) -> Any:
            await super().send(*request)
            await asyncio.sleep(60)  # the answer is still on its way when it is stopped

    async def scenario(one: Contender, two: Contender) -> None:
        one.cluster = Deaf()
        one.leadership = Leadership(one.cluster, api.namespace, NAME, "operator-0", clock=lambda: one.now)
        one.try_on()
        await until(lambda: api.get(LEASE, NAME) is not None)
        await one.hang()
        assert not one.is_held
        one.cluster.send = super(Deaf, one.cluster).send
        await one.leadership.release()
        two.try_on()
        await until(lambda: two.is_held)

    play(scenario, 2)


def test_it_is_held_again_after_the_api_server_was_away(control_plane, kubeconfig, play):
    with FaultProxy(control_plane.url, control_plane.ca) as proxy:
        kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, proxy.url))

        async def scenario(one: Contender) -> None:
            one.try_on()
            await until(lambda: one.is_held)
            proxy.answer(503, lambda request: request.resource == "leases")
            asked = len(proxy.requests)
            await until(lambda: len(proxy.requests) > asked + 3)
            assert one.is_held, "it is ours for a while, whoever is away"
            one.now += TRUSTED_S + 0.1
            assert not one.is_held
            proxy.mend()
            await until(lambda: one.is_held)
            assert one.took_over == 2, "much may have been missed meanwhile"

        play(scenario, 1)


@pytest.mark.parametrize("lease", [{}, {"spec": {}}, {"spec": {"holderIdentity": ""}}])
def test_one_nobody_holds_is_taken(play, api, lease):
    api.create(LEASE, {"metadata": {"name": NAME}, **lease})

    async def scenario(one: Contender) -> None:
        one.try_on()
        await until(lambda: one.is_held or one.task.done())
        assert one.is_held

    play(scenario, 1)


def test_one_that_is_deleted_is_made_again(play, api):
    async def scenario(one: Contender) -> None:
        one.try_on()
        await until(lambda: one.is_held)
        api.delete(LEASE, NAME)
        await one.tries()
        assert api.get(LEASE, NAME)["spec"]["holderIdentity"] == "operator-0"
        assert one.took_over == 1

    play(scenario, 1)


def test_where_it_cannot_be_made_nobody_leads_and_the_log_says_why(kubeconfig, caplog):
    caplog.set_level(logging.ERROR)

    async def main() -> None:
        one = Contender("no-such-namespace", "operator-0")
        one.try_on()
        await one.tries()
        assert not one.is_held
        await one.hang()
        await one.cluster.close()

    asyncio.run(main())
    sentence = 'the Lease no-such-namespace/cai-operator cannot be used: namespaces "no-such-namespace" not found'
    assert sentence in caplog.messages


def test_credentials_that_are_away_for_a_while_do_not_end_the_trying(control_plane, kubeconfig, play):
    async def scenario(one: Contender) -> None:
        one.try_on()
        await until(lambda: one.is_held)
        control_plane.write_kubeconfig(kubeconfig, token="outdated")
        await one.cluster.close()  # the next request logs in
        one.now += TRUSTED_S + 1
        kubeconfig.write_text("")
        await asyncio.sleep(0.2)
        assert not one.task.done()
        assert not one.is_held
        control_plane.write_kubeconfig(kubeconfig, token=control_plane.admin_token)
        await until(lambda: one.is_held or one.task.done())
        assert one.is_held

    play(scenario, 1)
