"""What a user gets wrong, or the machine: an exit code, a sentence where it is looked for, and nothing lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

GOOD = json.dumps({"transcript": "\n\nHuman: What is tea?\n\nAssistant: A drink."}) + "\n"
NOWHERE = "http://127.0.0.1:9"
FETCHING = ("models", "datasets")
STAGES = ("models", "datasets", "slData", "sft", "rlData", "rewardModel", "ppo", "evaluate", "serve", "report")


def only(pipeline: Any, *stages: str) -> None:
    for stage in STAGES:
        if stage in stages:
            pipeline.stages.setdefault(stage, {})
        else:
            pipeline.stages[stage] = {"enabled": False}


def program(name: str, directory: Path, *flags: str) -> tuple[int, str, str]:
    """Run a program: (exit code, its last word's error, what it wrote to stderr)."""
    word = directory / "word.json"
    word.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"cai_jobs.{name}", *flags, "--termination-message", str(word)]
    roots = [str(Path(__file__).parents[2] / "jobs"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots).rstrip(os.pathsep)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    return done.returncode, json.loads(word.read_text()).get("error", ""), done.stderr


def assert_said(result: tuple[int, str, str], code: int, sentence: str) -> None:
    found, error, stderr = result
    assert found == code, stderr
    assert sentence in error
    assert stderr.rstrip().splitlines()[-1] == f"error: {error}"
    assert "Traceback" not in stderr


RED_TEAM = {
    "missing": (None, "red_team.jsonl: no such file"),
    "empty": ("", "red_team.jsonl: the file is empty"),
    "line 7": (GOOD * 6 + '{"transcript": \n' + GOOD, "red_team.jsonl:7: not JSON"),
    "no human": (GOOD + json.dumps({"transcript": "Assistant: A."}) + "\n", "red_team.jsonl:2: "),
    "no assistant": (GOOD + json.dumps({"transcript": "Human: Q?"}) + "\n", "red_team.jsonl:2: "),
}


@pytest.mark.parametrize("case", RED_TEAM)
def test_a_red_team_file_that_is_wrong(case: str, tmp_path: Path) -> None:
    text, sentence = RED_TEAM[case]
    path = tmp_path / "red_team.jsonl"
    if text is not None:
        path.write_text(text)
    pocket = json.dumps({"pocket": {}})
    flags = ["--red-team", json.dumps({"path": str(path)}), "--helpfulness", pocket, "--preference", pocket]
    header = json.dumps({"stage": "datasets", "key": "k", "parameters": {}, "inputs": {}})
    flags += ["--held-out", "1", "--artifact-dir", str(tmp_path / "k"), "--artifact-header", header]
    assert_said(program("fetch_datasets", tmp_path, *flags), 2, sentence)
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--temperature", "0"], "--temperature 0.0: a temperature must be above 0 and at most 100"),
        (["--temperature", "200"], "at most 100"),
        (["--batch_size", "129"], "--batch_size 129: a request holds 1 to 128"),
        (["--few-shot-prompts-dataset-path", "odd.json"], "odd.json: sample 1: 3 turns; the number must be even"),
    ],
)
def test_settings_of_a_generator_that_are_wrong(flags: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "red.jsonl").write_text(GOOD)
    turns = [{"role": role, "content": "x"} for role in ("User", "Assistant", "User")]
    (tmp_path / "odd.json").write_text(json.dumps({"samples": [turns]}))
    command = ["--red-teaming-prompts-dataset-path", "red.jsonl", "--output-filepath", "rows.jsonl", *flags]
    assert_said(program("generate_sl_cai_dataset", tmp_path, *command), 2, sentence)
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "flags", "url"),
    [
        (
            "generate_sl_cai_dataset",
            ["--red-teaming-prompts-dataset-path", "red.jsonl", "--output-filepath", "x.jsonl", "--retry-budget", "0"],
            NOWHERE,
        ),
        (
            "generate_rl_cai_dataset",
            [
                *("--red-teaming-file-path", "red.jsonl", "--output-dir", "out", "--retry-budget", "0"),
                *("--ngc-url", f"{NOWHERE}/v1/chat/completions"),
            ],
            NOWHERE,
        ),
        (
            "evaluate",
            ["--model-name", "base", "--red-team", "red.jsonl", "--benign", "benign.jsonl", "--output-dir", "out",
             "--retry-s", "0.1"],
            "127.0.0.1:9",
        ),
    ],
    ids=["sl", "rl", "evaluate"],
)  # fmt: skip
def test_a_model_server_that_is_away(name: str, flags: list[str], url: str, tmp_path: Path) -> None:
    (tmp_path / "red.jsonl").write_text(GOOD)
    (tmp_path / "benign.jsonl").write_text(json.dumps({"prompt": "What is tea?"}) + "\n")
    assert_said(program(name, tmp_path, *flags, "--host", "127.0.0.1", "--port", "9"), 1, url)


class WithoutTemplate(BaseHTTPRequestHandler):
    """The model server's answers about a model whose tokenizer has no chat template."""

    def do_GET(self) -> None:
        self._reply(404, {})

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if isinstance(body["sentences"][0], str):
            self._reply(200, {"sentences": [f"{text} Yes." for text in body["sentences"]]})
        else:
            self._reply(400, {"error": {"message": "this model's tokenizer has no chat template"}})

    def _reply(self, status: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        return


def test_a_tokenizer_without_chat_template(tmp_path: Path) -> None:
    (tmp_path / "red.jsonl").write_text(GOOD * 3)
    flags = ["--red-teaming-prompts-dataset-path", "red.jsonl", "--output-filepath", "rows.jsonl"]
    with ThreadingHTTPServer(("127.0.0.1", 0), WithoutTemplate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags += ["--host", "127.0.0.1", "--port", str(server.server_port)]
        result = program("generate_sl_cai_dataset", tmp_path, *flags, "--apply_chat_template", "False")
        assert_said(result, 2, "this model's tokenizer has no chat template; or have dialogues laid out here, by")
        flags += ["--apply_chat_template", "True"]
        code, _, stderr = program("generate_sl_cai_dataset", tmp_path, *flags)
        server.shutdown()
    assert code == 0, stderr
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_failed_stage_is_told_with_its_line_and_goes_on_once_that_is_mended(pipeline: Any) -> None:
    only(pipeline, *FETCHING)
    red_team = pipeline.directory / "red_team.jsonl"
    red_team.write_text(GOOD * 6 + "{\n")
    pipeline.manifest["spec"]["datasets"] = {"redTeam": {"path": "red_team.jsonl"}}
    pipeline.stages["datasets"]["heldOut"] = 1
    code, output = pipeline.run()
    assert code == 1
    assert f"datasets failed: {red_team}:7: not JSON" in output
    assert "Traceback" not in output
    nodes = pipeline.nodes()
    assert (nodes["datasets"]["state"], nodes["datasets"]["attempts"]) == ("Failed", 1)
    assert f"{red_team}:7: not JSON" in nodes["datasets"]["message"]
    assert f"{red_team}:7: not JSON" in Path(nodes["datasets"]["log"]).read_text()
    assert nodes["models"]["state"] == "Succeeded"

    questions = [f"\n\nHuman: What is {thing}?\n\nAssistant: Good." for thing in ("tea", "bread", "a bridge")]
    red_team.write_text("".join(json.dumps({"transcript": text}) + "\n" for text in questions))
    code, output = pipeline.run()
    assert code == 0, output
    assert "models: found done already" in output
    assert len((pipeline.artifact("datasets") / "red_team_train.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("temperature", [0, 200])
def test_a_temperature_no_model_can_be_given(pipeline: Any, temperature: float) -> None:
    pipeline.stages["rlData"]["temperatures"] = [0.5, temperature]
    code, output = pipeline.run()
    assert code == 2
    assert f"spec.stages.rlData.temperatures[1]: found {temperature}" in output
    assert "above 0 and at most 100" in output
    assert not pipeline.workdir.exists()


@pytest.fixture
def small_disk(pipeline: Any) -> Iterator[Path]:
    """A work directory of a megabyte, which no model fits in."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    place = pipeline.workdir
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_a_larger_one_goes_on(pipeline: Any, small_disk: Path) -> None:
    only(pipeline, *FETCHING)
    for stage in FETCHING:
        pipeline.stages[stage]["retries"] = 0
    code, output = pipeline.run("--parallel", "1")
    assert code == 1, output
    assert "models failed: no space left on the disk while writing" in output  # though its last word found no room
    assert "Traceback" not in output
    assert "Traceback" not in "".join(path.read_text() for path in (small_disk / "logs").iterdir())

    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    code, output = pipeline.run()
    assert code == 0, output
    assert pipeline.status()["phase"] == "Succeeded"


class Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        content = json.dumps({"chosen": 1, "rejected": 2})
        reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.slow
def test_a_judge_that_is_away_costs_no_candidates(finished: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    only(finished, *FETCHING, "slData", "sft", "rlData")
    finished.manifest["spec"]["judge"] = {"url": url, "model": "stand-in"}
    finished.stages["rlData"] |= {"numExamples": 4, "retries": 0}
    finished.stages["rlData"]["overrides"]["retry_budget"] = 0.5
    code, output = finished.run()
    assert code == 1
    assert f"rlData failed: judge {url.removesuffix('/chat/completions')} unreachable: " in output
    assert "Traceback" not in output
    assert finished.processes() == {}

    before = server_logs(finished)
    assert sum("batch 1:" in text for text in before.values()) == 2  # of the finished run, and of the failed one
    with ThreadingHTTPServer(("127.0.0.1", port), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, output = finished.run()
        server.shutdown()
    assert code == 0, output
    assert "sft: found done already" in output
    # a failed stage that is tried again has logs of its own
    again = [text.removeprefix(before.get(name, "")) for name, text in server_logs(finished).items()]
    assert any("ready" in text for text in again)
    assert not any("batch 1:" in text for text in again)
    assert finished.nodes()["rlData"]["metrics"]["pairs"] > 0


def server_logs(pipeline: Any) -> dict[str, str]:
    return {path.name: path.read_text() for path in (pipeline.workdir / "logs").glob("small-rl-data-server-*.log")}
