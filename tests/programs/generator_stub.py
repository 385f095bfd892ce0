"""A model server and judge whose answers follow from prompt and seed, so that the generators' rows can be compared."""

import hashlib
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cai_jobs.generation.judging.request import Comparison, parse_comparison, parse_request

END = "<extra_id_1>"
EXTRA_ID_FLAGS = [
    *("--user_format", "<extra_id_1>User\\n{MESSAGE}\\n<extra_id_1>Assistant\\n"),
    *("--assistant_format", "{MESSAGE}\\n", "--system_format", "<extra_id_0>System\\n{MESSAGE}\\n"),
    *("--system_default_message", "", "--eos_token", END),
    *("--response_extract_pattern", "<extra_id_1>Assistant\\n"),
]


class Stub(ThreadingHTTPServer):
    """Model server and judge in one. `failures` are statuses answered before anything else, None for none; `refuse` is
    text of prompts refused; `ours` says whether it lists its model and takes a seed a sentence, `completions` whether
    it answers these too."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.failures: list[int | None] = []
        self.refuse: str | None = None
        self.ours = True
        self.completions = False
        self.delay = 0.0
        self.lock = threading.Lock()
        self.compare = surely_the_smaller
        self.judge = lambda candidates: json.dumps({"chosen": best(candidates), "rejected": worst(candidates)})

    @property
    def port(self) -> int:
        return self.server_address[1]


def best(candidates: list[str]) -> int:
    return candidates.index(min(candidates)) + 1


def worst(candidates: list[str]) -> int:
    return candidates.index(max(candidates)) + 1


def surely_the_smaller(comparison: Comparison) -> dict:
    """A chat completion's choice: the option whose text is the smaller, with a probability of 0.8."""
    name, other = ("A", "B") if comparison.first < comparison.second else ("B", "A")
    likely = [{"token": name, "logprob": math.log(0.8)}, {"token": other, "logprob": math.log(0.2)}]
    content = [{"token": name, "logprob": math.log(0.8), "top_logprobs": likely}]
    return {"message": {"role": "assistant", "content": name}, "logprobs": {"content": content}}


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.server.ours:
            self.answer(200, {"object": "list", "data": [{"id": "stub"}]})
        else:
            self.answer(405 if self.path == "/generate" else 404, {"message": "not found"})

    def do_PUT(self) -> None:
        body = self.body()
        with self.server.lock:
            failure = self.server.failures.pop(0) if self.server.failures else None
            self.server.bodies.append(body)
        time.sleep(self.server.delay)
        if failure is not None:
            self.answer(failure, {"error": "busy"})
            return
        if body["sentences"] and isinstance(body["sentences"][0], dict):
            turns = [list(zip(turn["role"], turn["content"], strict=True)) for turn in body["sentences"]]
            dialogues = ["".join(f"[{role}] {text} " for role, text in turn) for turn in zip(*turns, strict=True)]
            prompts = [dialogue + "[/INST]" for dialogue in dialogues]
        else:
            prompts = body["sentences"]
        if self.server.refuse and any(self.server.refuse in prompt for prompt in prompts):
            self.answer(*([400, {"error": "prompt too long"}] if self.server.ours else [200, "prompt too long"]))
            return
        seeds = body.get("random_seeds") or [body["random_seed"] + place for place in range(len(prompts))]
        if body.get("greedy") or body.get("top_k") == 1:
            seeds = [0] * len(prompts)
        words = [
            hashlib.sha256(f"{prompt}{seed}{body['temperature']}".encode()).hexdigest()[:8]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        found = {"sentences": [f"{p}answer {w}\n{END}" for p, w in zip(prompts, words, strict=True)]}
        if self.server.completions:
            found["completions"] = [f"answer {w}\n{END}" for w in words]
        self.answer(200, found)

    def do_POST(self) -> None:
        body = self.body()
        self.server.keys.append(self.headers.get("Authorization"))
        question = body["messages"][1]["content"]
        if "\n(A): " in question:
            self.answer(200, {"choices": [self.server.compare(parse_comparison(question))]})
            return
        _, candidates = parse_request(question)
        reply = self.server.judge(candidates)
        self.answer(200, {"choices": [{"message": {"role": "assistant", "content": reply}}]})

    def body(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sl_flags(stub: Stub, red_team: Path, output: Path, *more: str) -> list[str]:
    flags = ["--red-teaming-prompts-dataset-path", str(red_team), "--output-filepath", str(output)]
    server = ["--host", "127.0.0.1", "--port", str(stub.port), "--retry-budget", "0.3", "--progress", "none"]
    return [*flags, *server, "--end_strings", END, "--apply_chat_template", "True", *EXTRA_ID_FLAGS, *more]
