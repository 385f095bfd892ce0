from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats.comparisons import Pair, read_pairs, read_texts, write_split
from cai_jobs.generation import preferences

SHARES = ({"train": 0.8, "test": 0.2}, {"a": 0.98, "b": 0.01, "c": 0.01}, {"all": 1.0})


def in_memory(prompts: list[str], shares: Mapping[str, float], seed: int, shuffle: bool) -> dict[str, list[int]]:
    """The same split said plainly, for what fits into memory."""
    distinct = list(dict.fromkeys(prompts))
    if shuffle:
        distinct = seeds.shuffled(distinct, seed, "splits")
    ends, reached, start = [], 0.0, 0
    for number, share in enumerate(shares.values(), start=1):
        reached += share
        last = len(distinct) - (len(shares) - number)
        start = len(distinct) if number == len(shares) else min(max(round(reached * len(distinct)), start + 1), last)
        ends.append(start)
    return {
        name: [place for prompt in distinct[begin:end] for place, own in enumerate(prompts) if own == prompt]
        for name, begin, end in zip(shares, [0, *ends], ends, strict=False)
    }


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("shares", SHARES)
def test_splits_share_no_prompt_and_none_is_empty(shuffle: bool, shares: dict[str, float]) -> None:
    prompts = [f"p{number % 7}" for number in range(20)]
    found = preferences.split_by_prompt(iter(prompts), shares, 1, shuffle)
    assert {name: list(places) for name, places in found.items()} == in_memory(prompts, shares, 1, shuffle)
    assert sorted(place for places in found.values() for place in places) == list(range(20))
    own = [{prompts[place] for place in places} for places in found.values()]
    assert all(own)
    assert sum(map(len, own)) == 7


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="1 prompts with a preference are too few for the splits train, test"):
        preferences.split_by_prompt(["p", "p"], SHARES[0], 1, True)


@pytest.mark.parametrize(
    ("pair", "fits"),
    [
        (Pair("ppp", "pppccc", "pppr"), True),
        (Pair("pppp", "ppppc", "ppppr"), False),
        (Pair("p", "pc", "prrrrrr"), False),
    ],
)
def test_long_pairs_and_prompts_do_not_fit(pair: Pair, fits: bool) -> None:
    assert preferences.pair_fits(pair, 6, len) == fits


def test_blending_keeps_pairs_whole_and_leaves_out_what_is_too_long(tmp_path: Path) -> None:
    pairs = [Pair(f"p{n}", f"p{n} good", f"p{n} bad") for n in range(60)]
    long = Pair("q", "q good", "q bad" * 9)
    first = write_split(pairs[:40], tmp_path, "x", "train")
    second = write_split([*pairs[40:], long], tmp_path, "y", "train")
    short: Any = lambda text: len(text) < 20  # noqa: E731
    for seed in (1, 2):
        files = [first["comparisons"], second["comparisons"]]
        assert preferences.blend_comparisons(files, tmp_path / "blend.jsonl", seed, short) == 60
        wanted = [(pair.chosen, pair.rejected) for pair in pairs]
        order = seeds.shuffled(wanted, seed, "blend comparisons", "blend.jsonl")
        assert list(read_pairs(tmp_path / "blend.jsonl")) == order != wanted
        assert preferences.blend_prompts([first["prompts"], second["prompts"]], tmp_path / "p.jsonl", seed, short) == 61
        assert sorted(read_texts(tmp_path / "p.jsonl")) == sorted([*(pair.prompt for pair in pairs), "q"])
