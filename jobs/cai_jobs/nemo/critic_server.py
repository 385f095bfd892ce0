"""The critic under its wrapper: a server whose program is started anew whenever the actor's wrapper asks for it.

An actor that goes on from its last save needs a critic that does the same; but a critic that runs has learnt since, and
never ends by itself. So the wrapper ends it, with SIGINT, and starts it again, without a new pod: a container
that ends counts as a failure, and waits longer each time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cai_jobs.contract import artifacts
from cai_jobs.contract.peers import RANK
from cai_jobs.nemo import inputs
from cai_jobs.nemo.server import until_ended
from cai_jobs.nemo.unit import Meeting, Order, Ordered, Seen, State

LOOK_S = 0.5
DONE_PATIENCE = 20
"""How much longer silence is borne after the actor was done: it digests and publishes what may be hundreds of GB."""


def serve_actor(args: argparse.Namespace, command: Sequence[str]) -> NoReturn:
    """Serve an actor until this process is asked to stop, which ends it as the exception of that signal does.

    Raises:
        InputError: an input is not whole, or the critic refuses a setting.
        RetryableError: the critic ended by itself.
    """
    inputs.check(args.input, args.check_inputs or "sizes")
    target: Path = args.serves
    partial = target.with_name(target.name + ".partial")
    try:
        _live(args, command, Meeting(partial))
    finally:
        # started once more after the actor had published, or for an actor that had nothing to do: what it has left
        # there goes on nowhere
        if artifacts.read(target) is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _live(args: argparse.Namespace, command: Sequence[str], meeting: Meeting) -> NoReturn:
    """Start the program, and again whenever that is ordered."""
    rank, wrapper = int(os.environ.get(RANK, "0")), f"{socket.gethostname()}-{time.time_ns()}"
    # what was ordered before this start was for an earlier one; the plan waits until this one serves
    order = meeting.order()
    for count in itertools.count(1):
        life = f"{wrapper}.{count}"
        meeting.say(rank, Seen(life, State.SERVING, order.number))
        order = _until_ordered(args, command, meeting, order)
        if order.order != Order.SERVE:
            order = _while_stopped(args, meeting, rank, life, order)
    raise AssertionError("lives are without end")


def _until_ordered(args: argparse.Namespace, command: Sequence[str], meeting: Meeting, obeyed: Ordered) -> Ordered:
    """Run the program until an order comes that is newer than `obeyed`; it is stopped then."""
    found = obeyed

    def has_come() -> bool:
        nonlocal found
        found = meeting.order()
        return found.number > obeyed.number

    until_ended(args, command, has_come)
    return found


def _while_stopped(args: argparse.Namespace, meeting: Meeting, rank: int, life: str, order: Ordered) -> Ordered:
    """Wait, stopped, until it is to serve again: ordered to, or since nobody is there any more to order it.

    Whoever stopped it and died, and will not come back before the critic is ready, must not leave it stopped for ever.
    """
    meeting.say(rank, Seen(life, State.STOPPED, order.number))
    heard, since = meeting.actor(), time.monotonic()
    while True:
        time.sleep(LOOK_S)
        found = meeting.order()
        if found.number > order.number:
            order = found
            if order.order == Order.SERVE:
                return order
            meeting.say(rank, Seen(life, State.STOPPED, order.number))
        beat = meeting.actor()
        if beat != heard:
            heard, since = beat, time.monotonic()
        patience = args.silence_s * (DONE_PATIENCE if order.order == Order.DONE else 1)
        if time.monotonic() - since > patience:
            return order
