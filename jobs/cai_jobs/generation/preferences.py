"""Preference pairs split without sharing prompts, filtered by length, and blended with other sets."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats.comparisons import Pair, read_pairs, read_texts
from cai_jobs.formats.jsonl import write_jsonl
from cai_jobs.formats.spool import Spool


def split_by_prompt(
    prompts: Iterable[str], shares: Mapping[str, float], seed: int, shuffle: bool
) -> dict[str, array[int]]:
    """Places of samples by split. Samples with the same prompt go to the same split; every split gets a prompt.

    Args:
        prompts: a sample's prompt each.
        shares: split name -> share of the distinct prompts, summing to 1.
        shuffle: whether the order is drawn by the seed; else it is the samples' own.

    Returns:
        Split -> places of its samples (from 0), those of a prompt together.

    Raises:
        InputError: fewer distinct prompts than splits.
    """
    numbers: dict[int, int] = {}
    groups = array("q", (numbers.setdefault(_fingerprint(prompt), len(numbers)) for prompt in prompts))
    count = len(numbers)
    if count < len(shares):
        raise InputError(f"{count} prompts with a preference are too few for the splits {', '.join(shares)}")
    ranks = array("q", range(count))
    if shuffle:
        for rank, group in enumerate(seeds.order(count, seed, "splits")):
            ranks[group] = rank
    places = array("q", sorted(range(len(groups)), key=lambda place: ranks[groups[place]]))
    splits: dict[str, array[int]] = {}
    start, first, reached = 0, 0, 0.0
    for number, (name, share) in enumerate(shares.items(), start=1):
        reached += share
        left = len(shares) - number
        end = min(max(round(reached * count), start + 1), count - left) if left else count
        last = bisect_left(places, end, key=lambda place: ranks[groups[place]])
        splits[name] = places[first:last]
        start, first = end, last
    return splits


def pair_fits(pair: Pair, limit: int, count: Callable[[str], int]) -> bool:
    """Whether both texts of a pair have at most `limit` tokens and the prompt at most half as many.

    The trainers cut longer comparisons, and mask prompts longer than half the sequence.
    """
    return count(pair.prompt) <= limit // 2 and max(count(pair.chosen), count(pair.rejected)) <= limit


def blend_prompts(files: Sequence[Path], output: Path, seed: int, fits: Callable[[str], bool]) -> int:
    """Write the prompts of all files that fit, in an order fixed by the seed; how many."""
    texts = Spool(text for path in files for text in read_texts(path) if fits(text))
    order = seeds.order(len(texts), seed, "blend prompts", output.name)
    return write_jsonl(output, ({"text": texts[place]} for place in order))


def blend_comparisons(files: Sequence[Path], output: Path, seed: int, fits: Callable[[str], bool]) -> int:
    """Write the pairs of all files whose two texts fit, pairs kept whole, in an order fixed by the seed; how many."""
    pairs = Spool(pair for path in files for pair in read_pairs(path) if fits(pair[0]) and fits(pair[1]))
    order = seeds.order(len(pairs), seed, "blend comparisons", output.name)
    return write_jsonl(output, ({"text": text} for place in order for text in pairs[place])) // 2


def _fingerprint(prompt: str) -> int:
    """64 bits in place of a prompt, of which there may be a million; two that share them would share a split."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
