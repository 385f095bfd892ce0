"""The inference server's client against servers of every protocol, well and unwell."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from tests.harness.http_server import Call, Reply, serving
from tests.harness.processes import free_port
from tests.unit.clients.model_server import (
    GREEDY,
    SEED,
    TOO_LONG,
    Model,
    converse,
    follow_up,
    one,
    question,
    said,
    texts_of,
    with_server,
)

from cai_jobs.clients import remote, scheduler
from cai_jobs.clients.inference import InferenceServer, Refused, connect
from cai_jobs.contract import seeds
from cai_jobs.contract.program import RetryableError
from cai_jobs.formats.chat import EXTRA_ID


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_FIRST_S", 0.002)
    monkeypatch.setattr(scheduler, "STRING_WAIT_S", 0.002)


FAULTS = (Reply("busy", 503), Reply("slow down", 429, {"Retry-After": "0.01"}), Reply("torn", torn=True), Reply("oops"))


@pytest.mark.parametrize(
    ("speaks", "formatted"), [("ours", True), ("ours", False), ("openai", True), ("openai", False)]
)
def test_rows_are_the_same_whatever_batch_replica_or_fault(speaks: str, formatted: bool) -> None:
    chance = random.Random(3)

    def fault(_: Call) -> Reply | None:
        return chance.choice(FAULTS[: 4 if speaks == "ours" else 3]) if chance.random() < 0.3 else None

    async def use(server: InferenceServer) -> Any:
        assert server.group == 1
        return await converse(server, 30)

    whole = with_server(Model(speaks), use, formatted=formatted)
    assert whole == with_server(Model(speaks), use, formatted=formatted, batch_size=3, requests_in_flight=1)
    assert whole == with_server([Model(speaks, fault), Model(speaks)], use, formatted=formatted, batch_size=5)
    assert [key for key, answer in whole.items() if isinstance(answer, Refused)] == [(5, "response")]
    assert whole[5, "response"] == Refused(f"refused (400): {TOO_LONG}")
    assert len(set(whole.values())) == len(whole) == 29 * 4 + 1


def test_a_sentences_seed_follows_from_its_step_and_row() -> None:
    model = Model("ours")

    async def use(server: InferenceServer) -> None:
        texts = [EXTRA_ID.format(question(f"q{row}")) for row in (3, 4)]
        found = await server.answers("critique 1", [3, 4], [question("q3"), question("q4")], 0.5)
        drawn = [seeds.sampling(SEED, "critique 1", row) for row in (3, 4)]
        assert found == [said(text, seed, 0.5) for text, seed in zip(texts, drawn, strict=True)]

    with_server(model, use)
    (call,) = model.calls
    assert call.body["tokens_to_generate"] == 8
    assert call.body["temperature"] == 0.5


def test_requests_are_filled_over_steps_and_leave_when_full() -> None:
    model = Model("ours", after=lambda: asyncio.sleep(0.02))

    async def use(server: InferenceServer) -> None:
        assert server.capacity == 16

        async def row(number: int) -> None:
            dialogue = question(f"q{number}")
            for step in ("response", "critique", "revision"):
                dialogue = follow_up(dialogue, await one(server, step, number, dialogue))

        await asyncio.gather(*map(row, range(64)))

    with_server(model, use)
    assert (sum(model.sizes), max(model.sizes)) == (3 * 64, 8)
    assert len(model.sizes) <= 1.5 * 3 * 64 / 8


def test_a_request_that_is_not_full_leaves_when_nothing_else_comes() -> None:
    model = Model("ours")

    async def use(server: InferenceServer) -> None:
        await asyncio.gather(*(one(server, "response", row, question(f"q{row}")) for row in range(5)))

    with_server(model, use)
    assert model.sizes == [5]


def test_replicas_share_what_is_left_and_none_gets_too_much() -> None:
    models = [Model("ours", after=lambda: asyncio.sleep(0.02)) for _ in range(3)]

    async def use(server: InferenceServer) -> None:
        assert server.capacity == 3 * 8 * 2
        await asyncio.gather(*(one(server, "response", row, question(f"q{row}")) for row in range(6)))
        assert [model.sizes for model in models] == [[2], [2], [2]]
        await asyncio.gather(*(one(server, "critique", row, question(f"q{row}")) for row in range(100)))
        statistics = server.statistics()
        assert (statistics["sentences"], statistics["retries"]) == (106, 0)
        assert 0 < statistics["busyShare"] <= 1

    with_server(models, use)
    assert [model.most_at_once for model in models] == [2, 2, 2]


@pytest.mark.parametrize("formatted", [True, False])
def test_only_what_may_go_together_does(formatted: bool) -> None:
    model = Model("ours", after=lambda: asyncio.sleep(0.01))

    async def use(server: InferenceServer) -> None:
        long = [follow_up(question(f"q{row}"), "a") if row % 2 else question(f"q{row}") for row in range(24)]
        asked = [one(server, "s", row, long[row], temperature=0.1 + row % 3) for row in range(24)]
        assert len(set(await asyncio.gather(*asked))) == 24

    with_server(model, use, formatted=formatted)
    assert {call.body["temperature"] for call in model.calls} == {0.1, 1.1, 2.1}
    if not formatted:
        assert Counter(len(call.body["sentences"]) for call in model.calls) == {1: 3, 3: 3}


@pytest.mark.parametrize(
    ("speaks", "reason"), [("ours", f"refused (400): {TOO_LONG}"), ("megatron", f"refused: {TOO_LONG}")]
)
def test_a_refused_sentence_costs_the_others_nothing(speaks: str, reason: str) -> None:
    async def use(server: InferenceServer) -> None:
        texts = [f"q{row}" + " too long" * (row in (2, 6)) for row in range(8)]
        found = await server.answers("response", range(8), [question(text) for text in texts])
        assert {row: answer for row, answer in enumerate(found) if isinstance(answer, Refused)} == dict.fromkeys(
            (2, 6), Refused(reason)
        )
        expected = [said(EXTRA_ID.format(question(text))) for text in texts]
        assert [found[row] == expected[row] for row in range(8)] == [row not in (2, 6) for row in range(8)]

    with_server(Model(speaks), use, options=GREEDY)


def test_a_string_for_a_failure_of_the_moment_is_not_believed() -> None:
    strings = iter(range(3))

    async def use(server: InferenceServer) -> None:
        assert await one(server, "response", 0, question("q")) == said(EXTRA_ID.format(question("q")))

    with_server(Model("megatron", lambda _: Reply("out of memory") if next(strings, None) is not None else None), use,
                options=GREEDY)  # fmt: skip


def test_the_reference_samples_a_group_by_one_seed_and_it_stays_together() -> None:
    failures = iter([Reply("busy", 503), None, Reply("oops"), Reply("torn", torn=True)])
    model = Model("megatron", lambda _: next(failures, None))

    async def use(server: InferenceServer) -> Any:
        assert server.group == 4
        assert server.parameters()["group"] == 4
        groups = [range(0, 4), range(4, 8), range(8, 10)]
        asked = [server.answers("response", rows, [question(f"q{row}") for row in rows]) for rows in groups]
        return await asyncio.gather(*asked)

    found = with_server(model, use, batch_size=4)
    assert {tuple(texts_of(call)) for call in model.calls} == {
        tuple(EXTRA_ID.format(question(f"q{row}")) for row in rows) for rows in (range(0, 4), range(4, 8), range(8, 10))
    }
    assert {call.body["random_seed"] for call in model.calls} == {
        seeds.sampling(SEED, "response", r) for r in (0, 4, 8)
    }
    assert all("random_seeds" not in call.body for call in model.calls)
    assert found == with_server(Model("megatron"), use, batch_size=4)


@pytest.mark.parametrize("rows", [8, 40])
def test_a_sentence_the_server_fails_on_is_refused_and_the_others_are_not(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BACKOFF_LIMIT_S", 0.01)

    def fault(call: Call) -> Reply | None:
        return Reply("out of memory", 500) if any("poison" in text for text in texts_of(call)) else None

    async def use(server: InferenceServer) -> None:
        asked = [one(server, "s", row, question("poison" if row == rows - 3 else f"q{row}")) for row in range(rows)]
        found = await asyncio.gather(*asked)
        refused = {row: answer for row, answer in enumerate(found) if isinstance(answer, Refused)}
        assert refused == {rows - 3: Refused("fails on this request alone: status 500 out of memory")}

    with_server(Model("ours", fault), use)


def test_a_server_that_stays_away_fails_every_row_and_says_where() -> None:
    async def main() -> None:
        port = free_port()
        async with serving(Model("ours"), port=port):
            server = await connect({"port": port}, EXTRA_ID, formatted=True, seed=1, batch_size=2, retry_budget_s=0.2)
        async with server:
            asked = (one(server, "s", row, question("q")) for row in range(9))
            found = await asyncio.gather(*asked, return_exceptions=True)
            retries = server.replicas.retries
            await asyncio.sleep(0.05)
            assert server.replicas.retries == retries  # nothing goes on behind the failure
            assert {type(problem) for problem in found} == {RetryableError}
            assert f"inference server http://localhost:{port} unreachable" in str(found[0])

    asyncio.run(main())


def test_other_requests_to_the_servers_neither_take_room_nor_hold_sentences_up() -> None:
    """A model that judges itself: its verdicts and its sentences wait for each other."""
    gate = asyncio.Event()

    async def hold() -> None:
        if len(model.calls) > 1:
            await gate.wait()

    model = Model("ours", after=hold)

    async def use(server: InferenceServer) -> None:
        body = {"messages": [{"content": "?"}], "seed": 1, "temperature": 0}
        first = asyncio.create_task(one(server, "s", 0, question("q0")))
        await first
        verdicts = [asyncio.create_task(server.replicas.call("POST", "/v1/chat/completions", body)) for _ in range(3)]
        while len(model.calls) < 4:
            await asyncio.sleep(0.001)
        sentence = asyncio.create_task(one(server, "s", 1, question("q1")))
        while len(model.calls) < 5:  # it leaves although the verdicts are under way
            await asyncio.sleep(0.001)
        gate.set()
        assert isinstance(await sentence, str)
        assert len(await asyncio.gather(*verdicts)) == 3

    with_server(model, use)


def test_a_replica_that_comes_back_by_another_request_gets_its_sentences() -> None:
    state = {"failing": True}

    def fault(call: Call) -> Reply | None:
        return Reply("starting", 503) if state["failing"] else None

    async def use(server: InferenceServer) -> None:
        asked = [asyncio.create_task(one(server, "s", row, question(f"q{row}"))) for row in range(20)]
        call = asyncio.create_task(
            server.replicas.call("POST", "/v1/chat/completions", {"messages": [], "seed": 1, "temperature": 0})
        )
        while server.replicas.retries < 5:
            await asyncio.sleep(0.001)
        state["failing"] = False
        assert all(isinstance(answer, str) for answer in await asyncio.gather(*asked))
        await call

    with_server(Model("ours", fault), use)


def test_closing_the_client_ends_what_waits() -> None:
    release = asyncio.Event()
    model = Model("ours", after=release.wait)

    async def use(server: InferenceServer) -> None:
        asked = [asyncio.create_task(one(server, "s", row, question(f"q{row}"))) for row in range(40)]
        while not model.calls:
            await asyncio.sleep(0.001)
        await server.close()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(problem) for problem in found} == {RuntimeError}
        release.set()

    with_server(model, use)


def test_a_cancelled_row_does_not_disturb_the_others() -> None:
    release = asyncio.Event()
    model = Model("ours", after=release.wait)

    async def use(server: InferenceServer) -> None:
        asked = [asyncio.create_task(one(server, "s", row, question(f"q{row}"))) for row in range(4)]
        while not model.calls:
            await asyncio.sleep(0.001)
        asked[1].cancel()
        release.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, str) for answer in found] == [True, False, True, True]

    with_server(model, use)
