"""The running server over HTTP: shapes, limits, batching, clients that leave, start and stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.get_answer import get_answer, main

PROMPT = "Which bird sings at night?"


def put(url: str, **body: Any) -> httpx.Response:
    return httpx.put(f"{url}/generate", json=body, timeout=60)


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json=body, timeout=60)


def metric(url: str, name: str) -> float:
    found = re.search(rf"^cai_serve_{name} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the condition never held")


class TestGenerate:
    def test_answers_as_the_reference_does(self, server: tuple[str, Path]) -> None:
        prompts = [PROMPT, "How"]
        reply = put(server[0], sentences=prompts, tokens_to_generate=6, greedy=True, end_strings=[])
        assert reply.status_code == 200
        body = reply.json()
        assert set(body) == {"sentences", "completions", "tokens", "logprob", "token_ids", "offsets"}
        assert body["sentences"] == [prompt + text for prompt, text in zip(prompts, body["completions"], strict=True)]
        assert body["logprob"] is None
        for prompt, sentence, tokens, ids, offsets in zip(
            prompts, body["sentences"], body["tokens"], body["token_ids"], body["offsets"], strict=True
        ):
            assert sentence.startswith(prompt)
            assert len(tokens) == len(ids) == len(offsets)
            assert offsets[0] == 0
            assert sentence.startswith("".join(tokens[:2]))
            assert offsets[2] == len(tokens[0]) + len(tokens[1])

    def test_defaults_are_the_references(self, server: tuple[str, Path]) -> None:
        body = put(server[0], sentences=["How"], end_strings=[], min_tokens_to_generate=64).json()
        assert len(body["token_ids"][0]) == 64 + 1

    def test_log_probabilities(self, server: tuple[str, Path]) -> None:
        body = put(server[0], sentences=["How do I"], tokens_to_generate=3, compute_logprob=True, all_probs=True).json()
        length = len(body["token_ids"][0])
        assert len(body["logprob"][0]) == length - 1
        assert len(body["full_logprob"][0]) == length - 1
        place = body["token_ids"][0][1]
        assert body["full_logprob"][0][0][place] == pytest.approx(body["logprob"][0][0])

    def test_the_end_string_stays_in_the_sentence(self, server: tuple[str, Path]) -> None:
        ask = {"sentences": [PROMPT], "tokens_to_generate": 40, "greedy": True}
        whole = put(server[0], **ask, end_strings=[]).json()["sentences"][0][len(PROMPT) :]
        stop = whole[5:8]
        cut = put(server[0], **ask, end_strings=[stop]).json()["sentences"][0][len(PROMPT) :]
        assert cut == whole[: whole.find(stop) + len(stop)]

    def test_add_bos(self, server: tuple[str, Path]) -> None:
        body = put(server[0], sentences=["How"], tokens_to_generate=1, add_BOS=True).json()
        assert body["token_ids"][0][0] == 0
        assert body["offsets"][0][1] == 0
        assert body["sentences"][0].startswith("How")

    def test_dialogues_collated_by_turn(self, server: tuple[str, Path]) -> None:
        turns = [
            {"role": ["User", "User"], "content": ["Hello", "How do I bake bread?"]},
            {"role": ["Assistant", "Assistant"], "content": ["Good day.", "Mix flour."]},
            {"role": ["User", "User"], "content": ["Bye", "And then?"]},
        ]
        body = put(server[0], sentences=turns, tokens_to_generate=2).json()
        assert body["sentences"][0].startswith("[user] Hello\n[assistant] Good day.\n[user] Bye\n[assistant] ")
        assert body["sentences"][1].startswith("[user] How do I bake bread?\n[assistant] Mix flour.\n[user] And then?")

    def test_dialogues_of_unequal_length_are_refused(self, server: tuple[str, Path]) -> None:
        turns = [{"role": ["User", "User"], "content": ["a", "b"]}, {"role": ["Assistant"], "content": ["c"]}]
        reply = put(server[0], sentences=turns)
        assert reply.status_code == 400
        assert "same number of turns" in reply.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", 0),
            ("temperature", 200),
            ("temperature", "warm"),
            ("tokens_to_generate", 0),
            ("tokens_to_generate", 2.5),
            ("top_k", -1),
            ("top_k", 1.5),
            ("top_p", 1.2),
            ("top_p", -0.1),
            ("repetition_penalty", 0.9),
            ("min_tokens_to_generate", -1),
            ("end_strings", "x"),
            ("end_strings", [1]),
            ("greedy", "yes"),
            ("add_BOS", 1),
            ("all_probs", 0),
            ("compute_logprob", "no"),
            ("random_seed", -5),
        ],
    )
    def test_limits(self, server: tuple[str, Path], field: str, value: Any) -> None:
        reply = put(server[0], sentences=["How"], **{field: value})
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert error["field"] == field
        assert error["message"].startswith(f"{field} is {json.dumps(value)}; allowed: ")
        assert isinstance(reply.json()["reference"], str)

    @pytest.mark.parametrize(("temperature", "top_k", "penalty"), [(100, 0, 1), (0.01, 5, 1.0), (1, 3.0, 2)])
    def test_limits_are_allowed_themselves(
        self, server: tuple[str, Path], temperature: float, top_k: float, penalty: float
    ) -> None:
        reply = put(
            server[0], sentences=["How"], tokens_to_generate=1, top_p=0, temperature=temperature, top_k=top_k,
            repetition_penalty=penalty,
        )  # fmt: skip
        assert reply.status_code == 200, reply.text

    def test_number_of_sentences(self, server: tuple[str, Path]) -> None:
        assert len(put(server[0], sentences=["a"] * 128, tokens_to_generate=1).json()["sentences"]) == 128
        reply = put(server[0], sentences=["a"] * 129, tokens_to_generate=1)
        assert reply.status_code == 400
        assert reply.json()["reference"] == "Maximum number of sentences is 128"
        assert "129" in reply.json()["error"]["message"]
        assert put(server[0], sentences=[]).status_code == 400
        assert put(server[0], tokens_to_generate=3).json()["error"]["message"].startswith("sentences is missing")
        assert put(server[0], sentences=[""]).status_code == 400

    def test_not_json_and_wrong_method(self, server: tuple[str, Path]) -> None:
        assert httpx.put(f"{server[0]}/generate", content=b"{").status_code == 400
        assert httpx.put(f"{server[0]}/generate", content=b"[]").status_code == 400
        assert httpx.get(f"{server[0]}/generate").status_code == 405
        assert httpx.get(f"{server[0]}/nothing").json()["error"]["code"] == 404

    def test_text_no_tokenizer_can_take(self, server: tuple[str, Path]) -> None:
        reply = httpx.put(f"{server[0]}/generate", content=b'{"sentences": ["\\ud800"]}')
        assert reply.status_code == 400
        assert "surrogate" in reply.json()["error"]["message"]

    def test_prompt_too_long(self, server: tuple[str, Path]) -> None:
        reply = put(server[0], sentences=["bread " * 300], tokens_to_generate=10)
        assert reply.status_code == 400
        assert re.search(r"\d+ tokens and 10 are to be generated: .*context is 256", reply.json()["error"]["message"])

    def test_seeds(self, server: tuple[str, Path]) -> None:
        def sample(**fields: Any) -> list[str]:
            answer: list[str] = put(server[0], tokens_to_generate=20, end_strings=[], **fields).json()["sentences"]
            return answer

        both = sample(sentences=["How", "Which"], random_seeds=[5, 6])
        assert sample(sentences=["Which"], random_seeds=[6]) == both[1:]
        assert sample(sentences=["Which", "How"], random_seeds=[6, 5]) == both[::-1]
        seeded = sample(sentences=["How", "How"], random_seed=9)
        assert seeded == sample(sentences=["How", "How"], random_seed=9)
        assert seeded[0] != seeded[1]
        free = [sample(sentences=["How"])[0] for _ in range(3)]
        assert len(set(free)) == 3
        wrong = put(server[0], sentences=["How"], random_seeds=[1, 2])
        assert wrong.status_code == 400
        assert "2 seeds for 1 sentences" in wrong.json()["error"]["message"]


class TestOpenAI:
    def test_completions(self, server: tuple[str, Path]) -> None:
        body = post(server[0], "completions", prompt=[PROMPT, "How"], n=2, max_tokens=4, seed=3).json()
        assert body["object"] == "text_completion"
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
        assert len({choice["text"] for choice in body["choices"]}) == 4
        assert body["usage"]["completion_tokens"] == 16
        single = post(server[0], "completions", prompt=PROMPT, n=2, max_tokens=4, seed=3).json()
        assert [c["text"] for c in single["choices"]] == [c["text"] for c in body["choices"][:2]]

    def test_echo_and_logprobs(self, server: tuple[str, Path]) -> None:
        body = post(
            server[0], "completions", prompt="How do I", max_tokens=3, temperature=0, echo=True, logprobs=2
        ).json()
        choice = body["choices"][0]
        assert choice["text"].startswith("How do I")
        given = choice["logprobs"]
        assert given["token_logprobs"][0] is None
        assert (
            len(given["tokens"])
            == len(given["token_logprobs"])
            == len(given["top_logprobs"])
            == len(given["text_offset"])
        )
        assert given["token_logprobs"][-1] == pytest.approx(max(given["top_logprobs"][-1].values()))
        alone = post(server[0], "completions", prompt="How do I", max_tokens=3, temperature=0, logprobs=0).json()
        assert alone["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(given["token_logprobs"][-3:])
        assert alone["choices"][0]["logprobs"]["top_logprobs"] is None

    def test_stop_is_cut_off(self, server: tuple[str, Path]) -> None:
        ask = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0}
        whole = post(server[0], "completions", **ask).json()["choices"][0]
        stop = whole["text"][5:8]
        cut = post(server[0], "completions", **ask, stop=stop).json()["choices"][0]
        assert cut["text"] == whole["text"][: whole["text"].find(stop)]
        assert cut["finish_reason"] == "stop"

    def test_prompt_as_token_ids(self, server: tuple[str, Path]) -> None:
        ids = put(server[0], sentences=["How do"], tokens_to_generate=1).json()["token_ids"][0][:-1]
        texts = [
            post(server[0], "completions", prompt=p, max_tokens=5, temperature=0).json()["choices"][0]["text"]
            for p in ("How do", ids, [ids])
        ]
        assert len(set(texts)) == 1
        for wrong in ([5, 352], [-1], [10**30]):
            reply = post(server[0], "completions", prompt=wrong)
            assert reply.status_code == 400
            assert "token ids of this model are 0 to" in reply.json()["error"]["message"]

    def test_chat(self, server: tuple[str, Path]) -> None:
        messages = [{"role": "user", "content": "How do I bake bread?"}]
        body = post(
            server[0], "chat/completions", messages=messages, max_tokens=5, temperature=0, logprobs=True, top_logprobs=2
        ).json()
        choice = body["choices"][0]
        assert body["object"] == "chat.completion"
        assert choice["message"]["role"] == "assistant"
        assert body["usage"]["prompt_tokens"] > 3
        assert len(choice["logprobs"]["content"]) == 5
        assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
        same = post(
            server[0], "completions", prompt="[user] How do I bake bread?\n[assistant] ", max_tokens=5, temperature=0
        ).json()
        assert same["choices"][0]["text"] == choice["message"]["content"]
        refused = post(server[0], "chat/completions", messages=[{"role": "tool", "content": "x"}])
        assert refused.status_code == 400
        assert "no tools here" in refused.json()["error"]["message"]
        assert post(server[0], "chat/completions", messages=[]).status_code == 400

    def test_chat_may_use_what_is_left_of_the_context(self, server: tuple[str, Path]) -> None:
        body = post(server[0], "chat/completions", messages=[{"role": "user", "content": "Hi"}], seed=1).json()
        assert body["choices"][0]["finish_reason"] == "stop" or body["usage"]["total_tokens"] == 256

    @pytest.mark.parametrize("path", ["completions", "chat/completions"])
    def test_streamed_text_is_the_whole_text(self, server: tuple[str, Path], path: str) -> None:
        ask: dict[str, Any] = {"max_tokens": 40, "n": 2, "seed": 4}
        ask |= {"prompt": PROMPT} if path == "completions" else {"messages": [{"role": "user", "content": "Hi"}]}
        key = "text" if path == "completions" else "message"
        first = post(server[0], path, **ask).json()["choices"][0][key]
        ask["stop"] = [(first if path == "completions" else first["content"])[6:9]]
        whole = post(server[0], path, **ask).json()
        reply = post(server[0], path, **ask, stream=True, stream_options={"include_usage": True})
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        texts, ends, events = ["", ""], {}, [json.loads(line) for line in lines[:-1]]
        for event in events[:-1]:
            choice = event["choices"][0]
            piece = choice["text"] if path == "completions" else choice["delta"].get("content", "")
            texts[choice["index"]] += piece
            if choice["finish_reason"]:
                ends[choice["index"]] = choice["finish_reason"]
        wanted = [c["text"] if path == "completions" else c["message"]["content"] for c in whole["choices"]]
        assert texts == wanted
        assert ends == {c["index"]: c["finish_reason"] for c in whole["choices"]}
        assert events[-1]["usage"] == whole["usage"]

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"temperature": -1}, "temperature"),
            ({"top_p": 0}, "top_p"),
            ({"n": 0}, "n"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"seed": -1}, "seed"),
            ({"stop": 5}, "stop"),
            ({"logprobs": 99}, "logprobs"),
        ],
    )
    def test_limits(self, server: tuple[str, Path], fields: dict[str, Any], field: str) -> None:
        reply = post(server[0], "completions", prompt="How", **fields)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == field

    def test_what_is_not_supported_is_refused(self, server: tuple[str, Path]) -> None:
        reply = post(server[0], "completions", prompt="How", presence_penalty=0.5)
        assert reply.status_code == 400
        assert "presence_penalty is not supported" in reply.json()["error"]["message"]
        assert post(server[0], "completions", prompt="How", presence_penalty=0, max_tokens=1).status_code == 200

    def test_models_and_health(self, server: tuple[str, Path]) -> None:
        entry = httpx.get(f"{server[0]}/v1/models").json()["data"][0]
        assert entry["id"] == "tiny-llama"
        assert entry["max_model_len"] == 256
        assert httpx.get(f"{server[0]}/health/live").status_code == 200


def test_requests_arriving_together_share_a_batch(server: tuple[str, Path]) -> None:
    url, log = server
    before = metric(url, "batches"), metric(url, "rows")
    with ThreadPoolExecutor(12) as pool:
        asks = [
            pool.submit(put, url, sentences=["How"], tokens_to_generate=20 + n % 3, temperature=1 + n)
            for n in range(12)
        ]
        assert all(ask.result().status_code == 200 for ask in asks)
    assert metric(url, "rows") - before[1] == 12
    assert metric(url, "batches") - before[0] < 6
    assert re.search(r"batch \d+: \d+ rows, \d+ prompt tokens, \d+ generated in [\d.]+ s", log.read_text())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(server: tuple[str, Path], stream: bool) -> None:
    url, log = server
    gone, made = metric(url, "cancelled_rows"), metric(url, "generated_tokens")
    body = {"prompt": ["a"] * 64, "max_tokens": 250, "min_tokens": 250, "stream": stream}
    patience = httpx.Timeout(60, read=60 if stream else 0.15)
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=patience) as reply,
    ):
        next(reply.iter_bytes())
    wait_for(lambda: metric(url, "cancelled_rows") == gone + 64)
    assert metric(url, "generated_tokens") - made < 64 * 250
    assert put(url, sentences=["How"], tokens_to_generate=1).status_code == 200
    assert "never retrieved" not in log.read_text()


def test_get_answer_cuts_the_formatted_prompt(server: tuple[str, Path]) -> None:
    url, _ = server
    question = "How do I bake {bread}?"
    prompt = f"<extra_id_0>System\n\n<extra_id_1>User\n{question}\n<extra_id_1>Assistant\n"
    whole = put(url, sentences=[prompt], tokens_to_generate=9, greedy=True, end_strings=["<extra_id_1>"]).json()
    expected = whole["sentences"][0].removeprefix(prompt).removesuffix("<extra_id_1>").strip()
    port = int(url.rsplit(":", 1)[1])
    assert get_answer(question, 9, port, "127.0.0.1") == expected
    assert get_answer(question, 9, url=f"{url}/generate") == expected
    with pytest.raises(InputError, match="context is 256"):
        get_answer(question, max_tokens=1000, url=url)


def test_get_answer_as_a_program(server: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["How do I bake bread?", "--url", server[0], "--max-tokens", "9"])
    assert capsys.readouterr().out == get_answer("How do I bake bread?", 9, url=server[0]) + "\n"


def test_no_server_is_said_so() -> None:
    with pytest.raises(RetryableError, match="is the server running"):
        get_answer("How?", eval_port=9, host="127.0.0.1")


def test_without_a_chat_template(make_model: Any, start_server: Any, until_ready: Any) -> None:
    """Also: the port answers before the model is there, and SIGTERM ends a server with 0."""
    process, url, log = start_server(make_model("qwen2", chat=False), forked=False)
    wait_for(lambda: _listens(url))
    early = httpx.get(f"{url}/health/ready")
    assert early.status_code == 503
    assert httpx.get(f"{url}/health/live").status_code == 200
    assert put(url, sentences=["How"]).status_code == 503
    until_ready(process, url, log)
    reply = post(url, "chat/completions", messages=[{"role": "user", "content": "Hi"}])
    assert reply.status_code == 400
    assert "no chat template" in reply.json()["error"]["message"]
    assert put(url, sentences=[{"role": ["User"], "content": ["Hi"]}]).status_code == 400
    assert put(url, sentences=["Hi"], tokens_to_generate=2).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert log.read_text().endswith("stopped\n")


def test_a_model_that_cannot_be_loaded_ends_the_server(make_model: Any, start_server: Any, tmp_path: Path) -> None:
    for file in make_model("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    process, _, log = start_server(tmp_path)
    assert process.wait(timeout=120) == 2
    assert "cannot be loaded as a causal language model" in log.read_text()


@pytest.mark.parametrize("what", ["port", "missing", "no-config", "no-tokenizer"])
def test_plain_mistakes_are_said_at_once(what: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    if what != "missing":
        model.mkdir()
    if what in ("port", "no-tokenizer"):
        (model / "config.json").write_text("{}")
    if what == "port":
        (model / "tokenizer.json").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "cai_jobs.serve", "--model", str(model), "--port", port],
            capture_output=True, text=True, check=False, env=_environment(),
        )  # fmt: skip
    assert done.returncode == 2
    sentence = {
        "port": "choose another --port",
        "missing": "no such directory",
        "no-config": "it has no config.json",
        "no-tokenizer": "has no tokenizer",
    }[what]
    assert sentence in done.stderr
    assert "torch" not in done.stderr


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "jobs")}


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/live")
    except httpx.TransportError:
        return False
    return True
