"""SFT rows: the text and the mask, against lists written by hand from the reference's rules."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats import sft_rows


def row(*turns: tuple[str, str] | tuple[str, str, str], **fields: Any) -> dict[str, Any]:
    conversations = [{"from": t[0], "value": t[1], "label": t[2] if len(t) > 2 else None} for t in turns]
    return {"system": "", "conversations": conversations, "mask": "User", **fields}


class WordTokenizer:
    """One token a word, turn token or newline; ids in order of first appearance, the words kept in `words`."""

    is_fast = True
    name_or_path = "words"

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        assert options["add_special_tokens"] is False
        found = list(re.finditer(r"<extra_id_\d>|\n|[^\s<]+", text))
        for match in found:
            if match.group() not in self.words:
                self.words.append(match.group())
        return {
            "input_ids": [self.words.index(match.group()) for match in found],
            "offset_mapping": [match.span() for match in found],
        }


def words_and_trained(example: dict[str, Any]) -> tuple[list[str], list[str]]:
    tokenizer = WordTokenizer()
    ids, labels = sft_rows.tokenize(example, tokenizer)
    assert all(label in (token, -100) for token, label in zip(ids, labels, strict=True))
    named = ["." if label == -100 else tokenizer.words[label] for label in labels]
    return [tokenizer.words[token] for token in ids], named


def test_one_exchange_trains_the_answer_its_newline_and_the_closing_turn_token() -> None:
    words, trained = words_and_trained(row(("User", "may I"), ("Assistant", "rather not")))
    assert words[:10] == ["<extra_id_0>", "System", "\n", "\n", "<extra_id_1>", "User", "\n", "may", "I", "\n"]
    assert words[10:] == ["<extra_id_1>", "Assistant", "\n", "rather", "not", "\n", "<extra_id_1>"]
    assert trained == ["."] * 13 + ["rather", "not", "\n", "<extra_id_1>"]


def test_the_text_is_the_chat_format() -> None:
    example = row(("User", "may I"), ("Assistant", "rather not"), system="Be kind")
    text = "".join(segment.text for segment in sft_rows.render(example))
    assert text == (
        "<extra_id_0>System\nBe kind\n<extra_id_1>User\nmay I\n<extra_id_1>Assistant\nrather not\n<extra_id_1>"
    )


def test_later_questions_are_masked_but_for_the_turn_token_that_ends_the_answer_before() -> None:
    example = row(("User", "a"), ("Assistant", "b"), ("User", "c"), ("Assistant", "d"))
    words, trained = words_and_trained(example)
    header = ["."] * 4
    first = ["."] * 5  # turn token, User, newline, a, newline
    answer = [".", ".", ".", "b", "\n"]
    question = ["<extra_id_1>", ".", ".", ".", "."]
    last = [".", ".", ".", "d", "\n", "<extra_id_1>"]
    assert trained == header + first + answer + question + last
    assert len(words) == len(trained)


def test_a_dialogue_that_ends_with_a_question_has_no_closing_turn_token() -> None:
    words, trained = words_and_trained(row(("User", "a"), ("Assistant", "b"), ("User", "c")))
    assert words[-5:] == ["<extra_id_1>", "User", "\n", "c", "\n"]
    assert trained[-5:] == ["<extra_id_1>", ".", ".", ".", "."]


def test_the_first_turn_is_context_even_when_the_assistant_speaks_first() -> None:
    _, trained = words_and_trained(row(("Assistant", "hello"), ("User", "a"), ("Assistant", "b")))
    assert trained == ["."] * 4 + ["."] * 5 + ["."] * 5 + [".", ".", ".", "b", "\n", "<extra_id_1>"]


def test_labels_of_an_untyped_row_are_not_laid_out() -> None:
    with_label = row(("User", "a"), ("Assistant", "b", "quality:4"))
    assert sft_rows.render(with_label) == sft_rows.render(row(("User", "a"), ("Assistant", "b")))


def test_value_to_text_puts_the_label_before_the_value_and_does_not_train_it() -> None:
    words, trained = words_and_trained(row(("User", "a"), ("Assistant", "b", "quality:4"), type="VALUE_TO_TEXT"))
    assert words[9:] == [
        "<extra_id_1>",
        "Assistant",
        "\n",
        "<extra_id_2>",
        "quality:4",
        "\n",
        "b",
        "\n",
        "<extra_id_1>",
    ]
    assert trained[9:] == [".", ".", ".", ".", ".", ".", "b", "\n", "<extra_id_1>"]


def test_text_to_value_trains_the_label_alone() -> None:
    words, trained = words_and_trained(row(("User", "a"), ("Assistant", "b", "quality:4"), type="TEXT_TO_VALUE"))
    assert words[9:] == [
        "<extra_id_1>",
        "Assistant",
        "\n",
        "b",
        "\n",
        "<extra_id_2>",
        "quality:4",
        "\n",
        "<extra_id_1>",
    ]
    assert trained[9:] == [".", ".", ".", ".", ".", ".", "quality:4", "\n", "<extra_id_1>"]


def test_text_to_value_trains_the_turn_token_of_a_second_turn_of_the_masked_role() -> None:
    example = row(("Assistant", "b", "quality:4"), ("User", "a"), type="TEXT_TO_VALUE")
    _, trained = words_and_trained(example)
    assert trained[4:] == [".", ".", ".", ".", ".", ".", "quality:4", "\n", "<extra_id_1>", ".", ".", ".", "."]


def test_a_token_that_spans_a_border_belongs_to_the_stretch_it_starts_in() -> None:
    class Merging(WordTokenizer):
        def __call__(self, text: str, **options: Any) -> dict[str, Any]:
            spans = [match.span() for match in re.finditer(r"\n+|[^\n]+", text)]
            return {"input_ids": list(range(len(spans))), "offset_mapping": spans}

    # the answer starts with a newline, which merges with the role name's
    ids, labels = sft_rows.tokenize(row(("User", "a"), ("Assistant", "\nb")), Merging())
    text = "".join(segment.text for segment in sft_rows.render(row(("User", "a"), ("Assistant", "\nb"))))
    assert re.findall(r"\n+|[^\n]+", text)[-4:] == ["\n\n", "b", "\n", "<extra_id_1>"]
    assert labels == [-100] * (len(ids) - 3) + ids[-3:]


def test_a_slow_tokenizer_is_refused() -> None:
    tokenizer = WordTokenizer()
    tokenizer.is_fast = False  # type: ignore[misc]
    with pytest.raises(InputError, match="words: this tokenizer has no tokenizer"):
        sft_rows.tokenize(row(("User", "a"), ("Assistant", "b")), tokenizer)


GOOD = row(("User", "a"), ("Assistant", "b"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"system": None}, 'f:7: "system" must be text, it is None'),
        ({"mask": 3}, 'f:7: "mask" must be text, it is 3'),
        ({"type": "LABEL"}, "f:7: \"type\" is 'LABEL'"),
        ({"conversations": []}, 'f:7: "conversations" must be a list of at least one turn'),
        ({"conversations": "a"}, 'f:7: "conversations" must be a list'),
        ({"conversations": ["a"]}, "f:7: turn 1: an object"),
        ({"conversations": [{"from": "User"}]}, 'f:7: turn 1: "value" must be text, it is missing'),
        ({"conversations": [{"from": "User", "value": "a", "label": 4}]}, 'f:7: turn 1: "label" must be text or null'),
        ({"mask": "Human"}, "f:7: \"mask\" is 'Human', but the turns are from Assistant, User"),
        ({"conversations": GOOD["conversations"][:1]}, "f:7: nothing to train on"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_line(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError) as problem:
        sft_rows.validate(GOOD | change, "f:7")
    assert str(problem.value).startswith(complaint)


def test_good_rows_pass() -> None:
    sft_rows.validate(GOOD, "f:1")
    without_defaults = {
        "system": "",
        "conversations": [{"from": "User", "value": "a"}, {"from": "Assistant", "value": "b"}],
    }
    sft_rows.validate(without_defaults, "f:2")
