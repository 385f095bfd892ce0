"""The stand-in server: what the proofs of the generators rest on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.harness.stand_in import StandInServer
from tests.harness.stand_in_engines import Continuous, Engine, Locked
from tests.harness.stand_in_texts import LABELS, USELESS, Speaker, judge

STEP_S = 0.0005
CLIENT = httpx.Client(trust_env=False)
OPTIONS = {"temperature": 1.0, "tokens_to_generate": 16, "random_seed": 5, "end_strings": ["<end>"]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandInServer]:
    with StandInServer(tmp_path / "log", "--speaks", "megatron") as running:
        yield running


def generate(server: StandInServer, sentences: list[str], **more: object) -> list[str]:
    answer = CLIENT.put(f"{server.url}/generate", json={**OPTIONS, "sentences": sentences, **more})
    found: list[str] = answer.raise_for_status().json()["sentences"]
    return found


def test_the_references_sampling_depends_on_the_batch_and_ours_does_not(server: StandInServer, tmp_path: Path) -> None:
    assert generate(server, ["a", "b"]) == generate(server, ["a", "b"])
    assert generate(server, ["a", "b"])[0] != generate(server, ["a", "c"])[0]
    assert generate(server, ["a", "b"], greedy=True)[0] == generate(server, ["a", "c"], greedy=True)[0]
    with StandInServer(tmp_path / "log", "--speaks", "ours") as ours:
        first = generate(ours, ["a", "b"], random_seeds=[1, 2])
        assert generate(ours, ["b", "c"], random_seeds=[2, 3])[0] == first[1]
        ours.kill()
        ours.start()
        assert generate(ours, ["b"], random_seeds=[2]) == first[1:]


def test_pages_tell_the_servers_apart(tmp_path: Path) -> None:
    found = {}
    for speaks in ("megatron", "ours", "openai"):
        with StandInServer(tmp_path / "log", "--speaks", speaks) as server:
            pages = ("/generate", "/v1/models")
            found[speaks] = [CLIENT.get(server.url + page).status_code for page in pages]
    assert found == {"megatron": [405, 404], "ours": [405, 200], "openai": [404, 200]}


def test_refusals_have_each_servers_own_form(tmp_path: Path) -> None:
    body = {**OPTIONS, "sentences": ["too much"]}
    for speaks, status in (("megatron", 200), ("ours", 400)):
        with StandInServer(tmp_path / "log", "--speaks", speaks, "--refuse", "too much") as server:
            answer = CLIENT.put(f"{server.url}/generate", json=body)
            assert answer.status_code == status
            assert isinstance(answer.json(), str) == (speaks == "megatron")


def test_faults_come_as_often_as_asked(tmp_path: Path) -> None:
    with StandInServer(tmp_path / "log", "--faults", '{"503": 0.3, "torn": 0.3}') as server:
        seen = {"200": 0, "503": 0, "torn": 0}
        for _ in range(100):
            try:
                answer = CLIENT.put(f"{server.url}/generate", json={**OPTIONS, "sentences": ["a"]})
                seen[str(answer.status_code)] += 1
            except httpx.RemoteProtocolError:
                seen["torn"] += 1
        counted = server.statistics()
    assert (counted["fault 503"], counted["fault torn"]) == (seen["503"], seen["torn"])
    assert all(15 < count < 60 for count in seen.values()), seen


def test_a_process_is_killed_at_the_request_it_names(server: StandInServer) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as sleeper:
        CLIENT.put(f"{server.url}/stand-in/kill", json={"pid": sleeper.pid, "requests": 2}).raise_for_status()
        generate(server, ["a"])
        assert sleeper.poll() is None
        generate(server, ["a"])
        assert sleeper.wait(60) == -9


def ends(engine: Engine, requests: list[list[int]]) -> list[int]:
    """The places of requests that come at once, in the order in which they are done."""
    done: list[int] = []

    async def serve(place: int) -> None:
        await engine.serve(requests[place])
        done.append(place)

    async def run() -> None:
        await asyncio.gather(*(serve(place) for place in range(len(requests))))

    asyncio.run(run())
    return done


def test_a_locked_server_does_one_request_after_the_other() -> None:
    assert ends(Locked(STEP_S), [[40, 1], [1], [5]]) == [0, 1, 2]


def test_continuous_slots_are_filled_again_as_they_become_free() -> None:
    engine = Continuous(STEP_S, slots=2)
    # the long one keeps its slot, the others share the second
    assert ends(engine, [[400], [10], [10], [10]]) == [1, 2, 3, 0]
    assert engine.busy_s > 0
    assert ends(Continuous(STEP_S, slots=4), [[300], [200], [20], [100]]) == [2, 3, 1, 0]


def test_answers_are_as_long_as_asked_on_average() -> None:
    speaker = Speaker(20)
    lengths = [speaker.answer(f"prompt {number}", None, 1.0, 1000)[1] for number in range(2000)]
    assert 18 < sum(lengths) / len(lengths) < 22
    text, length = speaker.answer("prompt", 3, 1.0, 5)
    assert len(text.split()) == length <= 5


def test_the_judge_goes_by_the_texts_and_not_by_their_places() -> None:
    def chosen(texts: list[str]) -> str:
        listed = "\n".join(f"#{number}: {json.dumps(text)}" for number, text in enumerate(texts, start=1))
        return texts[json.loads(judge([{"role": "user", "content": listed}], 0.0).text)["chosen"] - 1]

    assert chosen(["one", "two", "three"]) == chosen(["three", "one", "two"])
    options = [{"role": "user", "content": '(A): "one"\n(B): "two"'}]
    reply = judge(options, 0.0)
    assert reply.options is not None
    assert reply.text == max(reply.options, key=reply.options.__getitem__)
    assert judge(options, 1.0).text in USELESS


def test_the_judge_answers_the_evaluation_in_its_own_words() -> None:
    def reply(question: str) -> dict[str, str]:
        words: dict[str, str] = json.loads(judge([{"role": "user", "content": question}], 0.0).text)
        return words

    assert {reply(f'Request: "r"\nAnswer: "{number}"\nLabel:')["label"] for number in range(40)} == set(LABELS)
    one, other = (f'Request: "r"\nFirst answer: "{a}"\nSecond answer: "{b}"\nBetter:' for a, b in ("ab", "ba"))
    assert {reply(one)["better"], reply(other)["better"]} == {"first", "second"}
