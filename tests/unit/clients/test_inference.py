"""The inference server's client against servers of every protocol, well and unwell."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.harness.http_server import Call, Reply, serving
from tests.harness.processes import free_port

from cai_jobs.clients import remote, scheduler
from cai_jobs.clients.inference import InferenceServer, Refused, check_options, connect
from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.formats.chat import ASSISTANT, EXTRA_ID, USER, Message

SEED = 7
GREEDY = {"greedy": True, "tokens_to_generate": 8}
SAMPLED = {"temperature": 1.0, "tokens_to_generate": 8}
TOO_LONG = "the prompt is too long"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_FIRST_S", 0.002)
    monkeypatch.setattr(scheduler, "STRING_WAIT_S", 0.002)


def said(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


class Model:
    """A server that answers by a hash of all an answer may depend on.

    Args:
        speaks: megatron (the reference's: one seed a request), ours (also one a sentence) or openai.
        fault: what to reply instead, if anything.
        after: awaited before each answer.
    """

    def __init__(
        self,
        speaks: str,
        fault: Callable[[Call], Reply | None] = lambda _: None,
        after: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0),
    ) -> None:
        self.speaks, self.fault, self.after = speaks, fault, after
        self.calls: list[Call] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, call: Call) -> Reply:
        if call.method == "GET":
            known = {"megatron": (), "ours": ("/v1/models",), "openai": ("/v1/models",)}[self.speaks]
            if call.path in known:
                return Reply({"data": [{"id": "tuned"}]})
            return Reply("", 405 if call.path == "/generate" and self.speaks != "openai" else 404)
        self.calls.append(call)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.after()
        self.at_once -= 1
        return self.fault(call) or (self._generate(call.body) if call.path == "/generate" else self._complete(call))

    @property
    def sizes(self) -> list[int]:
        """Sentences a request."""
        return [len(texts_of(call)) for call in self.calls]

    def _generate(self, body: dict[str, Any]) -> Reply:
        texts = body["sentences"]
        if isinstance(texts[0], dict):
            assert all(len(turn["role"]) == len(texts[0]["role"]) for turn in texts)
            contents = [turn["content"] for turn in texts]
            texts = ["\n".join(turns) + "\n<extra_id_1>Assistant\n" for turns in zip(*contents, strict=True)]
        if any("too long" in text for text in texts):
            return Reply(TOO_LONG) if self.speaks == "megatron" else Reply({"error": {"message": TOO_LONG}}, 400)
        if body.get("greedy"):
            found = [said(text) for text in texts]
        elif "random_seeds" in body:
            assert self.speaks == "ours"
            found = [said(*pair, body["temperature"]) for pair in zip(texts, body["random_seeds"], strict=True)]
        else:
            found = [said(texts, place, body["random_seed"], body["temperature"]) for place in range(len(texts))]
        return Reply(
            {"sentences": [f"{text}{answer} \n<extra_id_1>" for text, answer in zip(texts, found, strict=True)]}
        )

    def _complete(self, call: Call) -> Reply:
        (text,) = texts_of(call)
        if "too long" in text:
            return Reply({"error": {"message": TOO_LONG}}, 400)
        answer = said(text, call.body["seed"], call.body["temperature"])
        choice = {"text": answer} if "prompt" in call.body else {"message": {"content": answer}}
        return Reply({"choices": [choice], "usage": {"completion_tokens": 3}})


def texts_of(call: Call) -> list[str]:
    if "prompt" in call.body:
        return [call.body["prompt"]]
    if "messages" in call.body:
        return ["\n".join(message["content"] for message in call.body["messages"])]
    sentences = call.body["sentences"]
    return sentences if isinstance(sentences[0], str) else sentences[-1]["content"]


def with_server(
    model: Model | Sequence[Model], use: Callable[[InferenceServer], Awaitable[Any]], **settings: Any
) -> Any:
    """Use a client of these replicas."""

    async def main() -> Any:
        async with AsyncExitStack() as stack:
            models = [model] if isinstance(model, Model) else model
            ports = [await stack.enter_async_context(serving(one)) for one in models]
            config = {"host": ",".join(f"127.0.0.1:{port}" for port in ports), **settings.pop("options", SAMPLED)}
            defaults = {"formatted": True, "seed": SEED, "batch_size": 8, "retry_budget_s": 60.0}
            async with await connect(config, EXTRA_ID, **{**defaults, **settings}) as server:
                return await use(server)

    return asyncio.run(main())


def question(text: str) -> list[Message]:
    return [{"role": USER, "content": text}]


def follow_up(dialogue: list[Message], answer: str) -> list[Message]:
    return [*dialogue, {"role": ASSISTANT, "content": answer}, {"role": USER, "content": "Why?"}]


async def one(server: InferenceServer, step: str, row: int, dialogue: list[Message], **more: Any) -> Any:
    (answer,) = await server.answers(step, [row], [dialogue], **more)
    return answer


async def converse(server: InferenceServer, rows: int) -> dict[tuple[int, str], Any]:
    """Every row asks three times, the last time at two temperatures at once; rows take their time."""
    found: dict[tuple[int, str], Any] = {}

    async def row(number: int) -> None:
        dialogue = question(f"q{number}" + " too long" * (number == 5))
        for step in ("response", "critique"):
            await asyncio.sleep(random.random() * 0.01)
            answer = found[number, step] = await one(server, step, number, dialogue)
            if isinstance(answer, Refused):
                return
            dialogue = follow_up(dialogue, answer)
        hot, cold = await asyncio.gather(*(one(server, "last", number, dialogue, temperature=t) for t in (1.5, 0.5)))
        found[number, "hot"], found[number, "cold"] = hot, cold

    await asyncio.gather(*map(row, range(rows)))
    return found


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


@pytest.mark.parametrize(
    ("speaks", "settings", "group", "api"),
    [
        ("ours", {}, 1, "megatron"),
        ("ours", {"per_row_seeds": False}, 8, "megatron"),
        ("ours", {"api": "openai"}, 1, "openai"),
        ("megatron", {}, 8, "megatron"),
        ("megatron", {"options": GREEDY}, 1, "megatron"),
        ("megatron", {"options": {**SAMPLED, "top_k": 1}}, 1, "megatron"),
        ("openai", {}, 1, "openai"),
    ],
)
def test_the_protocol_is_found_out_by_asking(speaks: str, settings: dict[str, Any], group: int, api: str) -> None:
    async def use(server: InferenceServer) -> None:
        assert (server.group, server.parameters()["server_api"]) == (group, api)
        assert server.capacity == (256 if api == "openai" else 16)

    with_server(Model(speaks), use, **settings)


def test_where_rows_are_independent_nothing_of_how_they_are_asked_is_a_parameter() -> None:
    async def parameters(server: InferenceServer) -> Any:
        return server.parameters()

    found = with_server(Model("ours"), parameters)
    other = with_server([Model("ours"), Model("ours")], parameters, batch_size=3, requests_in_flight=9)
    assert found == other
    assert found != with_server(Model("ours"), parameters, options={**SAMPLED, "top_p": 0.5})


@pytest.mark.parametrize("formatted", [True, False])
def test_openais_protocol_gets_one_prompt_a_request_with_its_options(formatted: bool) -> None:
    model = Model("openai")
    options = {"temperature": 0.7, "tokens_to_generate": 9, "top_p": 0.9, "top_k": 5, "end_strings": ["END"],
               "min_tokens_to_generate": 0, "repetition_penalty": 1.0, "greedy": False}  # fmt: skip

    async def use(server: InferenceServer) -> None:
        await server.answers("s", [4], [question("q4")])
        assert server.statistics()["tokens"] == 3

    with_server(model, use, options=options, formatted=formatted)
    (call,) = model.calls
    assert call.path == ("/v1/completions" if formatted else "/v1/chat/completions")
    content = {"prompt": EXTRA_ID.prompt("q4")} if formatted else {"messages": [{"role": "user", "content": "q4"}]}
    expected = {"model": "tuned", "max_tokens": 9, "top_p": 0.9, "top_k": 5, "stop": ["END"], "temperature": 0.7}
    assert call.body == {**expected, **content, "seed": seeds.sampling(SEED, "s", 4)}


def test_greedy_is_temperature_0_by_openais_protocol() -> None:
    model = Model("openai")
    with_server(
        model, lambda server: one(server, "s", 0, question("q"), temperature=1.5), options={"greedy": True, "top_k": 1}
    )
    assert (model.calls[0].body["temperature"], "top_k" in model.calls[0].body) == (0, False)


def test_a_field_the_server_does_not_know_is_left_out_from_then_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fault(call: Call) -> Reply | None:
        unknown = next((name for name in ("top_k", "repetition_penalty") if name in call.body), None)
        return Reply({"error": {"message": f"Unrecognized request argument: {unknown}"}}, 400) if unknown else None

    async def use(server: InferenceServer) -> None:
        found = await asyncio.gather(*(one(server, "s", row, question(f"q{row}")) for row in range(20)))
        assert not any(isinstance(answer, Refused) for answer in found)

    with_server(Model("openai", fault), use, options={**SAMPLED, "top_k": 5, "repetition_penalty": 1.2})
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in warnings] == [
        f"warning: the server does not take {name!r}" for name in ("top_k", "repetition_penalty")
    ]


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


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (Reply("who are you", 401), r"refused \(401\): who are you"),
        (Reply("no such page", 404), r"refused \(404\): no such page; see that --host and --port"),
        (Reply("temperature must be lower", 400), "temperature must be lower; so were all 64 requests so far"),
        (Reply({"sentences": ["nothing of the prompt"] * 8}), "--response_extract_pattern"),
    ],
)
def test_what_is_wrong_with_the_settings_ends_everything(reply: Reply, sentence: str) -> None:
    async def use(server: InferenceServer) -> None:
        asked = (one(server, "s", row, question(f"q{row}")) for row in range(64))
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[-1], InputError)
        assert not any(isinstance(answer, str) for answer in found)
        with pytest.raises(InputError, match=sentence):
            await one(server, "later", 0, question("q"))

    with_server(Model("ours", lambda _: reply), use)


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


def test_without_a_chat_template_at_the_server_a_way_out_is_named() -> None:
    reply = Reply({"error": {"message": "this model's tokenizer has no chat template"}}, 400)

    async def use(server: InferenceServer) -> None:
        answer = await one(server, "s", 0, question("q"))
        assert isinstance(answer, Refused)
        assert "no chat template; or have dialogues laid out here, by --apply_chat_template True" in answer.reason

    with_server(Model("ours", lambda _: reply), use, formatted=False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokens": 3}, "unknown option tokens"),
        ({"temperature": 0.0}, "--temperature 0.0: a temperature must be above 0"),
        ({"top_p": 1.5}, "--top_p 1.5: it must be between 0 and 1"),
        ({"repetition_penalty": 0.5}, "--repetition_penalty 0.5: it must be at least 1"),
    ],
)
def test_options_no_server_takes_are_refused_before_any_work(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_options(options)
