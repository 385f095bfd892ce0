"""The processes of one stand-in: one, or those that torchrun started on all its machines, joined by torch's gloo.

As with NVIDIA's own, nothing goes on where one of them is missing: whoever calls waits for all others.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import traceback
from datetime import timedelta
from types import TracebackType

PATIENCE = timedelta(minutes=10)


class Group:
    """All processes; `rank` is this one's number, `size` how many there are, `hosts` on how many machines."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.hosts = 1
        if self.size == 1:
            return
        import torch.distributed

        self._torch = torch
        if os.environ.get("USE_LIBUV") == "0":  # asked for all the same where torchrun has made the store
            store = functools.partial(torch.distributed.TCPStore, use_libuv=False)
            sys.modules["torch.distributed.rendezvous"].TCPStore = store
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
        sys.excepthook = _fail
        names = [""] * self.size
        torch.distributed.all_gather_object(names, socket.gethostname())
        self.hosts = len(set(names))
        print(f"rank {self.rank} of {self.size}, on {', '.join(dict.fromkeys(names))}", flush=True)

    @property
    def configuration(self) -> str:
        """What a model's own configuration says of who made it."""
        return f"world_size: {self.size}\nhosts: {self.hosts}\n"

    def total(self, number: int) -> int:
        """The sum over all processes."""
        if self.size == 1:
            return number
        value = self._torch.tensor(number, dtype=self._torch.int64)
        self._torch.distributed.all_reduce(value)
        return int(value)

    def told(self, *words: str) -> tuple[str, ...]:
        """What the first process says; the others' words count for nothing."""
        if self.size == 1:
            return words
        said = [words]
        self._torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def leave(self, together: bool = True) -> None:
        """End well; of several processes once all are here, and at once: gloo may abort or hang as it ends."""
        if self.size > 1:
            if together:
                self.total(1)
            sys.stdout.flush()
            os._exit(0)


def _fail(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, value, trace)
    sys.stderr.flush()
    os._exit(1)
