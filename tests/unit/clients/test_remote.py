"""JSON over HTTP against servers that fail in all the ways servers do."""

import asyncio
import email.utils
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.harness.certificates import Authority
from tests.harness.http_server import Answer, Call, Reply, serving
from tests.harness.processes import free_port

from cai_jobs.clients import remote
from cai_jobs.clients.remote import Patience, RefusedError, Remote, TryAgainError
from cai_jobs.contract.program import InputError, RetryableError

Use = Callable[[Remote], Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_FIRST_S", 0.002)


def ask(answer: Answer, use: Use, **settings: Any) -> Any:
    """Use a Remote of a server that answers so."""

    async def main() -> Any:
        async with serving(answer) as port, Remote("judge", f"http://127.0.0.1:{port}", **settings) as server:
            return await use(server)

    return asyncio.run(main())


def in_turn(*replies: Reply) -> Answer:
    """One reply after the other, the last one again and again."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    "failure",
    [
        *(Reply("busy", status) for status in (408, 425, 429, 500, 502, 503, 504, 529)),
        Reply("half of it", torn=True),
        Reply(text="<html>starting</html>"),
    ],
    ids=lambda reply: f"{reply.status}{'-torn' * reply.torn}{'-html' * (reply.text is not None)}",
)
def test_what_may_be_better_next_time_is_asked_again(failure: Reply) -> None:
    async def use(server: Remote) -> None:
        assert await server.call("POST", "/x", {"a": "ü\ud800"}) == {"fine": "ü"}
        assert server.retries == 2

    ask(in_turn(failure, failure, Reply({"fine": "ü"})), use)


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (Reply({"error": {"message": "no such model"}}, 404), "refused (404): no such model"),
        (Reply({"detail": "too long"}, 400), "refused (400): too long"),
        (Reply("greedy must be a boolean", 400), "refused (400): greedy must be a boolean"),
        (Reply(text="<b>who?</b>", status=401), "refused (401): <b>who?</b>"),
        (Reply({}, 308, {"Location": "https://there/x"}), "(308): it has moved to https://there/x; give that address"),
    ],
)
def test_a_refusal_is_final_and_told_in_the_servers_words(reply: Reply, sentence: str) -> None:
    calls: list[Call] = []

    async def use(server: Remote) -> None:
        with pytest.raises(RefusedError) as refused:
            await server.call("POST", "/x", {})
        assert str(refused.value).endswith(sentence)
        assert str(refused.value).startswith(f"judge {server.base}/x refused")
        assert refused.value.status == reply.status
        assert server.base not in refused.value.reason
        assert server.retries == 0

    ask(lambda call: calls.append(call) or reply, use, headers={"Authorization": "Bearer secret-value"})
    assert [(call.method, call.path, call.headers["Authorization"]) for call in calls] == [
        ("POST", "/x", "Bearer secret-value")
    ]


def test_the_address_may_hold_a_path_and_a_query() -> None:
    async def use(server: Remote) -> None:
        async with Remote("judge", f"{server.base}/grüße/v1?version=1") as deep:
            assert await deep.call("POST", "", {}) == "/gr%C3%BC%C3%9Fe/v1?version=1"
        assert await server.call("GET", "") == "/"

    ask(lambda call: Reply(call.path), use)


def test_a_slow_answer_is_given_up_and_asked_for_again() -> None:
    calls = []

    async def answer(call: Call) -> Reply:
        calls.append(call)
        if len(calls) == 1:
            await asyncio.sleep(0.8)
        return Reply("late")

    async def use(server: Remote) -> None:
        assert await server.call("GET", "/x") == "late"

    ask(answer, use, request_timeout_s=0.2)
    assert len(calls) == 2


def test_a_server_that_starts_later_is_waited_for() -> None:
    async def main() -> None:
        port = free_port()
        async with Remote("judge", f"http://127.0.0.1:{port}") as server:
            waiting = [asyncio.create_task(server.call("GET", f"/{number}")) for number in range(5)]
            while server.retries < 20:
                await asyncio.sleep(0.001)
            async with serving(lambda call: Reply(call.path), port=port):
                assert await asyncio.gather(*waiting) == [f"/{number}" for number in range(5)]

    asyncio.run(main())


def test_a_server_that_stays_away_is_given_up_with_a_sentence() -> None:
    port = free_port()

    async def main() -> None:
        async with Remote("judge", f"http://127.0.0.1:{port}", retry_budget_s=0.1, headers={"Key": "secret"}) as server:
            with pytest.raises(
                RetryableError, match=f"judge http://127.0.0.1:{port} unreachable: .* attempts in 0 s"
            ) as e:
                await server.call("GET", "/x")
            assert server.retries > 1
            assert "secret" not in f"{e.value} {e.value!r} {server!r}"

    asyncio.run(main())


def test_the_budget_runs_from_a_first_failure_to_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 500.0, 999.0, 1200.0, 2099.0, 2100.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    patience = Patience("judge", 900)
    failure = TryAgainError("status 503")
    for _ in range(3):
        patience.failed(failure)
    patience.answered()
    for _ in range(2):
        patience.failed(failure)
    with pytest.raises(RetryableError, match="3 attempts in 900 s, the retry budget is 900 s"):
        patience.failed(failure)


@pytest.mark.parametrize("date", [False, True])
def test_a_rest_longer_than_the_budget_is_not_waited_for(date: bool) -> None:
    wait = email.utils.formatdate(time.time() + 3600, usegmt=True) if date else "3600"

    async def use(server: Remote) -> None:
        with pytest.raises(RetryableError, match=r"status 429 slow down; it asks for (3600|3599|3598) s of rest"):
            await server.call("GET", "/x")

    ask(in_turn(Reply("slow down", 429, {"Retry-After": wait})), use, retry_budget_s=60)


def test_the_rest_a_server_asks_for_is_kept_by_every_call() -> None:
    times: list[float] = []

    def answer(_: Call) -> Reply:
        times.append(time.monotonic())
        return Reply("slow down", 429, {"Retry-After": "0.4"}) if len(times) == 1 else Reply("fine")

    async def use(server: Remote) -> None:
        first = asyncio.create_task(server.call("GET", "/1"))
        while not server.retries:
            await asyncio.sleep(0.001)
        assert await asyncio.gather(first, *(server.call("GET", "/2") for _ in range(5))) == ["fine"] * 6

    ask(answer, use)
    assert min(times[1:]) - times[0] >= 0.4


def test_a_request_that_fails_while_others_are_answered_is_refused_in_the_end() -> None:
    async def use(server: Remote) -> None:
        bad = asyncio.create_task(server.call("POST", "/x", "bad"))
        while not bad.done():
            assert await server.call("POST", "/x", "good") == "good"
        with pytest.raises(RefusedError, match="on this request alone: status 500 out of memory") as refused:
            bad.result()
        assert refused.value.status == 500

    ask(lambda call: Reply("out of memory", 500) if call.body == "bad" else Reply(call.body), use)


@pytest.mark.parametrize(
    ("proxied", "excepted", "through_proxy"), [(True, "", True), (True, "judge.invalid", False), (False, "", False)]
)
def test_the_environments_proxy_is_used_where_it_is_meant(
    proxied: bool, excepted: str, through_proxy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(lambda call: Reply(f"{call.headers['Host']}{call.path}")) as port:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("no_proxy", excepted)
            async with Remote("judge", "http://judge.invalid:81", retry_budget_s=0, proxied=proxied) as server:
                if through_proxy:
                    assert await server.call("GET", "/x") == "judge.invalid:81/x"
                else:
                    with pytest.raises(RetryableError, match=r"judge\.invalid"):
                        await server.call("GET", "/x")

    asyncio.run(main())


def test_a_certificate_that_is_not_trusted_is_no_case_for_patience(tmp_path: Path) -> None:
    pair = Authority(tmp_path).server("judge", "/CN=judge", ["IP:127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)

    async def main() -> None:
        async with (
            serving(in_turn(Reply("fine")), ssl_context=context) as port,
            Remote("judge", f"https://127.0.0.1:{port}") as server,
        ):
            with pytest.raises(InputError, match="its certificate is not to be trusted"):
                await server.call("GET", "/x")

    asyncio.run(main())


def test_what_cannot_stand_in_a_header_is_told_without_it() -> None:
    async def use(server: Remote) -> None:
        with pytest.raises(InputError, match="cannot be written") as problem:
            await server.call("GET", "/x")
        assert "secret" not in str(problem.value)

    ask(in_turn(Reply("fine")), use, headers={"Authorization": "Bearer secret\n"})


@pytest.mark.parametrize("base", ["judge:80", "ftp://judge", "http://", "http://judge:x", "http://judge:99999"])
def test_an_address_that_is_none_is_told_at_once(base: str) -> None:
    with pytest.raises(InputError, match="is no http or https address"):
        Remote("judge", base)


KEY = "nvapi-9f31c0ffee"


@pytest.mark.parametrize(
    "reply",
    [
        Reply({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401),
        Reply(text=f"<p>no such key as {KEY}</p>", status=403),
        Reply(text=f"the key {KEY} has used up its quota", status=429),
        Reply({"detail": [{"input": f"Bearer {KEY}"}]}, 422),
        Reply(text=f"Bearer {KEY} is no JSON"),
        Reply("", 307, {"Location": f"https://elsewhere/?key={KEY}"}),
    ],
    ids=lambda reply: str(reply.status),
)
def test_a_key_that_the_server_quotes_is_not_told(reply: Reply) -> None:
    async def use(server: Remote) -> str:
        with pytest.raises((RefusedError, RetryableError, InputError)) as caught:
            await server.call("POST", "/x", {})
        problems: list[BaseException | None] = [caught.value]
        while problems[-1] is not None:
            problems.append(problems[-1].__cause__ or problems[-1].__context__)
        return " ".join(f"{problem!r} {problem} {vars(problem)}" for problem in problems[:-1]) + repr(server)

    said = ask(lambda _: reply, use, headers=_key(), retry_budget_s=0.01)
    assert KEY not in said
    assert reply.status == 200 or "***" in said


def test_a_key_that_an_answer_quotes_is_not_kept() -> None:
    async def use(server: Remote) -> None:
        assert await server.call("POST", "/x", {}) == {"content": "you sent Bearer ***"}

    ask(lambda call: Reply({"content": f"you sent {call.headers['Authorization']}"}), use, headers=_key())


def _key() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


def test_a_key_that_no_header_can_hold_is_not_told() -> None:
    """Of a Secret that was made of a file with a line break at its end."""

    async def use(server: Remote) -> str:
        with pytest.raises(InputError) as caught:
            await server.call("POST", "/x", {})
        return f"{caught.value} {caught.value.__cause__!r}"

    said = ask(lambda _: Reply({}), use, headers={"Authorization": f"Bearer {KEY}\n"})
    assert "cannot be written" in said
    assert KEY not in said
