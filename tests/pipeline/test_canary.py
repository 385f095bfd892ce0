"""Keys and tokens of a run reach the programs they are for, and stand nowhere else: a value is searched everywhere."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness.canary import Canaries, ProcessWatch
from tests.harness.processes import free_port
from tests.pipeline.conftest import SMALL, Pipeline, environment, wait_for

pytestmark = pytest.mark.slow

JUDGE = Path(__file__).parents[1] / "harness" / "keyed_judge.py"
VARIABLES = {"hub": "HF_TOKEN", "first": "JUDGE_API_KEY_1", "second": "JUDGE_API_KEY_2"}


@pytest.fixture
def canaries() -> Canaries:
    """A hub token, the keys of a panel's two judges, one that is wrong, and one that this run has no use for."""
    return Canaries("hub", "first", "second", "wrong", "other")


@pytest.fixture
def judge_ports(canaries: Canaries, tmp_path: Path) -> Iterator[list[int]]:
    """Two judges, each with a key of its own."""
    ports = [free_port(), free_port()]
    started = []
    for port, name in zip(ports, ("first", "second"), strict=True):
        digest = hashlib.sha256(canaries.values[name].encode()).hexdigest()
        command = [sys.executable, str(JUDGE), f"--port={port}", f"--sha256={digest}"]
        started.append(subprocess.Popen(command, env=environment(), cwd=tmp_path))
    try:
        for port, process in zip(ports, started, strict=True):
            wait_for(lambda port=port: _answers(port), "the judge to answer", process)
        yield ports
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_no_key_is_anywhere_but_with_its_program(
    make_pipeline: Callable[..., Pipeline],
    canaries: Canaries,
    judge_ports: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make_pipeline(_manifest(judge_ports), forked=False)
    # keys that the user's own shell has are nobody's business
    monkeypatch.setenv("NGC_API_KEY", canaries.values["other"])
    for name, variable in VARIABLES.items():
        monkeypatch.setenv(variable, canaries.values[name])

    with ProcessWatch(canaries, pipeline.processes, _program) as watch:
        monkeypatch.setenv(VARIABLES["second"], canaries.values["wrong"])
        code, output = pipeline.run()
        assert code != 0
        assert "refused (401): Incorrect API key provided: Bearer ***" in output
        assert "JUDGE_API_KEY_2" in output
        canaries.search_files("files after a key was refused", pipeline.directory)

        monkeypatch.setenv(VARIABLES["second"], canaries.values["second"])
        code, output = pipeline.run()
        assert code == 0, output
    canaries.search_files("files of the work directory at the end", pipeline.directory)
    for words in (["status", "work"], ["status", "work", "-o", "yaml"], ["render", "pipeline.yaml", "principles.yaml"]):
        done = pipeline.cai(*words)
        assert done.returncode == 0, done.stderr
        canaries.search("answers of cai", " ".join(words), done.stdout + done.stderr)

    print(canaries.table())
    assert canaries.found == []
    # whoever starts the run has what its shell has
    holders = {name: who - {"cai run"} for name, who in watch.holders.items()}
    fetch, judge = {"fetch_models", "fetch_datasets"}, {"generate_rl_cai_dataset"}
    assert holders == {"hub": fetch, "first": judge, "second": judge, "wrong": judge, "other": set()}
    kinds = {path.suffix for path in pipeline.workdir.rglob("*") if path.is_file()}
    assert {".html", ".jsonl", ".json", ".log", ".safetensors"} <= kinds
    assert min(canaries.searched.values()) > 2


def _manifest(ports: list[int]) -> Any:
    manifest = copy.deepcopy(SMALL)
    spec = manifest["spec"]
    spec["hubTokenSecret"] = {"name": "hub", "key": "token"}
    panel = [
        {"url": f"http://127.0.0.1:{port}/v1", "model": f"judge-{place}"} for place, port in enumerate(ports, start=1)
    ]
    spec["judge"] = {"panel": [{**one, "apiKeySecret": {"name": one["model"], "key": "key"}} for one in panel]}
    spec["stages"] |= {"rewardModel": {"enabled": False}, "ppo": {"enabled": False}, "serve": {"enabled": False}}
    spec["stages"]["sft"]["overrides"] |= {"max-steps": 2}
    spec["stages"]["evaluate"]["numExamples"] = 4
    return manifest


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _program(process: int) -> str | None:
    """A process of a run by its program's name; None for one that is no program yet."""
    words = (Path("/proc") / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if "cai_operator.cli" in words:
        return "cai run"
    modules = [word.removeprefix("cai_jobs.") for word in words if word.startswith("cai_jobs.")]
    return modules[0] if modules else "another"
