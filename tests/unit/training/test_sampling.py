"""The order of a training run's rows: every row once an epoch, whole batches, the same again from the same epoch."""

from __future__ import annotations

import pytest

from cai_jobs.training.sampling import WholeBatches


@pytest.mark.parametrize(("rows", "batch", "blank"), [(26, 8, 6), (24, 8, 0), (3, 128, 125)])
def test_every_row_once_and_blank_rows_at_the_end(rows: int, batch: int, blank: int) -> None:
    order = list(WholeBatches(rows, batch, seed=7))
    assert sorted(order[:rows]) == list(range(rows))
    assert order[rows:] == [rows] * blank
    assert len(WholeBatches(rows, batch, seed=7)) == len(order)


def test_epochs_differ_and_come_back() -> None:
    sampler = WholeBatches(26, 8, seed=7)
    first, second = list(sampler), list(sampler)
    assert first != second
    resumed = WholeBatches(26, 8, seed=7)
    resumed.set_epoch(1)
    assert list(resumed) == second
    assert list(WholeBatches(26, 8, seed=8)) != first
