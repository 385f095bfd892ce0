"""Greedy completions by OpenAI's protocol: several prompts a request, whatever the server thinks of lists."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.harness.http_server import Call, Reply, serving

from cai_jobs.clients import remote
from cai_jobs.clients.inference import OPENAI_SENTENCES, InferenceServer, Refused, connect
from cai_jobs.formats.chat import EXTRA_ID, USER

ROWS = 60
TOO_LONG = 17
GREEDY = {"greedy": True, "tokens_to_generate": 8}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_FIRST_S", 0.002)


class Server:
    """Answers by a hash of the prompt, choices in any order; `most` prompts a request, 0 for no list at all.

    Attributes:
        careless: whether it answers the first prompt of a list and says nothing of the others.
        sizes: prompts a request.
    """

    def __init__(self, most: int = 1000, careless: bool = False, first: Reply | None = None) -> None:
        self.most, self.careless, self._first = most, careless, first
        self.sizes: list[int] = []

    async def __call__(self, call: Call) -> Reply:
        if call.method == "GET":
            return Reply({"data": [{"id": "tuned"}]})
        prompts = call.body["prompt"]
        listed = isinstance(prompts, list)
        self.sizes.append(len(prompts) if listed else 1)
        await asyncio.sleep(0.001)
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if listed and len(prompts) > self.most:
            return Reply({"error": {"message": "prompt: a string is wanted"}}, 422)
        assert ("seed" in call.body) == (not listed)
        texts = prompts if listed else [prompts]
        if any("too long" in text for text in texts):
            return Reply({"error": {"message": "the prompt is too long"}}, 400)
        choices = [{"index": place, "text": said(text)} for place, text in enumerate(texts)]
        return Reply({"choices": choices[:1] if self.careless else choices[::-1], "usage": {"completion_tokens": 3}})


def said(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prompt(row: int) -> str:
    return f"q{row}" + " too long" * (row == TOO_LONG)


async def ask_all(server: InferenceServer) -> list[Any]:
    async def one(row: int) -> Any:
        (answer,) = await server.answers("s", [row], [[{"role": USER, "content": prompt(row)}]])
        return answer

    return list(await asyncio.gather(*map(one, range(ROWS))))


def with_server(model: Server, use: Callable[[InferenceServer], Awaitable[Any]], **settings: Any) -> Any:
    async def main() -> Any:
        async with serving(model) as port:
            options = {**GREEDY, **settings.pop("options", {})}
            shared = {"formatted": True, "seed": 7, "batch_size": 32, "api": "openai", "retry_budget_s": 60.0}
            async with await connect({"port": port, **options}, EXTRA_ID, **{**shared, **settings}) as server:
                return await use(server)

    return asyncio.run(main())


def assert_right(found: list[Any]) -> None:
    wanted = [said(EXTRA_ID.prompt(prompt(row))) for row in range(ROWS)]
    assert isinstance(found.pop(TOO_LONG), Refused)
    wanted.pop(TOO_LONG)
    assert found == wanted


def test_prompts_go_together_and_each_gets_its_own_answer() -> None:
    model = Server()
    assert_right(with_server(model, ask_all))
    assert model.sizes[: ROWS // OPENAI_SENTENCES] == [OPENAI_SENTENCES] * (ROWS // OPENAI_SENTENCES)
    assert sorted(model.sizes[-6:]) == [1, 1, 2, 2, 4, 4], "the group with the long one was halved until it was found"


@pytest.mark.parametrize("most", [0, 1, 3, 4])
def test_a_server_that_takes_shorter_lists_or_none_gets_what_it_takes(most: int) -> None:
    model = Server(most)

    async def twice(server: InferenceServer) -> None:
        assert_right(await ask_all(server))
        begun = len(model.sizes)
        assert_right(await ask_all(server))
        assert max(model.sizes[begun:]) <= max(1, most), "it is not tried again and again"

    with_server(model, twice)


def test_a_server_that_forgets_all_but_the_first_prompt_gets_one_at_a_time() -> None:
    assert_right(with_server(Server(careless=True), ask_all))


def test_a_group_that_fails_is_asked_again() -> None:
    assert_right(with_server(Server(first=Reply("busy", 503)), ask_all))


@pytest.mark.parametrize(
    "settings", [{"options": {"greedy": False, "temperature": 1.0}}, {"batch_size": 1}], ids=["sampled", "batch of 1"]
)
def test_what_is_sampled_goes_alone(settings: dict[str, Any]) -> None:
    model = Server()
    with_server(model, ask_all, **settings)
    assert set(model.sizes) == {1}


def test_a_server_with_free_slots_does_not_wait_for_a_full_request() -> None:
    model = Server()

    async def use(server: InferenceServer) -> None:
        assert server.capacity == 16
        assert_right(await ask_all(server))

    with_server(model, use, requests_in_flight=4)
    assert max(model.sizes) == OPENAI_SENTENCES
