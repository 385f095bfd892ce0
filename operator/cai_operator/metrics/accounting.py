"""Between the operator at work and its metrics: pipelines are looked at for each scrape, GPUs by the clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from cai_operator.manifests.kinds import PIPELINE, POD
from cai_operator.metrics.figures import Figures, engine_of
from cai_operator.metrics.gpus import Meter
from cai_operator.metrics.happened import happened
from cai_operator.metrics.recorder import Metrics
from cai_operator.observing.objects import is_going
from cai_operator.snapshot import Key, View
from cai_operator.status import PipelineStatus

log = logging.getLogger("cai_operator.metrics")

METER_EVERY_S = 5.0
AT_A_TIME = 25
"""Pipelines looked at before others have the event loop: a few milliseconds."""


class Accounting:
    """Figures and GPU-seconds of the pipelines one operator works on, as long as it leads.

    Args:
        metrics: where they go.
        view: what is known of pipelines.
        known: the pipelines there are.
        leads: whether this operator works.
    """

    def __init__(self, metrics: Metrics, view: View, known: Collection[Key], leads: Callable[[], bool]) -> None:
        self._metrics, self._view, self._known, self._leads = metrics, view, known, leads

    def wrote(self, document: Mapping[str, Any], old: PipelineStatus, new: PipelineStatus) -> None:
        """A status was written."""
        self._metrics.add(happened(old, new, engine_of(document)))

    async def refresh(self) -> None:
        """Make the figures anew; none where another operator leads."""
        figures = Figures()
        async for document, pods in self._pipelines():
            figures.add(document, pods)
        self._metrics.show(figures.samples(), figures.engines())

    async def meter(self, meter: Meter) -> None:
        """Add up the GPU-seconds since the last time."""
        now = datetime.now(UTC)
        async for document, pods in self._pipelines():
            meter.add((document["metadata"]["namespace"], engine_of(document)), pods, now)
        self._metrics.add_gpu_seconds(meter.take(now))

    async def keep_metering(self) -> None:
        """Add up GPU-seconds, forever."""
        meter: Meter | None = None
        while True:
            if not self._leads():
                meter = None  # what happens meanwhile is the other operator's to count
            elif meter is None:
                meter = Meter(datetime.now(UTC))
            else:
                try:
                    await self.meter(meter)
                except Exception as problem:  # figures must not stop the work
                    log.exception("GPU-seconds are not counted: %s", problem)
                    meter = None
            await asyncio.sleep(METER_EVERY_S)

    async def _pipelines(self) -> AsyncIterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        for number, key in enumerate(tuple(self._known) if self._leads() else ()):
            if number % AT_A_TIME == AT_A_TIME - 1:
                await asyncio.sleep(0)
            snapshot = self._view.snapshot(key, (PIPELINE, POD))
            if snapshot.pipeline is not None and not is_going(snapshot.pipeline):
                yield snapshot.pipeline, list(snapshot.of(POD).values())
