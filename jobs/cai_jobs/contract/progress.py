"""Progress a person or the operator can read: a bar on a terminal, JSON lines everywhere else."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

LINE_INTERVAL_S = 1.0
RATE_WINDOW_S = 30.0
ETA_UNITS, ETA_SHARE = 3, 0.01


class Progress:
    """Report work done out of a total.

    On a terminal a bar; otherwise at most one line a second on stdout,
    `{"progress": {"done", "total", "unit", "eta_s", "metrics"}}`, the first and the last always. Among the metrics are
    the rates of the last half minute, `<unit>_per_s` and `<counter>_per_s`.

    Args:
        total: how many units there are, or None where that is not known.
        unit: what is counted, in the plural ("rows", "steps").
        title: what the bar is called.
        mode: the value of --progress: auto, bar, json or none.
        done: units found done already (a resumed journal); neither rates nor the ETA count them.
    """

    def __init__(self, total: int | None, unit: str, title: str, mode: str = "auto", done: int = 0) -> None:
        self.total, self.unit, self.done = total, unit, done
        self._found, self._started, self._printed = done, time.monotonic(), 0.0
        self._first: tuple[float, int] | None = None
        self._metrics: dict[str, float] = {}
        self._counters: dict[str, float] = {}
        self._samples: deque[tuple[float, dict[str, float]]] = deque([(self._started, {unit: 0.0})])
        self._mode = ("bar" if sys.stdout.isatty() else "json") if mode == "auto" else mode
        self._bar = None
        if self._mode == "bar":
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit=f" {unit}", desc=title, dynamic_ncols=True)

    def __enter__(self) -> Self:
        self.advance(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._print(time.monotonic(), force=True)

    def advance(
        self,
        count: int = 1,
        metrics: Mapping[str, float] | None = None,
        counters: Mapping[str, float] | None = None,
    ) -> None:
        """Count `count` more units as done.

        Args:
            metrics: shown as they are, and kept until replaced.
            counters: running totals of this process ("tokens"), shown as `<name>_per_s`.
        """
        now = time.monotonic()
        self.done += count
        if count > 0 and self._first is None:
            self._first = now, self.done
        self._metrics.update(metrics or {})
        self._counters.update(counters or {})
        self._sample(now)
        if self._bar is None:
            self._print(now, force=False)
            return
        self._bar.update(count)
        # the bar itself has the unit's rate
        shown = {name: value for name, value in self._figures().items() if name != f"{self.unit}_per_s"}
        refresh = now - self._printed >= LINE_INTERVAL_S  # the bar itself waits for units
        self._printed = now if refresh else self._printed
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()}, refresh=refresh)

    def rates(self) -> dict[str, float]:
        """`<name>_per_s` of the unit and every counter over the last half minute; empty before there is a pace."""
        (start, before), (end, now) = self._samples[0], self._samples[-1]
        if end - start < LINE_INTERVAL_S:
            return {}
        return {f"{name}_per_s": (value - before.get(name, 0.0)) / (end - start) for name, value in now.items()}

    def eta_seconds(self) -> float | None:
        """Seconds until done, at the pace since the first unit was; None before that can be told.

        The first unit measures how long one takes, not how many come after each other: where many are in work at once
        it is followed by the others closely. So there is no ETA before 3 units and 1 % of the work are done, and as
        much time again as the first one took has passed.
        """
        if self.total is None or self._first is None:
            return None
        if self.done >= self.total:
            return 0.0
        now = time.monotonic()
        (first_time, first_done), worked = self._first, self.done - self._found
        since_first = now - first_time
        enough = worked >= max(ETA_UNITS, ETA_SHARE * (self.total - self._found))
        if not enough or self.done == first_done or since_first < first_time - self._started or since_first <= 0:
            return None
        return (self.total - self.done) * since_first / (self.done - first_done)

    def _sample(self, now: float) -> None:
        """Note where the counters stand, at most once a second besides the newest."""
        state = {self.unit: float(self.done - self._found), **self._counters}
        if len(self._samples) > 1 and now - self._samples[-2][0] < LINE_INTERVAL_S:
            self._samples.pop()
        self._samples.append((now, state))
        while now - self._samples[0][0] > RATE_WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()

    def _figures(self) -> dict[str, float]:
        # where there is room for two, a training's loss or a generator's rates are what is looked for
        return {**self.rates(), **self._metrics} if self._counters else {**self._metrics, **self.rates()}

    def _print(self, now: float, force: bool) -> None:
        if self._mode != "json" or (not force and self._printed and now - self._printed < LINE_INTERVAL_S):
            return
        self._printed = now
        eta = self.eta_seconds()
        line = {
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "eta_s": None if eta is None else round(eta, 1),
            "metrics": {name: round(float(value), 6) for name, value in self._figures().items()},
        }
        print(json.dumps({"progress": line}), flush=True)
