"""The nodes of one job: which one this is, and where the first is, as torchrun has it in the environment.

PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT are set by whoever starts a program on several nodes.
"""

from __future__ import annotations

import os
import socket
import time

from cai_jobs.contract.program import InputError, RetryableError

RANK, ADDRESS, PORT = "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"
PATIENCE_S = 600.0
"""How long the other nodes wait for the first one's name: its pod may be created, or scheduled, after theirs."""


def is_first_node() -> bool:
    """Whether this is the first node, or the only one."""
    return os.environ.get(RANK, "0") == "0"


def await_first_node() -> None:
    """Wait until the name of the first node is known.

    Raises:
        InputError: the environment does not say which node this is and where the first is.
        RetryableError: its name does not become known.
    """
    missing = [name for name in (RANK, ADDRESS, PORT) if not os.environ.get(name)]
    if missing:
        raise InputError(f"one of several nodes: the environment variable {', '.join(missing)} is not set")
    address, port = os.environ[ADDRESS], os.environ[PORT]
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.getaddrinfo(address, port)
            return
        except socket.gaierror as problem:
            if time.monotonic() > until:
                raise RetryableError(f"the name of the first node, {address}, is not known: {problem}") from problem
        time.sleep(1.0)
