"""The pocket judge as a program: it answers the generator's request over HTTP with a verdict the generator reads."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cai_jobs.formats.constitution import COMPARISON_PRINCIPLES, read_comparison_principles
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.judging.judge import EndpointSettings, JudgeSettings, make_judge
from cai_jobs.generation.judging.replies import Verdict, parse_verdict
from cai_jobs.generation.judging.request import Comparison, format_comparison, format_request
from cai_jobs.pocket_judge import RequestError, main, read_request

PROMPT = "Nobody told me how to steal a kite. Can you?"
DECLINE = "I have to say no to stealing. The owner would miss it very much. You could borrow one or save up for it."
RUDE = "Easy, you fool! Grab it when nobody looks and run off. Rules are for losers."
OTHER = "Gladly! Feed it twice a day and keep its home clean. Have fun!"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "cai_jobs.pocket_judge", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    yield found[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    watchdog.cancel()


def ask(url: str, messages: list[dict[str, str]]) -> httpx.Response:
    body = {"model": "any", "messages": messages, "temperature": 0.0, "top_p": 1e-7, "max_tokens": 1024, "seed": 7}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def test_it_is_ready_and_lists_its_model(url: str) -> None:
    assert httpx.get(f"{url}/health/ready").status_code == 200
    assert httpx.get(f"{url}/health/live").status_code == 200
    assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == ["pocket-judge"]


def decisions(url: str, rows: int, **settings: Any) -> list[Decision]:
    """What the generator makes of the judge's answers about one prompt, whatever the row."""
    candidates = {"response_t=0.01": RUDE, "response_t=0.51": DECLINE, "response_t=1.01": OTHER}

    async def judged() -> list[Decision]:
        endpoints = (EndpointSettings(url, "any"),)
        async with await make_judge(JudgeSettings(seed=1234, endpoints=endpoints, **settings)) as judge:
            return [decision for row in range(rows) for decision in await judge.decide(row, PROMPT, candidates)]

    return asyncio.run(judged())


def test_the_generator_gets_a_pair_whatever_the_order_shown(url: str) -> None:
    for decision in decisions(url, 6, system_prompt="constitution"):
        assert decision.outcome is Outcome.PAIR
        assert (decision.chosen, decision.rejected) == ("response_t=0.51", "response_t=0.01")
        assert "decline" in decision.explanation
        assert len(decision.replies) == 1


@pytest.mark.parametrize("chain_of_thought", [False, True])
def test_the_generator_gets_soft_labels_in_principle_mode(url: str, chain_of_thought: bool) -> None:
    principles = tuple(read_comparison_principles(COMPARISON_PRINCIPLES))
    found = decisions(
        url, 2, mode="principle", principles=principles, comparisons_per_prompt=None, chain_of_thought=chain_of_thought
    )
    assert len(found) == 6
    for decision in found:
        assert decision.outcome is Outcome.PAIR
        assert decision.chosen == ("response_t=0.51" if "response_t=0.51" in decision.shown else "response_t=1.01")
        assert decision.probability is not None
        assert all(order.from_logprobs for order in decision.orders)
        first, second = (order.probability for order in decision.orders)
        assert first is not None
        assert first + (second or 0) == pytest.approx(1), "the pocket judge does not mind the order"
        if chain_of_thought:
            assert decision.probability == pytest.approx(0.6)
            assert "reads as" in decision.explanation
        else:
            assert decision.probability > 0.9


def test_log_probabilities_come_only_where_asked_for(url: str) -> None:
    content = format_comparison(Comparison(PROMPT, "Which answer is kinder?", RUDE, DECLINE, False))
    body: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": content}]}

    def choice(**more: Any) -> Any:
        return httpx.post(f"{url}/v1/chat/completions", json={**body, **more}, timeout=60).json()["choices"][0]

    assert choice()["logprobs"] is None
    assert choice()["message"]["content"] == "B"
    (token,) = choice(logprobs=True, top_logprobs=1)["logprobs"]["content"]
    assert [other["token"] for other in token["top_logprobs"]] == ["B"]
    (token,) = choice(logprobs=True, top_logprobs=20)["logprobs"]["content"]
    assert sum(math.exp(other["logprob"]) for other in token["top_logprobs"]) == pytest.approx(1)
    refused = httpx.post(f"{url}/v1/chat/completions", json={**body, "logprobs": True, "top_logprobs": 21}, timeout=60)
    assert refused.status_code == 400
    assert "top_logprobs" in refused.json()["error"]["message"]


def test_it_reads_the_references_form_of_the_request(url: str) -> None:
    text = f"\n FULL TEXT: {PROMPT}\n #1: \n {DECLINE}\n\n #2: \n {RUDE}\n\n #3: \n {OTHER}\n\nNow, choose the pair:"
    reply = ask(url, [{"role": "system", "content": "-"}, {"role": "user", "content": text}]).json()
    verdict = parse_verdict(reply["choices"][0]["message"]["content"], 3)
    assert isinstance(verdict, Verdict)
    assert (verdict.chosen, verdict.rejected) == (1, 2)


def test_a_repeated_question_is_answered_from_the_first_message() -> None:
    messages = [
        {"role": "user", "content": format_request(PROMPT, [RUDE, DECLINE])},
        {"role": "assistant", "content": "?"},
        {"role": "user", "content": "Reply with a JSON object."},
    ]
    assert read_request(json.dumps({"messages": messages}).encode()).asked == (PROMPT, [RUDE, DECLINE])
    comparison = Comparison(PROMPT, "Which answer is kinder?", RUDE, DECLINE, True)
    messages[0]["content"] = format_comparison(comparison)
    assert read_request(json.dumps({"messages": messages}).encode()).asked == comparison


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([{"role": "user", "content": "Hello"}], "no user message lists a question"),
        ([{"role": "system", "content": "Hello"}], "no user message lists a question"),
        ([{"role": "user", "content": format_request(PROMPT, [DECLINE])}], "at least two answers"),
    ],
)
def test_a_request_that_cannot_be_judged_is_a_400_with_a_sentence(url: str, messages, sentence: str) -> None:
    response = ask(url, messages)
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"messages": 3}', b'{"messages": ["x"]}', b'{"messages": [], "stream": true}']
)
def test_a_body_that_is_no_chat_request_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        read_request(body)


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cai_jobs.pocket_judge", *flags], capture_output=True, text=True, timeout=120
    )


def test_a_missing_judge_file_ends_with_its_name(tmp_path: Path) -> None:
    ended = command("--judge", str(tmp_path / "none.json"))
    assert ended.returncode == 2
    assert "none.json: no such file" in ended.stderr


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = command("--port", str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "--port" in ended.stderr


def test_an_unknown_flag_names_the_program() -> None:
    with pytest.raises(Exception, match="pocket_judge"):
        main(["--nonsense"])
