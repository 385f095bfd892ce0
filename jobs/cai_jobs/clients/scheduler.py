"""What a model server is asked when, by which replica, and what becomes of requests that fail or are refused.

Waiting sentences that may go together are put into requests of up to `batch_size`. A full request leaves as soon as a
replica has room. A smaller one leaves when a replica has nothing to do and nothing was asked for a while: a server that
is busy would not be done sooner by it, and by then there may be more. A server that continues batches takes new
sentences as others end: there, a smaller one leaves at once as long as the server may have slots to fill.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from cai_jobs.clients.protocols import STRING_STATUS, Ask, Body, Refused, Wire
from cai_jobs.clients.remote import SUSPECT_FAILURES, RefusedError, TryAgainError, alone, encode
from cai_jobs.clients.replicas import Replica, Replicas
from cai_jobs.contract.program import InputError

# what may be wrong with a row; any other refusal is about the settings
ROW_REFUSALS = frozenset({STRING_STATUS, 400, 413, 422, 500})
REFUSALS_BEFORE_GIVING_UP = 64
# a string may be the reference's word for a failure of the moment, so it is believed when it comes again
STRINGS_BELIEVED, STRINGS_BEFORE_HALVING, STRING_WAIT_S = 6, 2, 0.2
# how long nothing may be asked before a request leaves that is not full: time enough for rows to take an answer and
# ask on, and no more than this share of the time a request takes; rows that trickle in are waited for ten times that
QUIET_S, QUIET_SHARE, MOST_QUIETS = 0.003, 0.01, 10
# sentences of a group wait for its longest: so many times its slots keep a server that continues batches full
SENTENCES_A_SLOT = 4
# so many requests of a size none of which was answered: the server takes fewer sentences a request
OVERSIZED = 3


@dataclass(eq=False, slots=True)
class Request:
    """Sentences that are sent together.

    Attributes:
        strings: how often it was refused by a bare string.
        suspected: how often it failed as if by itself.
        answers: how many the servers had given when it, or what it is a part of, was first sent.
    """

    asks: Sequence[Ask]
    temperature: float | None
    strings: int = 0
    suspected: int = 0
    answers: int | None = None


class Scheduler:
    """Sends requests to replicas.

    Args:
        wire: the servers' protocol.
        batch_size: most sentences a request.
        in_flight: most requests a replica.
        divisible: whether a sentence's answer does not depend on the request it is in.
        slots: how many sentences a replica works on at once, if it continues batches and takes several a request.

    Attributes:
        answered: requests answered so far.
        sentences: in these.
        tokens: in these, None where the servers do not tell.
    """

    def __init__(
        self,
        replicas: Replicas,
        wire: Wire,
        batch_size: int,
        in_flight: int,
        divisible: bool,
        slots: int | None = None,
    ) -> None:
        self.replicas, self.batch_size, self.in_flight = replicas, batch_size, in_flight
        self.answered, self.sentences = 0, 0
        self.tokens: int | None = None
        self._wire, self._divisible, self._slots = wire, divisible, slots
        self._most_sentences = batch_size * in_flight if slots is None else SENTENCES_A_SLOT * slots
        self._largest_answered = self._oversized = 0
        self._waiting: dict[tuple[float | None, Hashable], deque[Ask]] = {}
        self._ready: deque[Request] = deque()
        self._unsettled: set[Ask] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._broken: Exception | None = None
        self._refused = 0
        self._asked = self._asked_then = 0
        self._timer: asyncio.TimerHandle | None = None
        self._incomplete_since: float | None = None
        self._took_s = 0.0
        self._sending = False
        replicas.changed = self._send

    @property
    def capacity(self) -> int:
        """Sentences that can be in work at once over all replicas."""
        return min(self.batch_size * self.in_flight, self._most_sentences) * len(self.replicas.all)

    def ask_together(self, asks: Sequence[Ask], temperature: float | None) -> None:
        """Have a request of just these sentences sent; each ask's future gets its answer or Refused.

        Raises:
            InputError, RetryableError: what ended the work before.
        """
        self._expect(asks)
        self._ready.append(Request(asks, temperature))
        self._send()

    def ask(self, asks: Sequence[Ask], temperature: float | None, kind: Hashable) -> None:
        """Have sentences sent in whatever requests they fit; only those of one kind and temperature go together.

        Raises:
            InputError, RetryableError: what ended the work before.
        """
        self._expect(asks)
        key = (temperature, kind)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
        waiting.extend(asks)
        self._send_soon()

    async def close(self) -> None:
        """Give up what is still asked for and close the connections."""
        self._break(RuntimeError("the client of the inference server is closed"))
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.replicas.close()

    def _expect(self, asks: Sequence[Ask]) -> None:
        if self._broken is not None:
            raise self._broken
        self._asked += len(asks)
        self._unsettled.update(asks)

    def _send(self) -> None:
        """Send what can be sent now, and see that the rest is looked at again."""
        if self._broken is not None:
            return
        now = time.monotonic()
        while (key := self._oldest(self._least(now))) is not None or self._ready:
            replica = self.replicas.free(self.in_flight, now)
            if replica is None:
                self._look_again(self.replicas.rest_s(now))
                return
            if self._ready:
                self._start(self._ready.popleft(), replica)
            elif key is not None:
                self._start(self._take(key, self.batch_size), replica)
        if any(self._waiting.values()):
            self._look_again(self._quiet_s() if self.replicas.idle(now) else self.replicas.rest_s(now))

    def _send_soon(self) -> None:
        """Send once all that is ready to run now has had its turn, so that what is asked for in a row goes together."""
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send_now)

    def _send_now(self) -> None:
        self._sending = False
        try:
            self._send()
        except Exception as problem:  # whatever it is, rows wait for these answers
            self._break(problem)

    def _least(self, now: float) -> int:
        """How many sentences must wait for a request to leave."""
        if self._slots is None or self.batch_size == 1:
            return self.batch_size
        fewest = min((each.sentences for each in self.replicas.all if each.may_be_asked(now)), default=0)
        if fewest < self._slots:
            return 1
        return self.batch_size if fewest < self._most_sentences else sys.maxsize

    def _oldest(self, least: int) -> tuple[float | None, Hashable] | None:
        """Of the kinds with at least so many sentences, the one that waits for longest."""
        found, number = None, 0
        for key, asks in self._waiting.items():
            if len(asks) >= least and (found is None or asks[0].number < number):
                found, number = key, asks[0].number
        return found

    def _quiet_s(self) -> float:
        return max(QUIET_S, QUIET_SHARE * self._took_s)

    def _look_again(self, delay_s: float | None) -> None:
        """In so many seconds at the latest; None: when a request is over."""
        if delay_s is None:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay_s:
                return
            self._timer.cancel()
        self._asked_then = self._asked
        self._timer = loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        if self._incomplete_since is None:
            self._incomplete_since = now
        if self._asked == self._asked_then or now - self._incomplete_since > MOST_QUIETS * self._quiet_s():
            self._send_incomplete()
        self._send()

    def _send_incomplete(self) -> None:
        """Give every idle replica its share of what waits."""
        now = time.monotonic()
        while (idle := self.replicas.idle(now)) and not self._ready:
            key, replica = self._oldest(1), self.replicas.free(1, now)
            if key is None or replica is None:
                return
            share = -(-sum(map(len, self._waiting.values())) // idle)
            self._start(self._take(key, min(share, self.batch_size)), replica)

    def _take(self, key: tuple[float | None, Hashable], count: int) -> Request:
        asks = self._waiting[key]
        return Request([asks.popleft() for _ in range(min(count, len(asks)))], key[0])

    def _start(self, request: Request, replica: Replica) -> None:
        self._incomplete_since = None
        if request.answers is None:
            request.answers = self.replicas.patience.answers
        replica.begin()
        replica.sentences += len(request.asks)
        task = asyncio.get_running_loop().create_task(self._serve(request, replica))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, request: Request, replica: Replica) -> None:
        begun = time.monotonic()
        try:
            body = self._wire.body(request.asks, request.temperature)
            try:
                value = await replica.remote.attempt(self._wire.method, self._wire.path, encode(body))
                answers, tokens = self._wire.read(value, request.asks)
            except TryAgainError as failure:
                self._failed(request, replica, failure)
            except RefusedError as refusal:
                self.replicas.answered(replica)
                self._refuse(request, refusal, body)
            else:
                self.replicas.answered(replica)
                self._took_s = time.monotonic() - begun
                self.answered += 1
                self.sentences += len(answers)
                self._largest_answered = max(self._largest_answered, len(answers))
                if tokens is not None:
                    self.tokens = (self.tokens or 0) + tokens
                for ask, answer in zip(request.asks, answers, strict=True):
                    self._settle(ask, answer)
        except Exception as problem:  # whatever it is, rows wait for these answers
            self._break(problem)
        finally:
            replica.end()
            replica.sentences -= len(request.asks)
        self._send_soon()

    def _failed(self, request: Request, replica: Replica, failure: TryAgainError) -> None:
        request.suspected += failure.suspect
        self.replicas.failed(replica, failure)
        # halves tell sooner than other requests whether it is something in this one
        divide = self._divisible and len(request.asks) > 1 and request.suspected >= SUSPECT_FAILURES
        if divide or self.replicas.patience.blames(request.suspected, request.answers or 0):
            self._refuse(request, alone(f"{self.replicas.what} {replica.remote.base}", failure), {})
        else:
            self._ready.appendleft(request)

    def _refuse(self, request: Request, refusal: RefusedError, body: Body) -> None:
        """Ask again what may go now, without a field or in halves; a sentence alone is the one that is refused."""
        if self._wire.leaves_out(refusal, body):
            self._ready.append(request)
            return
        self._learn_size(len(request.asks))
        if refusal.status not in ROW_REFUSALS:
            hint = "; see that --host and --port are an inference server's" if refusal.status in (404, 405) else ""
            raise InputError(f"{refusal}{hint}")
        if self._refused >= REFUSALS_BEFORE_GIVING_UP and self.answered == 0:
            raise InputError(f"{refusal}; so were all {self._refused} requests so far")
        string = refusal.status == STRING_STATUS
        request.strings += string
        halves = len(request.asks) > 1
        enough = STRINGS_BEFORE_HALVING if halves and self._divisible else STRINGS_BELIEVED
        if string and request.strings < enough:
            asyncio.get_running_loop().call_later(STRING_WAIT_S * request.strings, self._again, request)
        elif halves:
            half = len(request.asks) // 2
            for part in (request.asks[:half], request.asks[half:]):
                # a part of what failed again and again is believed sooner to do the same, but not a last sentence
                suspected = max(0, request.suspected - 3) if len(part) > 1 else 0
                self._ready.append(Request(part, request.temperature, suspected=suspected, answers=request.answers))
        else:
            self._settle(request.asks[0], Refused(refusal.reason))

    def _learn_size(self, refused: int) -> None:
        """Note that so many sentences were refused: maybe the server takes no list of them, or a shorter one."""
        if self._slots is None or refused == 1:
            self._refused += 1
        elif refused > self._largest_answered:
            self._oversized += 1
            if self._oversized >= OVERSIZED:
                self.batch_size, self._oversized = min(self.batch_size, refused // 2), 0

    def _again(self, request: Request) -> None:
        self._ready.append(request)
        self._send()

    def _settle(self, ask: Ask, answer: str | Refused) -> None:
        self._unsettled.discard(ask)
        if not ask.answer.done():  # its row may have been cancelled
            ask.answer.set_result(answer)

    def _break(self, problem: Exception) -> None:
        """Fail every sentence not answered so far, and whatever is asked later."""
        self._broken = self._broken or problem
        self._ready.clear()
        self._waiting.clear()
        for ask in self._unsettled:
            if not ask.answer.done():
                ask.answer.set_exception(self._broken)
                ask.answer.exception()  # its row may not be there to hear it
        self._unsettled.clear()
