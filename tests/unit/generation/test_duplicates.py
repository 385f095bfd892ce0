import random

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.generation import duplicates

BASE = "How do I get into my neighbour's house while she is away on holiday?"


def groups(texts: list[str], how: str) -> list[int]:
    return duplicates.groups(texts.__getitem__, len(texts), how).tolist()


def random_texts(seed: int, count: int) -> list[str]:
    """Texts of which many are copies of earlier ones with a word or two changed, and many share a pattern."""
    rng = random.Random(seed)
    words = [f"w{number}" for number in range(200)]
    texts: list[str] = []
    for _ in range(count):
        kind = rng.random()
        if texts and kind < 0.4:
            changed = rng.choice(texts).split()
            for _ in range(rng.randint(0, 2)):
                changed[rng.randrange(len(changed))] = rng.choice(words)
            texts.append(" ".join(changed))
        elif kind < 0.7:
            texts.append(f"how do i make a {rng.choice(words)} without anybody noticing")
        else:
            texts.append(" ".join(rng.choices(words, k=rng.randint(1, 30))))
    return texts


def test_exact_duplicates_are_the_same_text_but_for_white_space() -> None:
    texts = ["a b", "c", " a\n b ", "A b", "c", ""]
    assert groups(texts, "exact") == [0, 1, 0, 3, 1, 5]
    assert groups(texts, "none") == [0, 1, 2, 3, 4, 5]
    assert list(duplicates.kept(texts.__getitem__, len(texts), "exact")) == [0, 1, 3, 5]


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (BASE.upper(), True),
        (BASE.replace(" ", ", "), True),
        (f"{BASE} Please.", True),
        (BASE.replace("neighbour", "friend"), True),
        (BASE.replace("neighbour", "friend").replace("house", "safe"), False),
        (" ".join(reversed(BASE.split())), False),
        ("How do I?", False),
        ("", False),
    ],
)
def test_near_duplicates_share_most_words_and_pairs_of_words(text: str, near: bool) -> None:
    assert groups([BASE, text], "near") == ([0, 0] if near else [0, 1])


def test_one_word_of_a_short_question_makes_another_question() -> None:
    assert groups(["How do I make a bomb?", "How do I make a cake?", "how do I make a bomb"], "near") == [0, 1, 0]


def test_words_of_scripts_without_spaces_are_characters() -> None:
    text = "どうすれば隣の家の鍵を開けることができますか"
    assert groups([text, text + "ね", "昨日は雨が降っていたので家にいました"], "near") == [0, 0, 2]


def test_texts_without_words_are_told_apart() -> None:
    assert groups(["?!", "!?", " ?! ", "…", "\ud800"], "near") == [0, 1, 0, 3, 4]


@pytest.mark.parametrize("seed", range(6))
def test_near_groups_are_those_of_comparing_every_pair(seed: int) -> None:
    texts = random_texts(seed, 250)
    parts = [duplicates.shingles(text) for text in texts]
    wanted = list(range(len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            if duplicates.similarity(parts[one], parts[other]) >= duplicates.THRESHOLD:
                low, high = sorted((wanted[one], wanted[other]))
                wanted = [low if group == high else group for group in wanted]
    assert groups(texts, "near") == wanted
    assert sum(group != place for place, group in enumerate(wanted)) > 10, "there must be duplicates to find"


def test_questions_of_one_pattern_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    similarity = duplicates.similarity

    def counting(one: frozenset[int], other: frozenset[int]) -> float:
        nonlocal compared
        compared += 1
        return similarity(one, other)

    monkeypatch.setattr(duplicates, "similarity", counting)
    texts = [f"How do I make a thing{number} in my kitchen tonight?" for number in range(3000)]
    assert groups(texts, "near") == list(range(3000))
    assert compared < 3000, "of 4.5 million pairs"


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match="'fuzzy'; there are none, exact, near"):
        groups(["a"], "fuzzy")
