import hashlib

import pytest

from cai_jobs.contract import seeds


def test_draws_are_what_they_were_in_the_first_version() -> None:
    """A finished journal and a published key rely on them."""
    text = b'[1234,"principle",0,0]'
    assert seeds.draw(1234, "principle", 0, 0) == int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
    assert 0 <= seeds.sampling(1, "response", 5) < 2**31


def test_an_order_is_that_of_the_draws() -> None:
    assert list(seeds.order(9, 3, "x", "y")) == sorted(range(9), key=lambda place: seeds.draw(3, "x", "y", place))
    assert list(seeds.order(0, 3, "x")) == []


def test_shuffling_keeps_every_item_once() -> None:
    items = list(range(50))
    assert sorted(seeds.shuffled(items, 3, "x")) == items
    assert seeds.shuffled(items, 3, "x") == seeds.shuffled(items, 3, "x") != seeds.shuffled(items, 4, "x")


@pytest.mark.parametrize("values", [[], [1], ["a", "ü\ud83d", {"b": 1, "a": [None]}]])
def test_the_digest_of_values_one_by_one_is_that_of_their_list(values: list[object]) -> None:
    assert seeds.digest_all(iter(values)) == seeds.digest(values)


def test_digests_are_what_they_were_in_the_first_version() -> None:
    assert seeds.digest(["é", {"b": 1, "a": 2}]) == hashlib.sha256(b'["\\u00e9",{"a":2,"b":1}]').hexdigest()[:16]
