"""The preference stage's generator against a server whose answers follow from prompt and seed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.programs.generator_stub import END, Stub, best, lines, worst

from cai_jobs import generate_rl_cai_dataset as rl_program
from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.generation import rl_options


def rl_flags(stub: Stub, red_team: Path, directory: Path, *more: str) -> list[str]:
    flags = ["--red-teaming-file-path", str(red_team), "--output-dir", str(directory), "--batch-size", "4"]
    server = ["--host", "127.0.0.1", "--port", str(stub.port), "--retry-budget", "0.3", "--progress", "none"]
    return [*flags, *server, "--ngc-url", f"http://127.0.0.1:{stub.port}/v1/chat/completions", *more]


def test_rl_pairs_splits_blend_and_audit(
    stub: Stub, red_team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGC_API_KEY", "from-the-environment")
    stub.ours = False
    for split in ("train", "test"):
        (tmp_path / f"{split}_p.jsonl").write_text('{"text": "other prompt"}\n')
        (tmp_path / f"{split}_c.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n')
    blend = {
        split: {"prompts": [str(tmp_path / f"{split}_p.jsonl")], "comparisons": [str(tmp_path / f"{split}_c.jsonl")]}
        for split in ("train", "test")
    }
    out = tmp_path / "rl"
    last_word = rl_program.main(rl_flags(stub, red_team, out, "--blend-with", str({"name": "helpful", **blend})))

    candidates = json.loads((out / "cai_candidate_dataset.json").read_text())
    keys = ["prompt", "response_t=0.01", "response_t=0.51", "response_t=1.01", "response_t=1.51"]
    assert [list(sample) for sample in candidates] == [keys] * 10
    preferences = json.loads((out / "cai_preference_dataset.json").read_text())
    for sample in preferences:
        raw = sample["raw"]
        assert set(raw) == {"chosen_response_key", "rejected_response_key", "explanation", "all_responses"}
        assert (
            sample["chosen"] == raw["all_responses"][raw["chosen_response_key"]] == min(raw["all_responses"].values())
        )
        assert sample["rejected"] == max(raw["all_responses"].values())
    prompts = lines(out / "cai_rlaif_train_prompts_with_chat_prompt.jsonl")
    comparisons = lines(out / "cai_rlaif_train_comparisons_with_chat_prompt.jsonl")
    assert (len(prompts), len(comparisons)) == (8, 16)
    asked = {f"<extra_id_0>System\n\n{END}User\n{s['prompt']}\n{END}Assistant\n": s for s in preferences}
    for place, prompt in enumerate(prompts):
        sample = asked[prompt["text"]]
        assert comparisons[2 * place]["text"] == f"{prompt['text']}{sample['chosen']}\n{END}"
        assert comparisons[2 * place + 1]["text"] == f"{prompt['text']}{sample['rejected']}\n{END}"
    blended = lines(out / "blend_helpful_with_cai_rlaif_test_comparisons_with_chat_prompt.jsonl")
    texts = [row["text"] for row in blended]
    assert len(texts) == 6
    assert texts.index("good") + 1 == texts.index("bad")
    assert texts.index("good") % 2 == 0
    assert len(lines(out / "blend_helpful_with_cai_rlaif_test_prompts_with_chat_prompt.jsonl")) == 3
    audit = lines(out / "judge.jsonl")
    assert [row["prompt"] for row in audit] == [f"Question {n}?" for n in range(10)]
    assert len({tuple(row["shown"]) for row in audit}) > 1, "the order shown is shuffled by row"
    assert set(stub.keys) == {"Bearer from-the-environment"}
    assert last_word is not None
    assert last_word["metrics"]["pairs"] == 10
    assert abs(sum(last_word["metrics"]["positionBias"].values()) - 1) < 0.001


def test_rl_repaired_ties_and_undecided_rows(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def judge(candidates: list[str]) -> str:
        key = min(candidates)
        seen[key] = seen.get(key, 0) + 1
        number = list(seen).index(key)
        if number == 0:
            return '{"chosen": 2, "rejected": 2}'
        if number == 1:
            return "I would rather not say."
        if number == 2 and seen[key] == 1:
            return '{"chosen": 1, "rejected": 99}'
        return f"```json\n{{'chosen': '#{best(candidates)}', 'rejected': {worst(candidates)}}}\n``` Since it is kinder."

    stub.judge = judge
    last_word = rl_program.main(rl_flags(stub, red_team, tmp_path, "--judge-concurrency", "1"))
    assert last_word is not None
    found = last_word["metrics"]
    assert {name: found[name] for name in ("pairs", "ties", "undecided", "repaired")} == {
        "pairs": 8,
        "ties": 1,
        "undecided": 1,
        "repaired": 1,
    }
    undecided = [row for row in lines(tmp_path / "judge.jsonl") if row["outcome"] == "undecided"]
    assert undecided[0]["replies"] == ["I would rather not say."] * 2


def test_rl_equal_candidates_are_not_judged(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no preference pair"):
        rl_program.main(rl_flags(stub, red_team, tmp_path, "--temperatures", "1.0"))
    assert not stub.keys


def test_rl_killed_and_run_again_ends_with_the_same_rows(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    rl_program.main(rl_flags(stub, red_team, tmp_path / "calm"))
    stub.delay = 0.05
    command = [sys.executable, "-m", "cai_jobs.generate_rl_cai_dataset", *rl_flags(stub, red_team, tmp_path / "killed")]
    process = subprocess.Popen(command, env={**os.environ, "NGC_API_KEY": "k"})
    journal = tmp_path / "killed" / rl_program.JOURNAL
    deadline = time.monotonic() + 60
    while not (journal.exists() and b"verdict" in journal.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must have been at work still"
    stub.delay, stub.bodies = 0.0, []
    rl_program.main(rl_flags(stub, red_team, tmp_path / "killed"))
    assert len(stub.bodies) < 12
    calm, killed = (sorted(p for p in (tmp_path / name).iterdir()) for name in ("calm", "killed"))
    assert [p.name for p in calm] == [p.name for p in killed]
    assert [p.read_bytes() for p in calm] == [p.read_bytes() for p in killed]


def test_rl_judge_self_and_key_handling(
    stub: Stub, red_team: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rl_program.main(rl_flags(stub, red_team, tmp_path / "self", "--judge", "self"))
    assert set(stub.keys) == {None}
    rl_program.main(rl_flags(stub, red_team, tmp_path / "flag", "--ngc-api-key", "secret"))
    assert "NGC_API_KEY" in capsys.readouterr().err
    assert stub.keys[-1] == "Bearer secret"
    with pytest.raises(InputError, match="NGC_API_KEY"):
        rl_program.main([*rl_flags(stub, red_team, tmp_path / "none"), "--ngc-url", rl_options.DEFAULT_URL])


def test_rl_principle_mode_gives_soft_labels(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    more = ["--judge-mode", "principle", "--comparisons-per-prompt", "all", "--temperatures", "0.5", "1.0", "1.5"]
    last_word = rl_program.main(rl_flags(stub, red_team, tmp_path, *more))
    assert last_word is not None
    found = last_word["metrics"]
    assert (found["pairs"], found["orderAgreement"], found["judgeCalls"]) == (30, 1.0, 60)
    assert found["positionBias"] == {"1": 0.5, "2": 0.5}
    assert sum(counts["pairs"] for counts in found["perPrinciple"].values()) == 30
    assert len(found["perPrinciple"]) > 5
    labels = lines(tmp_path / "cai_rlaif_train_comparisons_soft_labels.jsonl")
    comparisons = lines(tmp_path / "cai_rlaif_train_comparisons_with_chat_prompt.jsonl")
    assert (len(labels), len(comparisons)) == (24, 48)
    assert {round(label["probability"], 6) for label in labels} == {0.8}
    assert {label["principle"] for label in labels} <= set(found["perPrinciple"])
    assert all(chosen["text"] < rejected["text"] for chosen, rejected in zip(*[iter(comparisons)] * 2, strict=True))
    assert len(lines(tmp_path / "cai_rlaif_train_prompts_with_chat_prompt.jsonl")) == 8
    raw = json.loads((tmp_path / "cai_preference_dataset.json").read_text())[0]["raw"]
    assert (round(raw["probability"], 6), len(raw["all_responses"])) == (0.8, 3)
    audit = lines(tmp_path / "judge.jsonl")
    assert len(audit) == 30
    assert all(row["orders"][0]["shown"] == row["orders"][1]["shown"][::-1] for row in audit)


def test_rl_several_judges_vote_each_with_its_own_key(
    stub: Stub, red_team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST_KEY", "one")
    url = f"http://127.0.0.1:{stub.port}"
    judges = [{"url": url, "model": "a", "key_variable": "FIRST_KEY"}, {"url": url, "model": "b"}]
    last_word = rl_program.main(rl_flags(stub, red_team, tmp_path, "--judge-endpoints", json.dumps(judges)))
    assert last_word is not None
    assert (last_word["metrics"]["pairs"], last_word["metrics"]["judgeAgreement"]) == (10, 1.0)
    assert sorted(stub.keys, key=str) == ["Bearer one"] * 10 + [None] * 10
    assert all(set(row["votes"]) == {"a", "b"} for row in lines(tmp_path / "judge.jsonl"))
    assert {label["probability"] for label in lines(tmp_path / "cai_rlaif_train_comparisons_soft_labels.jsonl")} == {1}


def test_rl_a_refused_row_is_listed_and_too_many_end_the_run(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    stub.refuse = "Question 3?"
    with pytest.raises(InputError, match=r"1 of 10 rows are rejected, more than --max-rejected 0\.05 allows"):
        rl_program.main(rl_flags(stub, red_team, tmp_path))
    assert [row["row"] for row in lines(tmp_path / "rejected.jsonl")] == [3]
    last_word = rl_program.main(rl_flags(stub, red_team, tmp_path, "--max-rejected", "0.1"))
    assert last_word is not None
    assert (last_word["metrics"]["rejected"], last_word["metrics"]["pairs"]) == (1, 9)
    (rejected,) = lines(tmp_path / "rejected.jsonl")
    assert (rejected["prompt"], rejected["step"]) == ("Question 3?", "response_t=0.01")
    assert "prompt too long" in rejected["reason"]
    assert json.loads((tmp_path / "cai_candidate_dataset.json").read_text())[3] == {"prompt": "Question 3?"}


def test_rl_journal_of_other_settings_is_refused_by_name(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    stub.judge = lambda _: "I cannot tell."
    flags = rl_flags(stub, red_team, tmp_path)
    with pytest.raises(InputError, match="no preference pair came of 10 prompts"):
        rl_program.main(flags)
    for more, names in (
        (["--seed", "7"], "seed was 1234, now 7"),
        (["--temperatures", "0.5", "1.0"], "temperatures was"),
        (["--ngc-model", "other"], "judge models was"),
        (["--top_k", "7"], "top_k was 50, now 7"),
    ):
        with pytest.raises(InputError, match=names):
            rl_program.main([*flags, *more])


def test_rl_artifact_has_a_card_and_no_journal(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    header = json.dumps({"stage": "rlData", "key": "k", "parameters": {}, "inputs": {}})
    flags = rl_flags(stub, red_team, Path(), "--artifact-dir", str(tmp_path / "k"), "--artifact-header", header)
    rl_program.main([*flags, "--license", "redTeam=MIT"])
    assert sorted(path.name for path in (tmp_path / "k").iterdir()) == [
        "README.md",
        "cai_candidate_dataset.json",
        "cai_preference_dataset.json",
        *(f"cai_rlaif_test_{kind}_with_chat_prompt.jsonl" for kind in ("comparisons", "prompts")),
        *(f"cai_rlaif_train_{kind}_with_chat_prompt.jsonl" for kind in ("comparisons", "prompts")),
        "judge.jsonl",
        "manifest.json",
    ]
    text = (tmp_path / "k" / "README.md").read_text()
    assert "| redTeam | red_team.jsonl | 10 | MIT |" in text
    assert "| preference pairs | 10 |" in text
    assert "retries" not in text


def test_rl_a_broken_file_to_blend_with_is_found_before_any_work(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_text('{"text": "p"}\n{"text": "q"}\n')
    (tmp_path / "odd.jsonl").write_text('{"text": "p"}\n')
    files = {"prompts": [str(tmp_path / "good.jsonl")], "comparisons": [str(tmp_path / "odd.jsonl")]}
    with pytest.raises(InputError, match=r"odd\.jsonl:1"):
        rl_program.main(
            rl_flags(stub, red_team, tmp_path, "--blend-with", str({"name": "x", "train": files, "test": files}))
        )
    assert not stub.bodies


def test_rl_progress_lines_tell_rates_and_retries(
    stub: Stub, red_team: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.failures, stub.delay = [503], 0.25
    flags = rl_flags(stub, red_team, tmp_path, "--progress", "json", "--retry-budget", "60")
    rl_program.main(flags)
    found = [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]
    assert (found[0]["done"], found[-1]["done"], found[-1]["total"], found[-1]["unit"]) == (0, 10, 10, "rows")
    assert {"rows_per_s", "judge_calls_per_s", "retries"} <= set(found[-1]["metrics"])
    assert found[-1]["metrics"]["retries"] == 1
    assert found[-1]["metrics"]["rows_per_s"] > 0


def test_rl_judge_unreachable(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    flags = rl_flags(stub, red_team, tmp_path, "--ngc-url", "http://127.0.0.1:9/v1/chat/completions")
    with pytest.raises(RetryableError, match=r"judge http://127\.0\.0\.1:9/v1 unreachable"):
        rl_program.main(flags)


def test_rl_functions_keep_the_references_signatures(stub: Stub, red_team: Path) -> None:
    config = {"host": "127.0.0.1", "port": stub.port, "temperature": 1.0, "greedy": False, "end_strings": [END]}
    samples = rl_program.generate_cai_rlaif_candidate_dataset(4, [0.01, 1.0], str(red_team), config, {})
    assert list(samples[9]) == ["prompt", "response_t=0.01", "response_t=1.0"]
    url = f"http://127.0.0.1:{stub.port}/v1/chat/completions"
    found = rl_program.generate_ai_preference(samples[0], "key", "Judge kindly.", 1, url, "model")
    assert found is not None
    assert found["chosen"] == min(samples[0]["response_t=0.01"], samples[0]["response_t=1.0"])
    same = {"prompt": "p", "response_t=1": "x", "response_t=2": "x"}
    assert rl_program.generate_ai_preference(same, "key", "Judge kindly.", 1, url, "model") is None


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--splits", "{'train': 0.8, 'test': 0.3}"], "sum to 1.1; they must sum to 1"),
        (["--splits", "train"], "is no dict"),
        (["--blend-with", "{'name': 'x', 'dev': {}}"], "unknown split dev"),
        (["--blend-with", "{'train': {}}"], "'name' must be a name"),
        (["--temperatures", "0.5", "0"], "--temperatures 0.0"),
        (["--temperatures", "0.5", "0.5"], "they must differ"),
        (["--sys-prompt-constitution-file-path", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--max-rejected", "1.5"], "--max-rejected 1.5: a share from 0 to 1"),
        (["--judge-rate", "0"], "--judge-rate 0.0: a number above 0"),
        (["--judge-concurrency", "0"], "--judge-concurrency 0: at least 1"),
        (["--judge-mode", "principle", "--comparisons-per-prompt", "0"], "a number of at least 1 or all"),
        (["--judge-mode", "principle", "--comparison-principles-path", "nowhere.json"], "nowhere.json: no such file"),
        (["--judge-chain-of-thought", "True"], "--judge-chain-of-thought is for --judge-mode principle"),
        (["--comparisons-per-prompt", "all"], "--comparisons-per-prompt is for --judge-mode principle"),
        (["--judge-endpoints", "{}"], "--judge-endpoints: a list of at least one judge"),
        (["--judge-endpoints", "[1"], "--judge-endpoints: not JSON"),
        (["--judge-endpoints", '[{"url": "http://x"}]'], '--judge-endpoints: judge 1: "model" must be text'),
        (["--judge-endpoints", '[{"url": "http://x", "model": "m", "key": "k"}]'], "key_variable is wanted"),
        (
            ["--judge-endpoints", '[{"url": "http://x", "model": "m", "key_variable": "NO_SUCH_KEY"}]'],
            "environment variable NO_SUCH_KEY, which is not set",
        ),
        (["--judge", "self", "--judge-endpoints", '[{"url": "http://x", "model": "m"}]'], "give one of them"),
        (["--license", "nobody=MIT"], "there is no source 'nobody'; there are redTeam"),
    ],
)
def test_rl_wrong_input_gets_a_sentence(
    stub: Stub, red_team: Path, tmp_path: Path, flags: list[str], sentence: str
) -> None:
    with pytest.raises(InputError) as problem:
        rl_program.main(rl_flags(stub, red_team, tmp_path / "out", *flags))
    assert sentence in str(problem.value)
    assert not stub.bodies
