"""The registry: counters that are added to as things happen, and figures that are made when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric

from cai_operator import __version__
from cai_operator.metrics.api_calls import NO_ANSWER, described
from cai_operator.metrics.catalogue import BY_NAME, FAMILIES, Family, Kind
from cai_operator.metrics.figures import Samples
from cai_operator.metrics.happened import ASKED, DECIDED, FAILURE, JOB_NODES, OUTCOMES, UNDECIDED, Happened

# a series more for each counter, whose beginnings are shown as 0 anyway
disable_created_metrics()  # type: ignore[no-untyped-call]

RESULTS = ("ok", "unavailable", "refused", "overtaken", "error")
Own = Callable[[], Mapping[str, float]]


class Metrics:
    """Everything one operator process counts, and the registry it is read from.

    Attributes:
        registry: what the endpoint shows.
        own: gives the operator's own gauges without labels; set by who has them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.own: Own = dict
        self._clock = clock
        self._figures: Samples = {}
        self._watches: dict[tuple[str, str], float] = {}
        self._engines: set[str] = set()
        self._counters: dict[str, Any] = {
            one.name: self._made(one) for one in FAMILIES if one.kind in (Kind.COUNTER, Kind.HISTOGRAM)
        }
        for result in RESULTS:
            self._counters["cai_reconciles_total"].labels(result)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def _made(self, family: Family) -> Counter | Histogram:
        if family.kind == Kind.COUNTER:
            return Counter(family.name, family.means, family.labels, registry=self.registry)
        return Histogram(family.name, family.means, family.labels, registry=self.registry, buckets=family.buckets)

    def add(self, things: Iterable[Happened]) -> None:
        """Count what happened."""
        for one in things:
            self._engine(one.labels[0])
            counter = self._counters[one.metric].labels(*one.labels)
            if BY_NAME[one.metric].kind == Kind.HISTOGRAM:
                counter.observe(one.value)
            else:
                counter.inc(one.value)

    def add_gpu_seconds(self, seconds: Mapping[tuple[str, ...], float]) -> None:
        """Add GPU-seconds by namespace, engine, stage and state."""
        for labels, more in seconds.items():
            self._counters["cai_gpu_seconds_total"].labels(*labels).inc(more)

    def reconciled(self, result: str, seconds: float) -> None:
        """A look at a pipeline is over; `result` is one of RESULTS."""
        self._counters["cai_reconciles_total"].labels(result).inc()
        self._counters["cai_reconcile_duration_seconds"].observe(seconds)

    def waited(self, seconds: float) -> None:
        """A pipeline was handed to a worker after so long."""
        self._counters["cai_queue_wait_seconds"].observe(seconds)

    def answered(self, method: str, path: str, code: int | None, seconds: float, is_watch: bool = False) -> None:
        """The API server answered a request, or did not (None)."""
        verb, resource, namespace = described(method, path, is_watch)
        self._counters["cai_api_requests_total"].labels(verb, resource, str(code or NO_ANSWER)).inc()
        self._counters["cai_api_request_duration_seconds"].labels(verb).observe(seconds)
        if is_watch and code == 200:
            self._watches[namespace, resource] = self._clock()

    def show(self, figures: Samples, engines: Iterable[str] = ()) -> None:
        """Figures of pipelines, as the next scrapes are to have them."""
        self._figures = figures
        for engine in engines:
            self._engine(engine)

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        now = self._clock()
        ages: dict[tuple[str, ...], float] = {}
        for (_, resource), opened in self._watches.items():
            ages[resource,] = max(now - opened, ages.get((resource,), 0.0))
        found: dict[str, Mapping[tuple[str, ...], float]] = {
            "cai_build_info": {(__version__,): 1.0},
            "cai_watch_age_seconds": ages,
            **{name: {(): value} for name, value in self.own().items()},
            **self._figures,
        }
        for family in FAMILIES:
            if family.kind != Kind.GAUGE:
                continue
            metric = GaugeMetricFamily(family.name, family.means, labels=family.labels)
            for labels, value in found.get(family.name, {}).items():
                metric.add_metric(labels, value)
            yield metric

    def _engine(self, engine: str) -> None:
        """Let an engine's counters begin at 0 once it is known: Prometheus sees only what grows between scrapes."""
        if engine in self._engines:
            return
        self._engines.add(engine)
        for node in JOB_NODES:
            self._counters["cai_stage_attempts_total"].labels(engine, node)
            for cause in (FAILURE, ASKED):
                self._counters["cai_stage_retries_total"].labels(engine, node, cause)
            for outcome in OUTCOMES.values():
                self._counters["cai_stages_finished_total"].labels(engine, node, outcome)
                self._counters["cai_stage_duration_seconds"].labels(engine, node, outcome)
        for node in ("rlData", *(name for name in JOB_NODES if name.startswith("evaluate"))):
            for outcome in (DECIDED, UNDECIDED):
                self._counters["cai_judge_decisions_total"].labels(engine, node, outcome)
