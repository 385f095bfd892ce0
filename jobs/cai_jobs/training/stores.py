"""The key-value store by which processes find each other, with a torch that was built without libuv."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module

MAKERS = (
    "torch.distributed.rendezvous",
    "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
    "torch.distributed.elastic.rendezvous.static_tcp_rendezvous",
)
"""Modules that make a store."""


def allow_torch_without_libuv() -> None:
    """Make torchrun, and the processes it starts, do without libuv where torch has none, as Debian's 2.6.

    Such a torch still wants it, by default, wherever torchrun or one of its processes makes a store.
    """
    from torch import distributed

    try:
        distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    except RuntimeError as problem:
        if "libuv" not in str(problem):
            raise
        os.environ["USE_LIBUV"] = "0"
        for name in MAKERS:
            # torch.distributed has a function of the name of its module rendezvous
            its = partial(distributed.TCPStore, use_libuv=False)  # type: ignore[attr-defined]
            vars(import_module(name))["TCPStore"] = its
