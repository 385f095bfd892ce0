"""Several servers of one model: found by name or list, spread over, and done without when they fail."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from tests.harness.http_server import Answer, Call, Reply, serving
from tests.harness.processes import free_port

from cai_jobs.clients import remote, replicas
from cai_jobs.clients.remote import RefusedError
from cai_jobs.clients.replicas import Replicas, parse_hosts
from cai_jobs.contract.program import InputError, RetryableError

SERVERS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_FIRST_S", 0.002)
    monkeypatch.setattr(replicas, "LOOKUP_AFTER_FAILURE_S", 0.0)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names are looked up as; a name that is not in it cannot be looked up."""
    found: dict[str, list[str]] = {}

    async def addresses(host: str) -> list[str] | None:
        return found.get(host)

    monkeypatch.setattr(replicas, "_addresses", addresses)
    return found


def replicas_of(hosts: str, port: int, budget_s: float = 60.0) -> Replicas:
    return Replicas("inference server", hosts, port, 60.0, budget_s)


def bases(servers: Replicas) -> list[str]:
    return [replica.remote.base for replica in servers.all]


def name_of(host: str) -> Answer:
    return lambda _: Reply(host)


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ("model", [("model", 5656)]),
        ("a:1, b,10.0.0.1:65535", [("a", 1), ("b", 5656), ("10.0.0.1", 65535)]),
        ("http://a:80/", [("a", 80)]),
        ("::1,[::1]:7,[fe80::2]", [("::1", 5656), ("::1", 7), ("fe80::2", 5656)]),
    ],
)
def test_hosts_are_a_name_or_a_list(hosts: str, found: list[tuple[str, int]]) -> None:
    assert parse_hosts(hosts, 5656) == found


@pytest.mark.parametrize("hosts", ["", "a,,b", "a:", "a:0", "a:65536", "a:b", "user@a", "a/b", "[::1]x"])
def test_a_host_that_is_none_is_told(hosts: str) -> None:
    with pytest.raises(InputError, match="--host"):
        parse_hosts(hosts, 5656)


def test_this_machine_is_one_replica_whatever_families_it_has() -> None:
    async def main() -> None:
        servers = replicas_of("localhost", 5656)
        await servers.look_up()
        assert bases(servers) == ["http://localhost:5656"]
        await servers.close()

    asyncio.run(main())


def test_every_address_of_a_name_is_asked(names: dict[str, list[str]]) -> None:
    names["model.svc"] = list(SERVERS)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(serving(name_of(SERVERS[0]), SERVERS[0]))
            for host in SERVERS[1:]:
                await stack.enter_async_context(serving(name_of(host), host, port))
            servers = replicas_of("model.svc", port)
            await servers.look_up()
            found = await asyncio.gather(*(servers.call("GET", "/x") for _ in range(9)))
            assert sorted(found) == sorted(SERVERS * 3)
            assert 0 < servers.busy_share() <= 1
            await servers.close()

    asyncio.run(main())


def test_what_a_failing_replica_was_asked_goes_to_another(names: dict[str, list[str]]) -> None:
    names.update({host: [host] for host in SERVERS})
    asked = []

    def failing(call: Call) -> Reply:
        asked.append(call)
        return Reply("out of memory", 503, {"Retry-After": "30"})

    async def main() -> None:
        async with serving(failing, SERVERS[0]) as bad, serving(name_of("good"), SERVERS[1]) as good:
            servers = replicas_of(f"{SERVERS[0]}:{bad},{SERVERS[2]}:{free_port()},{SERVERS[1]}:{good}", 1)
            for _ in range(20):
                assert await servers.call("GET", "/x") == "good"
            assert len(asked) == 1  # it has asked for 30 s of rest
            assert servers.retries >= 2
            await servers.close()

    asyncio.run(main())


def test_a_replica_at_work_is_waited_for_however_long_another_is_away(names: dict[str, list[str]]) -> None:
    names.update({host: [host] for host in SERVERS})
    release = asyncio.Event()

    async def answer(_: Call) -> Reply:
        await release.wait()
        return Reply("done")

    async def main() -> None:
        async with serving(answer, SERVERS[1]) as port:
            servers = replicas_of(f"{SERVERS[0]}:{free_port()},{SERVERS[1]}:{port}", 1, budget_s=0.05)
            begun, waiting = time.monotonic(), []
            while servers.all[0].failures < 6 or time.monotonic() - begun < 0.2:
                waiting.append(asyncio.create_task(servers.call("GET", "/x")))
                await asyncio.sleep(0.005)
            release.set()
            assert set(await asyncio.gather(*waiting)) == {"done"}
            await servers.close()

    asyncio.run(main())


def test_a_replica_that_failed_gets_one_request_until_it_has_answered(names: dict[str, list[str]]) -> None:
    names[SERVERS[0]] = [SERVERS[0]]
    release = asyncio.Event()
    state = {"failing": True, "at_once": 0, "most": 0}

    async def answer(_: Call) -> Reply:
        if state["failing"]:
            state["failing"] = False
            return Reply("starting", 503)
        state["at_once"] += 1
        state["most"] = max(state["most"], state["at_once"])
        await release.wait()
        state["at_once"] -= 1
        return Reply("up")

    async def main() -> None:
        async with serving(answer, SERVERS[0]) as port:
            servers = replicas_of(SERVERS[0], port)
            first = asyncio.create_task(servers.call("GET", "/x"))
            while servers.retries == 0 or servers.all[0].calls == 0:
                await asyncio.sleep(0.001)
            others = [asyncio.create_task(servers.call("GET", "/x")) for _ in range(4)]
            await asyncio.sleep(0.05)
            assert (servers.all[0].calls, state["most"]) == (1, 1)
            release.set()
            assert await asyncio.gather(first, *others) == ["up"] * 5
            await servers.close()

    asyncio.run(main())


def test_a_name_is_looked_up_again_when_a_replica_fails(names: dict[str, list[str]]) -> None:
    async def main() -> None:
        async with serving(name_of("first"), SERVERS[0]) as port:
            names["model.svc"] = [SERVERS[0], SERVERS[1]]
            servers = replicas_of("model.svc", port)
            await servers.look_up()
            assert len(servers.all) == 2
        async with serving(name_of("third"), SERVERS[2], port):
            names["model.svc"] = [SERVERS[1], SERVERS[2]]
            assert await servers.call("GET", "/x") == "third"
            assert bases(servers) == [f"http://{SERVERS[1]}:{port}", f"http://{SERVERS[2]}:{port}"]
            del names["model.svc"]  # the name service is away: what is known stays
            await servers.look_up()
            assert await servers.call("GET", "/x") == "third"
            await servers.close()

    asyncio.run(main())


def test_a_name_that_does_not_resolve_yet_is_waited_for(names: dict[str, list[str]]) -> None:
    async def main() -> None:
        async with serving(name_of("up"), SERVERS[0]) as port:
            servers = replicas_of("model.invalid", port)
            await servers.look_up()
            waiting = asyncio.create_task(servers.call("GET", "/x"))
            while servers.retries < 2:
                await asyncio.sleep(0.001)
            names["model.invalid"] = [SERVERS[0], SERVERS[1]]
            assert await waiting == "up"
            await servers.close()

    asyncio.run(main())


def test_when_all_stay_away_it_is_said_which(names: dict[str, list[str]]) -> None:
    async def main() -> None:
        servers = replicas_of(f"{SERVERS[0]}:{free_port()},{SERVERS[1]}:{free_port()}", 1, budget_s=0.1)
        begun = time.monotonic()
        with pytest.raises(RetryableError, match=rf"http://{SERVERS[0]}:\d+, http://{SERVERS[1]}:\d+ unreachable"):
            await servers.call("GET", "/x")
        assert time.monotonic() - begun >= 0.1
        await servers.close()

    asyncio.run(main())


def test_a_refusal_is_no_failure_of_the_replica(names: dict[str, list[str]]) -> None:
    async def main() -> None:
        async with serving(lambda _: Reply("no such page", 404), SERVERS[0]) as port:
            servers = replicas_of(SERVERS[0], port)
            for _ in range(3):
                with pytest.raises(RefusedError):
                    await servers.call("GET", "/x")
            assert servers.all[0].failures == 0
            await servers.close()

    asyncio.run(main())


def test_where_none_is_free_a_rest_has_an_end() -> None:
    """Or nobody would ever look again: at the very moment a rest ends, both must say the same."""

    async def main() -> None:
        servers = replicas_of("127.0.0.1", 1)
        servers.all[0].rest_until = over = time.monotonic() + 1000.0
        for now in (over - 1e-6, over, over + 1e-6):
            assert (servers.free(1, now) is None) == (servers.rest_s(now) is not None) == (servers.idle(now) == 0)
        await servers.close()

    asyncio.run(main())
