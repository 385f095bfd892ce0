from pathlib import Path

import pytest
import yaml

from cai_jobs.contract.program import InputError
from cai_jobs.generation import card
from cai_jobs.generation.card import Card, Source


def test_a_card_is_what_went_in_and_what_is_there(tmp_path: Path) -> None:
    source = tmp_path / "red.jsonl"
    source.write_text("abc")
    path = tmp_path / "out" / "README.md"
    about = Card(
        "A set",
        "How it came about.",
        {"default": {"train": "t.jsonl", "validation": "v.jsonl"}},
        [Source("redTeam", source, 3, "MIT | or so")],
        {"rows": 5, "Principles": {"theft": 2}, "Nothing": {}},
        {"requests": source},
        {"seed": 1, "end strings": ["a\nb"]},
    )
    card.write(path, about)
    text = path.read_text()
    _, front, body = text.split("---\n", 2)
    files = [{"split": "train", "path": "t.jsonl"}, {"split": "validation", "path": "v.jsonl"}]
    assert yaml.safe_load(front) == {"configs": [{"config_name": "default", "data_files": files}]}
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for line in (
        "# A set",
        f"| redTeam | red.jsonl | 3 | MIT \\| or so | `{digest}` |",
        "| rows | 5 |",
        "### Principles\n\n| what | number |\n| --- | --- |\n| theft | 2 |",
        f"| requests | red.jsonl | `{digest}` |",
        "| seed | 1 |",
    ):
        assert line in body, line
    assert "Nothing" not in body
    assert str(tmp_path) not in text


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    about = Card("t", "s", {}, [Source("redTeam", tmp_path / "gone", 1)], {})
    with pytest.raises(InputError, match=r"gone: cannot be read"):
        card.render(about)


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\npretty_name: x\nlicense:\n- mit\n- cc-by-4.0\n---\ntext", "mit, cc-by-4.0"),
        ("---\npretty_name: x\n---\n", card.UNKNOWN_LICENCE),
        ("license: mit", card.UNKNOWN_LICENCE),
        ("---\nlicense: mit", card.UNKNOWN_LICENCE),
        (None, card.UNKNOWN_LICENCE),
    ],
)
def test_licences_are_found_in_the_card_beside_a_source(tmp_path: Path, readme: str | None, licence: str) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    paths = {"a": tmp_path / "a.jsonl"}
    assert card.licences([], paths) == {"a": licence}
    assert card.licences(["a = Apache-2.0 "], paths) == {"a": "Apache-2.0"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["MIT"], "NAME=TEXT is wanted, such as a=MIT"),
        (["a="], "NAME=TEXT is wanted"),
        (["b=MIT"], "no source 'b'; there are a"),
        (["a=MIT", "a=GPL"], "a has a licence already, 'MIT'"),
    ],
)
def test_wrong_licences(tmp_path: Path, given: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as problem:
        card.licences(given, {"a": tmp_path / "a.jsonl"})
    assert sentence in str(problem.value)


def test_a_broken_card_beside_a_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    with pytest.raises(InputError, match=r"README\.md: its front matter is not YAML"):
        card.licences([], {"a": tmp_path / "a.jsonl"})
