"""The critic as the actor's wrapper sees it: brought to its saved step, waited for, watched, stopped at the end.

The actor itself waits for hours where a critic is gone, and takes whatever critic answers for the one it has taught.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import time
from collections.abc import Callable
from pathlib import Path

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.nemo import checkpoints
from cai_jobs.nemo.unit import Meeting, Order, Seen, State

MODELS = ("critic_infer", "critic_train", "critic_save")
LIVE = "/v2/health/live"
CALL_S = 5.0
LOOK_S = 0.5


class Critic:
    """The critic of one start of the actor.

    Args:
        args: the wrapper's flags: where the critic listens, on how many machines, how long it is waited for.
        partial: the unfinished artifact, in which both have their directories.
    """

    def __init__(self, args: argparse.Namespace, partial: Path) -> None:
        self._args, self._meeting = args, Meeting(partial)
        self._actor_work, self._critic_work = partial / args.work_dir, partial / args.critic_dir
        self._where = f"{args.critic_host}:{args.critic_port}"
        self._serves_since = 0
        self._is_stopped = False
        self._life = ""
        self._answered = self._looked = time.monotonic()

    def settle(self, below: int | None = None) -> int:
        """Let both go on from the newest step that both have saved, which is returned.

        Afterwards the critic is stopped, or serves from that step to no actor so far.

        Args:
            below: from a step before this one, whatever is saved.

        Raises:
            InputError: they have no saved step in common, and did not just save for the first time.
            RetryableError: the critic does not stop, or is not there.
        """
        told: tuple[str, ...] | None = None
        number = 0

        def is_settled() -> bool:
            nonlocal told, number
            seen = self._seen()
            if not seen:
                return False
            if self._is_fresh(seen) and checkpoints.stands_at(self._critic_work, self._common_step(below)):
                return True
            self._is_stopped = told is not None and _all(seen, State.STOPPED, number)
            if not self._is_stopped and told != _lives(seen):
                number, told = self._meeting.give(Order.STOP).number, _lives(seen)
            return self._is_stopped

        self._wait(is_settled, self._args.critic_ready_s, "be there and stop")
        step = self._common_step(below)
        gone = checkpoints.roll_back(self._actor_work, step)
        if self._is_stopped:
            gone += checkpoints.roll_back(self._critic_work, step)
        if gone:
            print(f"actor and critic go on from step {step}, without {', '.join(gone)}", flush=True)
        return step

    def serve(self) -> None:
        """Wait until the critic serves all its models, from the step settled on.

        Raises:
            RetryableError: it does not come.
        """
        if self._is_stopped:
            self._serves_since = self._meeting.give(Order.SERVE).number

        def is_ready() -> bool:
            seen = self._seen()
            if not seen or not _all(seen, State.SERVING, self._serves_since):
                return False
            if self._life != _life(seen):
                # before it can have learnt anything: whoever comes after this process must not take it for fresh
                self._life = _life(seen)
                self._meeting.claim(self._life)
            return all(self._answers(f"/v2/models/{model}/ready") for model in MODELS)

        self._wait(is_ready, self._args.critic_ready_s, f"serve {', '.join(MODELS)}")
        self._answered = time.monotonic()

    def problem(self) -> str | None:
        """Why an actor that runs must be stopped; None as long as the critic is the one it was started with."""
        now = time.monotonic()
        if now - self._looked < self._args.poll_s:
            return None
        self._looked = now
        seen = self._seen()
        if seen and (_life(seen) != self._life or not _all(seen, State.SERVING, 0)):
            return f"the critic at {self._where} was started again, and knows nothing since its last save"
        if self._answers(LIVE):
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered > self._args.critic_gone_s:
            return f"the critic at {self._where} is gone: no answer for {self._args.critic_gone_s:.0f} seconds"
        return None

    def finish(self) -> None:
        """Stop the critic for good, and see that it is saved where the actor is.

        Raises:
            RetryableError: it is saved elsewhere; settled again, both go on from where both are.
        """
        told: tuple[str, ...] | None = None
        number = 0

        def is_stopped() -> bool:
            nonlocal told, number
            seen = self._seen()
            if told is None or (seen and told != _lives(seen)):
                number, told = self._meeting.give(Order.DONE).number, _lives(seen)
            return bool(seen) and _all(seen, State.STOPPED, number)

        try:
            self._wait(is_stopped, self._args.critic_stop_s, "stop")
        except RetryableError as problem:  # gone already, with its machine; what counts is what it has saved
            print(problem, flush=True)
        actor, critic = (max(checkpoints.steps(work), default=0) for work in (self._actor_work, self._critic_work))
        if actor != critic:
            raise RetryableError(
                f"the actor is done and saved at step {actor}, but its critic at step {critic}: nothing is published; "
                f"the same command goes on from step {self._common_step()}, which both have saved"
            )

    def _common_step(self, below: int | None = None) -> int:
        actor, critic = checkpoints.steps(self._actor_work), checkpoints.steps(self._critic_work)
        both = actor & critic
        # a crash at their first save leaves one with that, the other with nothing or with a step of a later life: both
        # learnt nothing before it. Saves older than any start of ours are somebody's, and not ours to remove
        are_first = max(len(actor), len(critic)) <= 1 and bool(self._meeting.claimed())
        if not both and len(actor | critic) > 1 and not are_first:
            raise InputError(
                f"actor and critic have no saved step in common: {_listed(actor)} below {self._actor_work}, "
                f"{_listed(critic)} below {self._critic_work}; put back what is missing, or remove both directories to "
                "begin anew"
            )
        return max((step for step in both if below is None or step < below), default=0)

    def _seen(self) -> tuple[Seen, ...]:
        return self._meeting.critic(self._args.critic_nodes)

    def _is_fresh(self, seen: tuple[Seen, ...]) -> bool:
        """Whether it serves, and no actor was started with it: then it stands where it is saved."""
        claimed = set(self._meeting.claimed().split("+"))
        return _all(seen, State.SERVING, 0) and not claimed & set(_lives(seen))

    def _answers(self, path: str) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(self._args.critic_host, self._args.critic_port, timeout=CALL_S)
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().status == http.client.OK
        return False

    def _wait(self, condition: Callable[[], bool], patience_s: float, what: str) -> None:
        until = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > until:
                raise RetryableError(
                    f"the critic at {self._where} did not {what} in {patience_s:.0f} seconds; its own log says why"
                )
            time.sleep(LOOK_S)


def _all(seen: tuple[Seen, ...], state: State, number: int) -> bool:
    return all(one.state == state and one.obeyed >= number for one in seen)


def _lives(seen: tuple[Seen, ...]) -> tuple[str, ...]:
    return tuple(one.life for one in seen)


def _life(seen: tuple[Seen, ...]) -> str:
    return "+".join(_lives(seen))


def _listed(steps: frozenset[int]) -> str:
    return f"steps {', '.join(map(str, sorted(steps)))}" if steps else "none"
