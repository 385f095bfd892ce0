import gzip
import json
from pathlib import Path

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats import constitution, red_team
from cai_jobs.formats.chat import EXTRA_ID, Template, collate, unescape
from cai_jobs.formats.comparisons import (
    file_name,
    make_pair,
    pairs_of_dialogues,
    parse_dialogue,
    read_pairs,
    write_split,
)

PROMPT = "<extra_id_0>System\n\n<extra_id_1>User\nHi {MESSAGE}\n<extra_id_1>Assistant\n"


def test_the_default_template_lays_a_prompt_out() -> None:
    assert EXTRA_ID.prompt("Hi {MESSAGE}") == PROMPT
    pair = make_pair(EXTRA_ID, [{"role": "User", "content": "Hi {MESSAGE}"}], "good", "bad")
    assert (pair.chosen, pair.rejected) == (f"{PROMPT}good\n<extra_id_1>", f"{PROMPT}bad\n<extra_id_1>")


def test_a_template_without_formats_is_the_bare_text() -> None:
    assert Template(bos_token="<s>").format(
        [{"role": "User", "content": "a"}, {"role": "Assistant", "content": "b"}]
    ) == ("<s>ab")


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        (f"{PROMPT}yes\n<extra_id_1>", "yes"),
        (f"{PROMPT}yes", "yes"),
        (f"{PROMPT}yes\n<extra_id_1>User\nmore\n<extra_id_1>Assistant\nno", "yes"),
        (f" {PROMPT}yes\n<extra_id_1>", "yes"),
        (f"{PROMPT}yes STOP no", "yes"),
        (PROMPT, ""),
    ],
)
def test_answers_are_cut_out_of_sentences(sentence: str, answer: str) -> None:
    assert EXTRA_ID.extract_answer(sentence, PROMPT, ["STOP"]) == answer


def test_a_wrong_extract_pattern_is_named() -> None:
    with pytest.raises(InputError, match=r"--response_extract_pattern '\[/INST\]'"):
        Template(response_extract_pattern="[/INST]").extract_answer("no such thing", None)


def test_wrong_template_options() -> None:
    with pytest.raises(InputError, match="unknown option user"):
        Template.from_config({"user": "x"})
    with pytest.raises(InputError, match="needs --system_format"):
        Template(system_default_message="")


@pytest.mark.parametrize(
    ("shell", "text"),
    [(r"a\nb", "a\nb"), (r"\\n", r"\n"), (r"é\t…\u00e9", "é\t…é"), (r"\d+\x41", r"\d+A"), ("\\", "\\")],
)
def test_shell_escapes(shell: str, text: str) -> None:
    assert unescape(shell) == text


def test_dialogues_of_different_shape_cannot_be_collated() -> None:
    user = {"role": "User", "content": "x"}
    assert collate([[user], [user]]) == [{"role": ["User", "User"], "content": ["x", "x"]}]
    with pytest.raises(InputError, match="same roles"):
        collate([[user], [user, {"role": "Assistant", "content": "y"}]])


def test_red_team_files_are_jsonl_or_arrays_gzipped_or_not(tmp_path: Path) -> None:
    rows = [{"transcript": f"\n\nHuman: Q{n}?\n\nAssistant: A.\n\nHuman: B?", "rating": 1} for n in range(3)]
    texts = {"lines": "".join(json.dumps(row) + "\n" for row in rows), "array": json.dumps(rows, indent=1)}
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for path in sorted(tmp_path.iterdir()):
        assert list(red_team.read_prompts(path)) == ["Q0?", "Q1?", "Q2?"], path.name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "the array is empty"),
        ('[{"transcript": "Human: x Assistant: y"}', "not JSON"),
        ("[5]", "item 1: a JSON object is wanted"),
        ('{"transcript": null}\n', ':1: the field "transcript" must be text, it is missing'),
        ('{"transcript": "Human: x"}\n', "has no 'Assistant:'"),
        ('{"transcript": "Assistant: x Human: y"}\n', "'Assistant:' before 'Human:'"),
        ('{"transcript": "Human: \\n Assistant: y"}\n', "nothing between"),
    ],
)
def test_red_team_complaints(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(InputError) as problem:
        red_team.read_prompts(tmp_path / "r.jsonl")
    assert sentence in str(problem.value)


def test_wrapping_words_are_taken_off_requests(tmp_path: Path) -> None:
    entry = {
        "prompt": ["\n\nCritiqueRequest: Name the harm.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Mend it.\n\nRevision:",
    }
    (tmp_path / "c.json").write_text(
        json.dumps({"harmful0": entry, "harmful1": {"prompt": ["Bare?"], "edit_request": "Bare."}})
    )
    first, second = constitution.read_principles(tmp_path / "c.json")
    assert (first.name, first.critique_request, first.revision_request) == ("harmful0", "Name the harm.", "Mend it.")
    assert (second.critique_request, second.revision_request) == ("Bare?", "Bare.")


def test_our_own_constitution_is_read() -> None:
    assert len(constitution.read_principles(constitution.INSTRUCTIONS)) >= 16
    assert len(constitution.read_few_shots(constitution.FEW_SHOTS)) % 6 == 0
    assert "chosen" in constitution.read_judge_prompt(constitution.JUDGE_PROMPT)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "is wanted"),
        ({"a": {"prompt": "x", "edit_request": "y"}}, 'a: "prompt" must be a list of exactly one'),
        ({"a": {"prompt": ["x"]}}, 'a: "edit_request" must be text, it is missing'),
        ({"a": {"prompt": ["x"], "edit_request": "y", "z": 1}}, "unknown field z"),
    ],
)
def test_constitution_complaints(tmp_path: Path, value: object, sentence: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(InputError) as problem:
        constitution.read_principles(tmp_path / "c.json")
    assert sentence in str(problem.value)


def test_hh_dialogues_of_several_turns() -> None:
    text = "\n\nHuman: A?\n\nAssistant: B.\n\nHuman: C, says Human: x?\n\nAssistant: D.\n\nwith a break"
    turns = parse_dialogue(text)
    assert turns is not None
    assert [turn["content"] for turn in turns] == ["A?", "B.", "C, says Human: x?", "D.\n\nwith a break"]
    assert parse_dialogue(text + "\n\nHuman: ") == turns


@pytest.mark.parametrize(
    "text", ["", "\n\nAssistant: B.", "\n\nHuman: A?", "\n\nHuman: A?\n\nHuman: B?", "x\n\nHuman: A?\n\nAssistant: B."]
)
def test_what_is_no_hh_dialogue(text: str) -> None:
    assert parse_dialogue(text) is None


def test_hh_rows_that_share_no_prompt_are_counted() -> None:
    first = {"chosen": "\n\nHuman: A?\n\nAssistant: B.", "rejected": "\n\nHuman: A?\n\nAssistant: C."}
    other = {"chosen": "\n\nHuman: A?\n\nAssistant: B.", "rejected": "\n\nHuman: Z?\n\nAssistant: C."}
    pairs, left_out = pairs_of_dialogues([("f:1", first), ("f:2", other)], EXTRA_ID)
    assert (len(pairs), left_out) == (1, 1)
    with pytest.raises(InputError, match='f:3: the field "chosen" must be text'):
        pairs_of_dialogues([("f:3", {})], EXTRA_ID)


def test_comparisons_files_are_read_in_pairs(tmp_path: Path) -> None:
    pair = make_pair(EXTRA_ID, [{"role": "User", "content": "Q"}], "good", "bad")
    paths = write_split([pair, pair], tmp_path, "p", "train")
    assert paths["comparisons"].name == "p_train_comparisons_with_chat_prompt.jsonl"
    assert list(read_pairs(paths["comparisons"])) == [(pair.chosen, pair.rejected)] * 2
    assert "\n\n" not in paths["comparisons"].read_text()
    assert file_name(None, "test", "prompts") == "test_prompts_with_chat_prompt.jsonl"
    with paths["comparisons"].open("a") as file:
        file.write('{"text": "odd"}\n')
    with pytest.raises(InputError, match="jsonl:5: the chosen text of this last line"):
        list(read_pairs(paths["comparisons"]))


def test_a_directory_is_read_by_the_library_whose_files_it_holds(tmp_path, monkeypatch):
    from cai_jobs.generation import lengths

    asked = []
    monkeypatch.setattr(lengths, "_sentencepiece", lambda path: asked.append(("sentencepiece", path)))
    monkeypatch.setattr(lengths, "_huggingface", lambda model: asked.append(("huggingface", model)))
    lengths.token_counter(str(tmp_path), None)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    lengths.token_counter(str(tmp_path), None)
    lengths.token_counter(str(tmp_path), "huggingface")
    assert asked == [
        ("huggingface", str(tmp_path)),
        ("sentencepiece", tmp_path / "tokenizer.model"),
        ("huggingface", str(tmp_path)),
    ]
