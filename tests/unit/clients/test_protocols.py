"""What the inference client says to servers of each protocol."""

import asyncio
from typing import Any

import pytest
from tests.harness.http_server import Call, Reply
from tests.unit.clients.model_server import GREEDY, SAMPLED, SEED, Model, one, question, with_server

from cai_jobs.clients.inference import InferenceServer, Refused, check_options
from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats.chat import EXTRA_ID


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
