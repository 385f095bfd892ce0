import gzip
import json
from pathlib import Path

import pytest

from cai_jobs import fetch_datasets, fetch_models
from cai_jobs import process_anthropic_hh_using_chat_prompt as process_hh
from cai_jobs.contract import artifacts
from cai_jobs.contract.program import InputError, RetryableError

HEADER = json.dumps({"stage": "datasets", "key": "k", "parameters": {}, "inputs": {}})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_model(directory: Path, without: str = "") -> Path:
    directory.mkdir(parents=True)
    for name in {"config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "notes.md"} - {without}:
        (directory / name).write_text(name)
    return directory


def write_hh(root: Path) -> Path:
    for folder in ("helpful-base", "helpful-online"):
        (root / folder).mkdir(parents=True)
        for split in ("train", "test"):
            start = f"\n\nHuman: Is it {folder}?\n\nAssistant: Yes.\n\nHuman: Sure of {split}?"
            rows = [
                {"chosen": f"{start}\n\nAssistant: Quite.", "rejected": f"{start}\n\nAssistant: Dunno."},
                {"chosen": start, "rejected": start},
            ]
            with gzip.open(root / folder / f"{split}.jsonl.gz", "wt") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    return root


def test_a_models_files_are_copied_and_links_resolved(tmp_path: Path) -> None:
    source = write_model(tmp_path / "blobs")
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in source.iterdir():
        (linked / path.name).symlink_to(path)
    directory = tmp_path / "models" / "k"
    header = HEADER.replace("datasets", "models")
    command = [
        "--base",
        json.dumps({"path": str(linked)}),
        "--artifact-dir",
        str(directory),
        "--artifact-header",
        header,
    ]
    first = fetch_models.main(command)
    assert sorted(path.name for path in (directory / "base").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert not any(path.is_symlink() for path in directory.rglob("*"))
    assert not (directory / "assistant").exists()
    artifacts.verify(directory)
    assert fetch_models.main(command) == first


def test_an_assistant_of_its_own_stands_beside_the_base(tmp_path: Path) -> None:
    sources = [json.dumps({"path": str(write_model(tmp_path / name))}) for name in ("one", "two")]
    out = tmp_path / "out"
    fetch_models.main(["--base", sources[0], "--assistant", sources[1], "--output-dir", str(out)])
    assert (out / "assistant" / "config.json").is_file()
    fetch_models.main(["--base", sources[0], "--assistant", sources[0], "--output-dir", str(tmp_path / "same")])
    assert not (tmp_path / "same" / "assistant").exists()


@pytest.mark.parametrize(
    ("without", "sentence"),
    [("config.json", "has no config.json"), ("tokenizer.json", "has no tokenizer"), ("notes.md", "")],
)
def test_an_incomplete_model_is_refused(tmp_path: Path, without: str, sentence: str) -> None:
    source = write_model(tmp_path / "m", without)
    command = ["--base", json.dumps({"path": str(source)}), "--output-dir", str(tmp_path / "out")]
    if not sentence:
        fetch_models.main(command)
        return
    with pytest.raises(InputError, match=sentence):
        fetch_models.main(command)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{", "--base: '{' is not JSON"),
        ('{"hub": {}}', "--base: one of"),
        ('{"huggingFace": {"name": "x"}}', '"huggingFace" must be an object with "repo"'),
        (
            '{"huggingFace": {"repo": "a/b", "branch": "x"}}',
            "no field branch; there are dataDirs, repo, revision, split",
        ),
        ('{"path": "/nowhere/at/all"}', "/nowhere/at/all: no such directory"),
        ('{"path": 5}', '"path" must be a path'),
    ],
)
def test_wrong_sources_get_a_sentence(tmp_path: Path, source: str, sentence: str) -> None:
    with pytest.raises(InputError) as problem:
        fetch_models.main(["--base", source, "--output-dir", str(tmp_path)])
    assert sentence in str(problem.value)


def test_a_hub_that_cannot_be_reached_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = json.dumps({"huggingFace": {"repo": "nobody/nothing"}})
    with pytest.raises(RetryableError, match=r"model nobody/nothing: the hub cannot be reached"):
        fetch_models.main(["--base", source, "--output-dir", str(tmp_path)])


def test_hh_dialogues_become_prompts_and_comparisons(tmp_path: Path) -> None:
    root = write_hh(tmp_path / "hh")
    flags = ["--dataset-path", str(root), "--output-dir", str(tmp_path / "out")]
    folders = ["--dataset-dir-name", "helpful-base", "helpful-online", "--output-file-name-prefix", "helpful"]
    last_word = process_hh.main([*flags, *folders])
    assert last_word == {"metrics": {split: {"pairs": 2, "leftOut": 2} for split in ("train", "test")}}
    [first, _] = lines(tmp_path / "out" / "helpful_train_prompts_with_chat_prompt.jsonl")
    assert first["text"] == (
        "<extra_id_0>System\n\n<extra_id_1>User\nIs it helpful-base?\n<extra_id_1>Assistant\nYes.\n"
        "<extra_id_1>User\nSure of train?\n<extra_id_1>Assistant\n"
    )
    comparisons = lines(tmp_path / "out" / "helpful_train_comparisons_with_chat_prompt.jsonl")
    assert [row["text"].removeprefix(first["text"]) for row in comparisons[:2]] == [
        "Quite.\n<extra_id_1>",
        "Dunno.\n<extra_id_1>",
    ]
    process_hh.main(flags)
    assert len(lines(tmp_path / "out" / "anthropic_hh_test_prompts_with_chat_prompt.jsonl")) == 2
    with pytest.raises(InputError, match=r"harmless-base has no train\.jsonl\.gz"):
        process_hh.main([*flags, "--dataset-dir-name", "harmless-base"])


def test_the_three_sets_share_no_held_out_prompt(tmp_path: Path) -> None:
    transcripts = [{"transcript": f"\n\nHuman: Bad {n % 12}?\n\nAssistant: No."} for n in range(30)]
    red_team = tmp_path / "red_team_attempts.jsonl.gz"
    red_team.write_bytes(gzip.compress(json.dumps(transcripts).encode()))
    helpful = tmp_path / "helpful.jsonl"
    rows: list[dict] = [{"prompt": f"Good {n}?", "response": "Yes."} for n in range(8)]
    rows += [{"chosen": "\n\nHuman: Multi?\n\nAssistant: A.\n\nHuman: B?\n\nAssistant: C.", "rejected": "x"}]
    rows += [{"messages": [{"role": "user", "content": "Good 1?"}, {"role": "assistant", "content": "Again."}]}]
    helpful.write_text("".join(json.dumps(row) + "\n" for row in rows))
    preference = write_hh(tmp_path / "hh")
    start = "\n\nHuman: Good {}?\n\nAssistant: "
    with gzip.open(preference / "helpful-base" / "train.jsonl.gz", "at") as file:
        for n in range(8):
            row = {"chosen": start.format(n) + "Yes.", "rejected": start.format(n) + "No."}
            file.write(json.dumps(row) + "\n")
    flags = ["--artifact-dir", str(tmp_path / "a" / "k"), "--artifact-header", HEADER, "--held-out", "3"]
    for flag, path in (("--red-team", red_team), ("--helpfulness", helpful), ("--preference", preference)):
        flags += [flag, json.dumps({"path": str(path)})]
    fetch_datasets.main(flags)

    directory = tmp_path / "a" / "k"
    trained, held = (
        [row["transcript"].split("Human: ")[1].split("\n")[0] for row in lines(directory / f"red_team_{part}.jsonl")]
        for part in ("train", "held_out")
    )
    assert len(held) == len(set(held)) == 3
    assert len(trained) == sum(f"Bad {n % 12}?" not in held for n in range(30))
    assert not set(trained) & set(held)
    benign = [row["prompt"] for row in lines(directory / "benign_held_out.jsonl")]
    helpful_rows = lines(directory / "helpfulness.jsonl")
    firsts = {row["conversations"][0]["value"] for row in helpful_rows}
    assert len(benign) == 3
    assert not set(benign) & firsts
    assert firsts | set(benign) == {"Multi?", *(f"Good {n}?" for n in range(8))}
    assert all(row["mask"] == "User" for row in helpful_rows)
    prompts = [row["text"] for row in lines(directory / "preference_train_prompts_with_chat_prompt.jsonl")]
    assert len(prompts) == 2 + 5
    assert not any(question in prompt for question in benign for prompt in prompts)
    artifacts.verify(directory)


def test_held_out_prompts_follow_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"transcript": f"Human: Q{n}? Assistant: A"}) + "\n" for n in range(40)))
    held = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        source = json.dumps({"path": str(path)})
        out = tmp_path / name
        fetch_datasets.main(["--red-team", source, "--held-out", "5", "--seed", seed, "--output-dir", str(out)])
        held[name] = (out / "red_team_held_out.jsonl").read_text()
    assert held["a"] == held["b"] != held["c"]
    with pytest.raises(InputError, match="40 distinct questions; --held-out 40 would leave none"):
        fetch_datasets.main(["--red-team", json.dumps({"path": str(path)}), "--held-out", "40"])


def test_helpfulness_rows_of_no_known_form_are_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(
        '{"transcript": "Human: Q? Assistant: A"}\n{"transcript": "Human: R? Assistant: A"}\n'
    )
    (tmp_path / "h.jsonl").write_text('{"question": "x"}\n')
    flags = [f"--red-team={json.dumps({'path': str(tmp_path / 'r.jsonl')})}", "--held-out", "1"]
    helpful = f"--helpfulness={json.dumps({'path': str(tmp_path / 'h.jsonl')})}"
    with pytest.raises(InputError, match=r"h\.jsonl:1: no helpfulness row: .*found question"):
        fetch_datasets.main([*flags, helpful, "--output-dir", str(tmp_path / "out")])


def test_pocket_sets_are_whole(tmp_path: Path) -> None:
    pocket = json.dumps({"pocket": {}})
    flags = ["--red-team", pocket, "--helpfulness", pocket, "--preference", pocket, "--held-out", "20"]
    fetch_datasets.main([*flags, "--output-dir", str(tmp_path)])
    preference = {
        f"preference_{s}_{k}_with_chat_prompt.jsonl" for s in ("train", "test") for k in ("prompts", "comparisons")
    }
    names = {"red_team_train.jsonl", "red_team_held_out.jsonl", "helpfulness.jsonl", "benign_held_out.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names | preference
    assert len(lines(tmp_path / "red_team_held_out.jsonl")) == 20
