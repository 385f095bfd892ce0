"""The supervised stage's generator against a server whose answers follow from prompt and seed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.programs.generator_stub import END, Stub, lines, sl_flags

from cai_jobs import generate_sl_cai_dataset as sl_program
from cai_jobs.contract.program import InputError, RetryableError


def test_sl_rows_raw_samples_and_summary(stub: Stub, red_team: Path, helpful: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "sl.jsonl"
    last_word = sl_program.main(
        sl_flags(stub, red_team, output, "--batch_size", "4", "--helpfulness-dataset-path", str(helpful))
    )

    rows = lines(output)
    assert len(rows) == 11, "ten prompts, the last partial batch among them, and one helpful row"
    raw = json.loads((tmp_path / "out" / "cai_output" / "cai_critique_revision_samples.json").read_text())
    assert [sample["initial_prompt"] for sample in raw] == [f"Question {n}?" for n in range(10)]
    names = ["initial_prompt", "initial_response", "critique_prompt", "critique_response"]
    assert list(raw[0]) == [*names, "revision_prompt", "revision_response"]
    assert not any("Critique" in sample["critique_prompt"][:12] for sample in raw)
    assert lines(tmp_path / "out" / "cai_output" / "cai_samples.jsonl")[3] == {
        "system": "",
        "conversations": [
            {"from": "User", "value": "Question 3?", "label": None},
            {"from": "Assistant", "value": raw[3]["revision_response"], "label": None},
        ],
        "mask": "User",
        "dataset": "sl_cai_samples",
    }
    summary = json.loads((tmp_path / "out" / "sl.summary.json").read_text())
    assert summary["prompt_template"] == "chat"
    assert summary["rows"] == 11
    assert last_word is not None
    assert sum(last_word["metrics"]["principles"].values()) == 10
    assert not list((tmp_path / "out").glob("*journal*"))


def test_sl_requests_hold_the_dialogue_so_far_in_the_template(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    sl_program.main(sl_flags(stub, red_team, tmp_path / "sl.jsonl", "--num-examples", "1"))

    response, critique, revision = (body["sentences"][0] for body in stub.bodies)
    raw = json.loads((tmp_path / "cai_output" / "cai_critique_revision_samples.json").read_text())[0]
    assert response.startswith("<extra_id_0>System\n\n<extra_id_1>User\n")
    assert response.endswith("<extra_id_1>User\nQuestion 0?\n<extra_id_1>Assistant\n")
    assert critique == f"{response}{raw['initial_response']}\n{END}User\n{raw['critique_prompt']}\n{END}Assistant\n"
    assert revision == f"{critique}{raw['critique_response']}\n{END}User\n{raw['revision_prompt']}\n{END}Assistant\n"
    assert stub.bodies[0]["greedy"] is True
    assert stub.bodies[0]["add_BOS"] is False


def test_sl_dialogues_are_collated_for_the_servers_own_template(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    flags = ["--red-teaming-prompts-dataset-path", str(red_team), "--output-filepath", str(tmp_path / "sl.jsonl")]
    server = ["--host", "127.0.0.1", "--port", str(stub.port), "--progress", "none", "--num-examples", "2"]
    sl_program.main([*flags, *server, "--end_strings", END])

    last = stub.bodies[0]["sentences"][-1]
    assert last == {"role": ["User", "User"], "content": ["Question 0?", "Question 1?"]}
    raw = json.loads((tmp_path / "cai_output" / "cai_critique_revision_samples.json").read_text())
    assert raw[0]["initial_response"].startswith("answer ")


def test_sl_completions_need_no_extract_pattern(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    flags = ["--red-teaming-prompts-dataset-path", str(red_team), "--output-filepath", str(tmp_path / "sl.jsonl")]
    server = ["--host", "127.0.0.1", "--port", str(stub.port), "--progress", "none", "--num-examples", "2"]
    other = ["--end_strings", END, "--response_extract_pattern", "<|im_start|>assistant"]
    with pytest.raises(InputError, match="--response_extract_pattern"):
        sl_program.main([*flags, *server, *other])
    stub.completions = True
    sl_program.main([*flags, *server, *other])
    raw = json.loads((tmp_path / "cai_output" / "cai_critique_revision_samples.json").read_text())
    assert all(sample["revision_response"].startswith("answer ") for sample in raw)


def test_sl_rows_do_not_depend_on_batch_size_or_concurrency(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    sampling = ["--greedy", "False", "--top_k", "50"]
    for name, more in (("a", ["--batch_size", "3"]), ("b", ["--batch_size", "10", "--requests-in-flight", "1"])):
        sl_program.main(sl_flags(stub, red_team, tmp_path / name / "x.jsonl", *sampling, *more))
    assert (tmp_path / "a/x.jsonl").read_bytes() == (tmp_path / "b/x.jsonl").read_bytes()

    sl_program.main(sl_flags(stub, red_team, tmp_path / "c" / "x.jsonl", *sampling, "--seed", "7"))
    assert (tmp_path / "a/x.jsonl").read_bytes() != (tmp_path / "c/x.jsonl").read_bytes()


@pytest.mark.parametrize("ours", [True, False])
def test_sl_killed_and_run_again_ends_with_the_same_rows(
    stub: Stub, red_team: Path, tmp_path: Path, ours: bool
) -> None:
    stub.ours = ours
    flags = ["--batch_size", "2", "--greedy", "False", "--top_k", "50"]
    sl_program.main(sl_flags(stub, red_team, tmp_path / "calm" / "x.jsonl", *flags))
    calm_requests, stub.bodies = len(stub.bodies), []

    stub.delay = 0.05
    output = tmp_path / "killed" / "x.jsonl"
    command = [sys.executable, "-m", "cai_jobs.generate_sl_cai_dataset"]
    process = subprocess.Popen([*command, *sl_flags(stub, red_team, output, *flags)])
    journal = sl_program.journal_path(output)
    deadline = time.monotonic() + 60
    while not (journal.exists() and len(journal.read_bytes().splitlines()) > 9) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must have been at work still"
    with journal.open("ab") as file:
        file.write(b'{"step": "response", "rows": [9')  # as a kill in the middle of a write leaves it
    before, stub.bodies, stub.delay = len(stub.bodies), [], 0.0

    sl_program.main(sl_flags(stub, red_team, output, *flags))
    assert output.read_bytes() == (tmp_path / "calm" / "x.jsonl").read_bytes()
    assert 0 < len(stub.bodies) < calm_requests, "finished requests are not sent again"
    assert before >= 4


def test_sl_journal_of_other_settings_is_refused_by_name(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.jsonl"
    stub.failures = [None, *[500] * 1000]
    with pytest.raises(RetryableError, match=r"inference server http://127.0.0.1:.* unreachable: status 500 busy"):
        sl_program.main(sl_flags(stub, red_team, output))
    stub.failures = []
    with pytest.raises(InputError, match="seed was 1234, now 5"):
        sl_program.main(sl_flags(stub, red_team, output, "--seed", "5"))
    sl_program.main(sl_flags(stub, red_team, output))
    with pytest.raises(InputError, match="exists already"):
        sl_program.main(sl_flags(stub, red_team, output))


def test_sl_busy_server_is_tried_again(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    stub.failures = [429, 503]
    sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", "--retry-budget", "30"))
    assert len(lines(tmp_path / "x.jsonl")) == 10


def test_sl_a_refused_row_is_listed_and_does_not_cost_its_batch(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    stub.refuse = "Question 5?"
    flags = sl_flags(stub, red_team, tmp_path / "x.jsonl")
    with pytest.raises(InputError, match=r"1 of 10 rows are rejected, more than --max-rejected 0\.05 allows.*too long"):
        sl_program.main(flags)
    last_word = sl_program.main([*flags, "--max-rejected", "0.1"])
    assert last_word is not None
    assert (last_word["metrics"]["refused"], last_word["metrics"]["rows"]) == (1, 9)
    [row] = lines(tmp_path / "rejected.jsonl")
    assert {name: row[name] for name in ("row", "prompt", "step")} == {
        "row": 5,
        "prompt": "Question 5?",
        "step": "response",
    }
    assert "prompt too long" in row["reason"]
    assert str(stub.port) not in row["reason"], "which replica refused is no matter of the data"
    raw = json.loads((tmp_path / "cai_output" / "cai_critique_revision_samples.json").read_text())
    assert [sample["initial_prompt"] for sample in raw] == [f"Question {n}?" for n in range(10) if n != 5]


def test_sl_a_row_the_reference_refuses_by_a_string_is_listed(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    stub.ours, stub.refuse = False, "Question 1?"
    flags = [*("--num-examples", "2"), *("--max-rejected", "0.5")]
    sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", *flags))
    assert [row["row"] for row in lines(tmp_path / "rejected.jsonl")] == [1]
    assert [row["conversations"][0]["value"] for row in lines(tmp_path / "x.jsonl")] == ["Question 0?"]


def test_sl_a_server_that_refuses_everything_is_given_up(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    stub.refuse = "Question"
    flags = sl_flags(stub, red_team, tmp_path / "y.jsonl", "--max-rejected", "1")
    with pytest.raises(InputError, match=r"no row got a revision: 10 were refused, .*rejected\.jsonl has"):
        sl_program.main(flags)
    assert {row["step"] for row in lines(tmp_path / "rejected.jsonl")} == {"response"}
    assert not (tmp_path / "y.jsonl").exists()
    stub.refuse = None
    sl_program.main([*flags, "--top_k", "7"])
    assert len(lines(tmp_path / "y.jsonl")) == 10, "nothing was done under the other settings"
    assert not (tmp_path / "rejected.jsonl").exists()


def test_sl_artifact_holds_train_and_validation_without_shared_prompts(
    stub: Stub, red_team: Path, helpful: Path, tmp_path: Path
) -> None:
    with red_team.open("a") as file:
        file.write(json.dumps({"transcript": "\n\nHuman: Question 1?\n\nAssistant: Again."}) + "\n")
    header = json.dumps({"stage": "slData", "key": "k", "parameters": {}, "inputs": {}})
    directory = tmp_path / "artifacts" / "k"
    command = [
        *sl_flags(stub, red_team, Path("sl_cai_train.jsonl"), "--helpfulness-dataset-path", str(helpful)),
        *("--validation-split", "0.4", "--validation-output-filepath", "sl_cai_validation.jsonl"),
        *("--artifact-dir", str(directory), "--artifact-header", header),
    ]
    first = sl_program.main(command)
    prompts = {
        name: {row["conversations"][0]["value"] for row in lines(directory / name)}
        for name in ("sl_cai_train.jsonl", "sl_cai_validation.jsonl")
    }
    assert not set.intersection(*prompts.values())
    assert sum(map(len, prompts.values())) == 11
    manifest = json.loads((directory / "manifest.json").read_text())
    files = {entry["path"] for entry in manifest["files"]}
    assert files == {
        *prompts,
        "README.md",
        "sl_cai_train.summary.json",
        "cai_output/cai_critique_revision_samples.json",
        "cai_output/cai_samples.jsonl",
    }
    requests = len(stub.bodies)
    assert sl_program.main(command) == first
    assert len(stub.bodies) == requests


def test_sl_functions_keep_the_references_signatures(stub: Stub, red_team: Path, helpful: Path, tmp_path: Path) -> None:
    config = {"host": "127.0.0.1", "port": stub.port, "temperature": 1.0, "greedy": True, "tokens_to_generate": 8}
    template = {"response_extract_pattern": "[/INST]"}
    few_shots, instructions = sl_program.constitution.FEW_SHOTS, sl_program.constitution.INSTRUCTIONS
    output = tmp_path / "f" / "x.jsonl"
    rows = sl_program.generate_cai_dataset(
        str(red_team), str(few_shots), str(instructions), 3, 2, 1, str(output), config, template, False
    )
    assert rows == lines(output)
    assert len(rows) == 3
    samples = sl_program.generate_cai_batch_sample(
        ["Why?"], str(few_shots), "Criticise.", ["Revise."], config, template, False
    )
    assert samples[0]["critique_prompt"] == "Criticise."
    assert samples[0]["initial_response"].startswith("answer ")
    blended = tmp_path / "f" / "blended.jsonl"
    sl_program.blend_cai_sft_dataset(str(helpful), str(output), str(blended), str(tmp_path / "f" / "s.json"))
    assert sorted(map(str, lines(blended))) == sorted(map(str, [*rows, *lines(helpful)]))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--batch_size", "129"], "--batch_size 129: a request holds 1 to 128"),
        (["--temperature", "0"], "--temperature 0.0: a temperature must be above 0 and at most 100"),
        (["--temperature", "200"], "at most 100"),
        (["--max-seq-length", "64"], "--tokenizer-model"),
        (["--validation-split", "0.5"], "--validation-output-filepath"),
        (["--num-examples", "0"], "--num-examples 0"),
        (["--greedy", "perhaps"], "True or False is wanted"),
        (["--user_format", "no place"], "--user_format must hold {MESSAGE} exactly once"),
        (["--few-shot-prompts-dataset-path", "ODD"], "sample 1: 3 turns; the number must be even"),
        (["--few-shot-prompts-dataset-path", "ROLES"], "sample 1, turn 2: \"role\" is 'Judge', Assistant is wanted"),
        (["--red-teaming-prompts-dataset-path", "missing.jsonl"], "missing.jsonl: no such file"),
        (["--red-teaming-prompts-dataset-path", "EMPTY"], "the file is empty"),
        (["--red-teaming-prompts-dataset-path", "BROKEN"], "broken.jsonl:7: not JSON"),
        (
            ["--red-teaming-prompts-dataset-path", "NO_HUMAN"],
            "no_human.jsonl:2: the field \"transcript\" has no 'Human:'",
        ),
    ],
)
def test_sl_wrong_input_gets_a_sentence(
    stub: Stub, red_team: Path, tmp_path: Path, flags: list[str], sentence: str
) -> None:
    good = json.dumps({"transcript": "\n\nHuman: Q?\n\nAssistant: A."}) + "\n"
    turns = [{"role": role, "content": "x"} for role in ("User", "Assistant", "User")]
    files = {
        "ODD": ("odd.json", json.dumps({"samples": [turns]})),
        "ROLES": ("roles.json", json.dumps({"samples": [[turns[0], {"role": "Judge", "content": "x"}]]})),
        "EMPTY": ("empty.jsonl", ""),
        "BROKEN": ("broken.jsonl", good * 6 + '{"transcript": \n'),
        "NO_HUMAN": ("no_human.jsonl", good + json.dumps({"transcript": "Assistant: A."}) + "\n"),
    }
    for name, text in files.values():
        (tmp_path / name).write_text(text)
    flags = [str(tmp_path / files[flag][0]) if flag in files else flag for flag in flags]
    with pytest.raises(InputError) as problem:
        sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", *flags))
    assert sentence in str(problem.value)
    assert not stub.bodies
    assert not (tmp_path / "x.jsonl").exists()
