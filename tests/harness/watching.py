"""A watch in a thread of its own that another thread can end at once, and not only when the API server ends it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import httpx

WATCH_S = 60


class Watching:
    """One watch after another, each ended by the API server after WATCH_S seconds, until `end` is called.

    Attributes:
        over: set by `end`.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._socket: socket.socket | None = None

    def events(self, client: httpx.Client, path: str, version: str) -> Iterator[dict[str, Any]]:
        """The events of one watch of `path` from a resourceVersion on; none once it is over.

        Raises:
            httpx.TransportError: the connection broke; `end` breaks it too.
        """
        parameters: Mapping[str, str] = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        with client.stream("GET", path, params=parameters, timeout=2 * WATCH_S) as answer:
            self._socket = answer.extensions["network_stream"].get_extra_info("socket")
            lines = answer.iter_lines()
            # asked after `end` can see the socket, and before each line is waited for
            while not self.over.is_set() and (line := next(lines, "")):
                yield json.loads(line)

    def end(self) -> None:
        """Let the watch that goes on break off, and none begin."""
        self.over.set()
        if self._socket is not None:
            with suppress(OSError):  # closed already
                # the plain socket's: that of TLS would change what the other thread reads with
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
