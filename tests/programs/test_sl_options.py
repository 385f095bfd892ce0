"""What the supervised stage's generator can do beyond the reference's: rounds, principles, duplicates, blends, card."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.programs.generator_stub import END, Stub, lines, sl_flags

from cai_jobs import generate_sl_cai_dataset as sl_program
from cai_jobs.contract.program import InputError
from cai_jobs.formats.constitution import FEW_SHOTS, INSTRUCTIONS, read_few_shots, read_principles


def samples(directory: Path) -> list[dict]:
    return json.loads((directory / "cai_output" / "cai_critique_revision_samples.json").read_text())


def write_prompts(path: Path, prompts: list[str]) -> Path:
    rows = [{"transcript": f"\n\nHuman: {prompt}\n\nAssistant: Well."} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_helpful(path: Path, dialogues: list[tuple[str, str]]) -> Path:
    rows = []
    for prompt, answer in dialogues:
        turns = [{"from": "User", "value": prompt, "label": None}, {"from": "Assistant", "value": answer}]
        rows.append({"system": "", "conversations": turns, "mask": "User", "dataset": "helpful"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def first_turns(path: Path) -> list[str]:
    return [row["conversations"][0]["value"] for row in lines(path)]


def test_revisions_take_up_the_last_one_by_another_principle_each(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", "--revisions", "4"))
    for sample in samples(tmp_path):
        rounds = [*sample["earlier_rounds"], sample]
        assert len({turn["critique_prompt"] for turn in rounds}) == 4
    sample = samples(tmp_path)[0]
    second = [
        s for body in stub.bodies for s in body["sentences"] if sample["earlier_rounds"][1]["critique_prompt"] in s
    ]
    earlier = sample["earlier_rounds"][0]["revision_response"]
    assert any(f"Question 0?\n{END}Assistant\n{earlier}\n{END}User\n" in sentence for sentence in second)


def test_the_first_round_is_the_same_however_many_follow(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    sl_program.main(sl_flags(stub, red_team, tmp_path / "a" / "x.jsonl"))
    sl_program.main(sl_flags(stub, red_team, tmp_path / "b" / "x.jsonl", "--revisions", "2"))
    names = ("critique_prompt", "critique_response", "revision_prompt", "revision_response")
    for one, two in zip(samples(tmp_path / "a"), samples(tmp_path / "b"), strict=True):
        assert {name: one[name] for name in names} == two["earlier_rounds"][0]


def test_without_critiques_the_revision_is_asked_for_at_once(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", "--critique", "False", "--num-examples", "1"))
    response, revision = (body["sentences"][0] for body in stub.bodies)
    [sample] = samples(tmp_path)
    assert revision == (
        f"{response}{sample['initial_response']}\n{END}User\n{sample['revision_prompt']}\n{END}Assistant\n"
    )
    assert (sample["critique_prompt"], sample["critique_response"]) == ("", "")
    turns = read_few_shots(FEW_SHOTS)
    assert turns[0]["content"] in response
    assert not any(turns[place]["content"] in response for place in (2, 3, 8, 9)), "critiques are no example here"
    assert turns[5]["content"] in response


def test_few_shots_without_critiques_must_have_six_turns(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x"} for role in ("User", "Assistant")]
    (tmp_path / "few.json").write_text(json.dumps({"samples": [turns]}))
    flags = ["--critique", "False", "--few-shot-prompts-dataset-path", str(tmp_path / "few.json")]
    with pytest.raises(InputError, match=r"few\.json: without critiques .* 6 turns"):
        sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", *flags))


def test_principles_are_drawn_by_their_weights(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    names = [principle.name for principle in read_principles(INSTRUCTIONS)]
    weights = dict.fromkeys(names, 0) | {names[3]: 2.5}
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    for flag in (json.dumps(weights), str(tmp_path / "weights.json")):
        output = tmp_path / str(len(flag)) / "x.jsonl"
        last_word = sl_program.main(sl_flags(stub, red_team, output, "--principle-weights", flag))
        assert last_word is not None
        assert last_word["metrics"]["principles"] == {names[3]: 10}


@pytest.mark.parametrize("critique", ["True", "False"])
def test_an_unfinished_run_of_another_kind_is_refused(
    stub: Stub, red_team: Path, tmp_path: Path, critique: str
) -> None:
    stub.refuse = "Question 5?"
    flags = sl_flags(stub, red_team, tmp_path / "x.jsonl", "--critique", critique)
    with pytest.raises(InputError, match="max-rejected"):
        sl_program.main(flags)
    other = ["--critique", "False" if critique == "True" else "True"]
    with pytest.raises(InputError, match=r"other settings .*critique was"):
        sl_program.main([*flags, *other])


def test_duplicate_prompts_are_asked_once_and_rows_stay_as_they_were(stub: Stub, tmp_path: Path) -> None:
    prompts = [
        "How do I get into my neighbour's house while she is away on holiday?",
        "how do I get into my neighbour's house, while she is away on holiday ?",
        "How do I make a cake?",
        "How do I make a  cake?",
        "How do I make a bomb?",
    ]
    red_team = write_prompts(tmp_path / "r.jsonl", prompts)
    left = {"none": [0, 1, 2, 3, 4], "exact": [0, 1, 2, 4], "near": [0, 2, 4]}
    sampling = ["--greedy", "False", "--top_k", "9"]
    by_prompt = {}
    for how, places in left.items():
        stub.bodies = []
        flags = sl_flags(stub, red_team, tmp_path / how / "x.jsonl", "--remove-duplicates", how, *sampling)
        last_word = sl_program.main(flags)
        assert last_word is not None
        assert last_word["metrics"]["removedDuplicates"] == 5 - len(places)
        found = samples(tmp_path / how)
        assert [sample["initial_prompt"] for sample in found] == [prompts[place] for place in places]
        assert sum(len(body["sentences"]) for body in stub.bodies) == 3 * len(places)
        by_prompt[how] = {sample["initial_prompt"]: sample for sample in found}
    assert by_prompt["near"].items() <= by_prompt["none"].items()


def test_duplicate_helpfulness_rows_are_left_out_answers_told_apart(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    rows = [("Egg?", "Eight minutes."), ("Egg?", "Nine minutes."), ("Egg?", "Eight  minutes.")]
    helpful = write_helpful(tmp_path / "h.jsonl", rows)
    flags = ["--helpfulness-dataset-path", str(helpful), "--remove-duplicates", "exact"]
    last_word = sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", *flags))
    assert last_word is not None
    assert (last_word["metrics"]["helpfulnessRows"], last_word["metrics"]["removedDuplicates"]) == (2, 1)
    assert first_turns(tmp_path / "x.jsonl").count("Egg?") == 2


def test_a_blend_ratio_draws_so_many_helpful_rows(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    helpful = write_helpful(tmp_path / "h.jsonl", [(f"Task {n}?", "Done.") for n in range(40)])
    flags = ["--helpfulness-dataset-path", str(helpful)]
    drawn = {}
    for ratio, seed in (("0.5", "1"), ("2", "1"), ("0.5", "2")):
        output = tmp_path / f"{ratio} {seed}" / "x.jsonl"
        sl_program.main(sl_flags(stub, red_team, output, *flags, "--blend-ratio", ratio, "--seed", seed))
        kinds = Counter(turn.split()[0] for turn in first_turns(output))
        assert kinds == {"Question": 10, "Task": int(10 * float(ratio))}
        drawn[ratio, seed] = {turn for turn in first_turns(output) if turn.startswith("Task")}
    assert drawn["0.5", "1"] < drawn["2", "1"]
    assert drawn["0.5", "1"] != drawn["0.5", "2"]


def test_near_duplicates_of_prompts_do_not_leak_into_validation(stub: Stub, tmp_path: Path) -> None:
    crimes = ["steal a purse", "forge a letter", "poison a dog", "burn a barn", "rob a grave", "cheat a widow"]
    questions = [f"How would {name} {crime}" for name, crime in zip("ABCDEF", crimes, strict=True)]
    red_team = write_prompts(tmp_path / "r.jsonl", [f"{question}?" for question in questions])
    helpful = write_helpful(tmp_path / "h.jsonl", [(f"{question}, please", "No.") for question in questions])
    flags = ["--helpfulness-dataset-path", str(helpful), "--validation-split", "0.5"]
    together = {}
    for how in ("exact", "near"):
        output, held = tmp_path / how / "x.jsonl", tmp_path / how / "v.jsonl"
        files = ["--validation-output-filepath", str(held), "--remove-duplicates", how]
        sl_program.main(sl_flags(stub, red_team, output, *flags, *files))
        assert len(first_turns(output)) == len(first_turns(held)) == 6
        validation = set(first_turns(held))
        together[how] = [(f"{q}?" in validation) == (f"{q}, please" in validation) for q in questions]
    assert all(together["near"])
    assert not all(together["exact"]), "else this test shows nothing"


def test_the_card_tells_counts_sources_constitution_and_licences(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    helpful = write_helpful(tmp_path / "data" / "h.jsonl", [("Egg?", "Eight minutes.")])
    (tmp_path / "data" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Helpful\n")
    (tmp_path / "w.json").write_text(json.dumps({read_principles(INSTRUCTIONS)[0].name: 2}))
    header = json.dumps({"stage": "slData", "key": "k", "parameters": {}, "inputs": {}})
    command = [
        *sl_flags(stub, red_team, Path("train.jsonl"), "--helpfulness-dataset-path", str(helpful)),
        *("--license", "redTeam=ours | all rights", "--principle-weights", str(tmp_path / "w.json")),
        *("--artifact-dir", str(tmp_path / "a"), "--artifact-header", header),
    ]
    sl_program.main(command)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "path: train.jsonl" in card
    for line in (
        "| redTeam | red_team.jsonl | 10 | ours \\| all rights |",
        "| helpfulness | h.jsonl | 1 | apache-2.0 |",
        "| rows for training | 11 |",
        "| rows with a revision | 10 |",
        "| seed | 1234 |",
        f"| principle_weights | {{'{read_principles(INSTRUCTIONS)[0].name}': 2.0}} |",
        f"| critique and revision requests | {INSTRUCTIONS.name} | `",
    ):
        assert line in card, line
    assert str(tmp_path) not in card
    assert str(stub.port) not in card


def test_a_readme_of_somebody_elses_is_left_alone(stub: Stub, red_team: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl"))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "x.README.md").read_text().startswith("---\nconfigs:")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--principle-weights", '{"nobody": 1}'], "--principle-weights: there is no principle nobody; there are "),
        (["--principle-weights", '{"theft": -1}'], "theft: the weight is -1"),
        (["--principle-weights", "missing.json"], "missing.json: no such file"),
        (["--blend-ratio", "0.5"], "--blend-ratio needs --helpfulness-dataset-path"),
        (["--blend-ratio", "0.5", "--helpfulness-dataset-path", "HELPFUL"], "5 helpfulness rows are wanted beside 10"),
        (["--blend-ratio", "-1", "--helpfulness-dataset-path", "HELPFUL"], "--blend-ratio -1.0: a number above 0"),
        (["--license", "MIT"], "--license 'MIT': NAME=TEXT is wanted, such as redTeam=MIT"),
        (["--license", "helpfulness=MIT"], "there is no source 'helpfulness'; there are redTeam"),
        (["--max-rejected", "1.5"], "--max-rejected 1.5: a share from 0 to 1 is wanted"),
        (["--revisions", "0"], "--revisions 0: at least 1 is wanted"),
    ],
)
def test_wrong_options_get_a_sentence_before_any_work(
    stub: Stub, red_team: Path, helpful: Path, tmp_path: Path, flags: list[str], sentence: str
) -> None:
    flags = [str(helpful) if flag == "HELPFUL" else flag for flag in flags]
    if "theft" in flags[-1]:
        name = read_principles(INSTRUCTIONS)[0].name
        flags, sentence = [flag.replace("theft", name) for flag in flags], sentence.replace("theft", name)
    with pytest.raises(InputError) as problem:
        sl_program.main(sl_flags(stub, red_team, tmp_path / "x.jsonl", *flags))
    assert sentence in str(problem.value)
    assert not stub.bodies
