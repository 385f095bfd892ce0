"""A spool is a sequence like any other, but for where it is."""

import tracemalloc

import pytest

from cai_jobs.formats.spool import READ_AHEAD, Spool


def test_it_is_the_list_of_its_values() -> None:
    values = ["", "a\nb\r\u2028\0 ü", "\ud83d", {"x": [1, None]}, "y" * (2 * READ_AHEAD), *map(str, range(30_000))]
    spool = Spool(values)
    assert len(spool) == len(values)
    assert list(spool) == values
    assert spool[2:7] == values[2:7]
    assert [spool[place] for place in (0, 3, -1, 4)] == [values[place] for place in (0, 3, -1, 4)]
    with pytest.raises(IndexError):
        spool[len(values)]
    with pytest.raises(IndexError):
        spool[-len(values) - 1]


def test_what_is_added_while_reading_is_read_too() -> None:
    spool = Spool(["a"])
    seen = []
    for value in spool:
        seen.append(value)
        if len(seen) < 4:
            spool.append(value + "a")
    assert seen == ["a", "aa", "aaa", "aaaa"]
    assert list(Spool()) == []


def test_memory_holds_no_values() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        spool = Spool(f"{number} " * 200 for number in range(5_000))
        assert sum(len(value) for value in spool) > 5_000 * 400
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 5_000 * 12 + 100_000
    assert peak - before < 1_500_000
