"""The order in which a training run meets its rows: the same however many processes share them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler


class WholeBatches(Sampler[int]):
    """Rows 0 to rows - 1 in another order each epoch, then row `rows`, a blank one, up to whole global batches.

    Without it an epoch's last step is short, and processes that share it fill it up with rows of its beginning, more of
    them the more processes there are: then each number of processes would train something else.
    """

    def __init__(self, rows: int, global_batch_size: int, seed: int) -> None:
        self._order = SeedableRandomSampler(range(rows), data_seed=seed)
        self._rows, self._blank = rows, -rows % global_batch_size

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's order comes next; called by the data loader."""
        self._order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from repeat(self._rows, self._blank)

    def __len__(self) -> int:
        return self._rows + self._blank
