"""Both generators against our own server with the pocket model, and the pocket judge."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.harness.forked_program import ForkedProgram
from tests.harness.processes import free_port

from cai_jobs import generate_rl_cai_dataset as rl_program
from cai_jobs import generate_sl_cai_dataset as sl_program
from cai_jobs.pocket.datasets import write_pocket_datasets

DATA = Path(sl_program.__file__).parent / "data" / "pocket"
END = "<extra_id_1>"
ROWS = 12
TEMPLATE = [
    *("--user_format", "<extra_id_1>User\\n{MESSAGE}\\n<extra_id_1>Assistant\\n", "--assistant_format", "{MESSAGE}\\n"),
    *("--system_format", "<extra_id_0>System\\n{MESSAGE}\\n", "--system_default_message", "", "--eos_token", END),
    *("--response_extract_pattern", "<extra_id_1>Assistant\\n", "--end_strings", END),
]
SAMPLING = ["--top_k", "0", "--top_p", "1.0", "--repetition_penalty", "1.0", "--progress", "none"]


@contextmanager
def program(directory: Path, module: str, *flags: str) -> Iterator[str]:
    """A server of ours, ready: its address as HOST:PORT."""
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    flags = ("--port", str(port), *flags)
    running = ForkedProgram(module, flags, directory / f"{module}.log", environment=environment)

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        running.wait_until(ready)
        yield f"127.0.0.1:{port}"
    finally:
        running.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with program(tmp_path_factory.mktemp("model"), "cai_jobs.serve", "--model", str(DATA / "model")) as address:
        yield address


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with program(tmp_path_factory.mktemp("judge"), "cai_jobs.pocket_judge") as address:
        yield f"http://{address}/v1/chat/completions"


@pytest.fixture(scope="module")
def red_team(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prompts")
    write_pocket_datasets("redTeam", directory, 10, 7)
    return directory / "red_team_train.jsonl"


def sl_rows(model: str, red_team: Path, output: Path, *more: str) -> list[dict]:
    flags = ["--red-teaming-prompts-dataset-path", str(red_team), "--output-filepath", str(output), "--host", model]
    few_shots = ["--few-shot-prompts-dataset-path", str(DATA / "few_shot_samples.json")]
    length = ["--num-examples", str(ROWS), "--tokens_to_generate", "80", "--apply_chat_template", "True"]
    last_word = sl_program.main([*flags, *few_shots, *length, *TEMPLATE, *SAMPLING, "--greedy", "False", *more])
    assert last_word is not None
    assert last_word["metrics"]["rows"] == ROWS
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("api", ["auto", "openai"])
def test_revisions_do_not_depend_on_the_batch(model: str, red_team: Path, tmp_path: Path, api: str) -> None:
    speaking = ["--server-api", api]
    rows = sl_rows(model, red_team, tmp_path / "a.jsonl", *speaking)
    again = sl_rows(model, red_team, tmp_path / "b.jsonl", *speaking, "--batch_size", "5", "--requests-in-flight", "3")
    assert rows == again
    assert all(turn["value"] for row in rows for turn in row["conversations"])
    other = sl_rows(model, red_team, tmp_path / "c.jsonl", *speaking, "--seed", "8")
    assert rows != other, "answers are sampled"


@pytest.mark.parametrize("mode", ["constitution", "principle"])
def test_pairs_are_judged(model: str, judge: str, red_team: Path, tmp_path: Path, mode: str) -> None:
    flags = ["--red-teaming-file-path", str(red_team), "--output-dir", str(tmp_path), "--host", model]
    more = ["--num-examples", str(ROWS), "--tokens_to_generate", "64", "--temperatures", "0.5", "2.0", "3.0"]
    judging = ["--ngc-url", judge, "--ngc-model", "pocket-judge", "--judge-mode", mode]
    last_word = rl_program.main([*flags, *more, *judging, *TEMPLATE, *SAMPLING])

    assert last_word is not None
    found = last_word["metrics"]
    assert found["prompts"] == ROWS
    assert found["undecided"] == 0
    preferences = json.loads((tmp_path / "cai_preference_dataset.json").read_text())
    assert len(preferences) == found["pairs"] > ROWS // 2
    for sample in preferences:
        assert sample["chosen"] != sample["rejected"]
        assert {sample["chosen"], sample["rejected"]} <= set(sample["raw"]["all_responses"].values())
    lines = (tmp_path / "cai_rlaif_train_comparisons_with_chat_prompt.jsonl").read_text().splitlines()
    assert len(lines) % 2 == 0
