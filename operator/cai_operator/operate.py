"""The operator at work: a queue of pipelines to look at, workers that do, the lease that lets them, and its health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time

from aiohttp import web

from cai_operator.cluster import Cluster, Refused, Unavailable
from cai_operator.leadership import Leadership, NotLeading
from cai_operator.manifests.kinds import PIPELINE
from cai_operator.metrics import endpoint
from cai_operator.metrics.accounting import Accounting
from cai_operator.metrics.recorder import Metrics
from cai_operator.reconcile import Reconciler
from cai_operator.settings import Settings
from cai_operator.snapshot import Key, View
from cai_operator.work_queue import WorkQueue

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 60.0
STUCK_S = 300.0

log = logging.getLogger("cai_operator")


class Operation:
    """Everything of one operator process that is not kopf's."""

    def __init__(self, settings: Settings, view: View, cluster: Cluster, metrics: Metrics) -> None:
        self._settings, self._view, self._cluster, self._metrics = settings, view, cluster, metrics
        self._queue: WorkQueue[Key] = WorkQueue(metrics.waited)
        self._lease = Leadership(cluster, settings.lease_namespace, settings.lease_name, settings.identity)
        self._known: set[Key] = set()
        self._accounting = Accounting(metrics, view, self._known, lambda: self._lease.is_held)
        self._reconciler = Reconciler(view, cluster, settings, self._lease.check, wrote=self._accounting.wrote)
        self._resync_due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._leads = asyncio.Event()
        self._endpoint: web.AppRunner | None = None
        metrics.own = self._figures

    async def open_endpoint(self) -> None:
        """Let Prometheus ask, also before there is work.

        Raises:
            OSError: the port cannot be opened.
        """
        if self._settings.metrics_port:
            self._endpoint = await endpoint.serve(self._settings.metrics_port, self._metrics, self._accounting.refresh)

    def start(self) -> None:
        """Begin to work; call inside the event loop."""
        self._tasks = [asyncio.create_task(self._lease.keep(self._took_over), name="lease")]
        self._tasks.append(asyncio.create_task(self._keep_finding(), name="finding"))
        self._tasks.append(asyncio.create_task(self._accounting.keep_metering(), name="metering"))
        self._tasks += [
            asyncio.create_task(self._work(), name=f"worker-{number}") for number in range(self._settings.workers)
        ]

    async def stop(self) -> None:
        """Stop in the middle of whatever is done, which costs nothing, and give up the lease."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._endpoint is not None:
            await self._endpoint.cleanup()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._lease.release(), 3.0)
        await self._cluster.close()

    def look_at(self, key: Key) -> None:
        """Something about this pipeline may have changed."""
        self._known.add(key)
        if self._leads.is_set():  # else all that is known is looked at once it does
            self._queue.add(key)

    def saw(self, key: Key, uid: str, resource_version: int, deleted: bool) -> None:
        """A watch told of an object of this pipeline."""
        self._view.seen_event(key, uid, resource_version, deleted)
        self.look_at(key)

    def check_health(self) -> dict[str, float]:
        """Figures of the queue.

        Raises:
            RuntimeError: a task has ended, or pipelines wait for a worker far too long.
        """
        ended = [task.get_name() for task in self._tasks if task.done()]
        if ended:
            raise RuntimeError(f"{', '.join(ended)} ended")
        waited = self._queue.oldest_wait()
        if self._lease.is_held and waited > STUCK_S:
            raise RuntimeError(f"a pipeline has waited {waited:.0f} s for a worker")
        return {"waiting": float(len(self._queue)), "oldest_wait_s": round(waited, 3)}

    def _figures(self) -> dict[str, float]:
        return {
            "cai_leader": float(self._lease.is_held),
            "cai_queue_length": float(len(self._queue)),
            "cai_queue_oldest_wait_seconds": self._queue.oldest_wait(),
        }

    def _took_over(self) -> None:
        self._resync_due.clear()
        for key in self._known:
            self._queue.add(key)
        self._leads.set()

    async def _work(self) -> None:
        await self._leads.wait()
        while True:
            key = await self._queue.get()
            try:
                await self._look(key)
            finally:
                self._queue.done(key)

    async def _keep_finding(self) -> None:
        """Find pipelines whose first event was lost: all else that watches lose, looks at known pipelines find."""
        while True:
            await asyncio.sleep(self._settings.resync_s)
            try:
                found = [
                    pipeline
                    for namespace in self._settings.namespaces or ("",)
                    for pipeline in await self._cluster.list_all(PIPELINE, namespace)
                ]
            except (Unavailable, Refused) as problem:
                log.debug("pipelines cannot be listed: %s", problem)
                continue
            for pipeline in found:
                key = (pipeline["metadata"]["namespace"], pipeline["metadata"]["name"])
                if key not in self._known:
                    self._resync_due[key] = 0.0
                    self.look_at(key)

    async def _look(self, key: Key) -> None:
        if not self._lease.is_held:
            self._queue.add_after(key, 1.0)
            return
        is_due = self._resync_due.setdefault(key, self._next_resync()) <= time.monotonic()
        begin = time.monotonic()
        try:
            again = await self._reconciler.reconcile(key, live=is_due)
        except NotLeading:
            result = "overtaken"
            self._queue.add_after(key, 1.0)
        except (Unavailable, Refused) as problem:
            result = "unavailable" if isinstance(problem, Unavailable) else "refused"
            self._try_later(key, str(problem))
        except Exception as problem:  # one pipeline's trouble must not stop the others
            result = "error"
            log.exception("%s/%s: %s", *key, problem)
            self._try_later(key, f"{type(problem).__name__}: {problem}")
        else:
            result = "ok"
            self._failures.pop(key, None)
            if is_due:
                self._resync_due[key] = self._next_resync()
            if again is None:
                self._known.discard(key)
                self._resync_due.pop(key, None)
            else:
                until_resync = max(self._resync_due[key] - time.monotonic(), 0.0)
                self._queue.add_after(key, min(again, until_resync + 0.01))
        self._metrics.reconciled(result, time.monotonic() - begin)

    def _try_later(self, key: Key, why: str) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = min(FIRST_RETRY_S * 2 ** (failures - 1), LONGEST_RETRY_S) * random.uniform(0.8, 1.2)
        log.warning("%s/%s: %s; looked at again in %.1f s", *key, why, wait)
        self._resync_due[key] = 0.0  # what was missed meanwhile is read, whatever the watches say
        self._queue.add_after(key, wait)

    def _next_resync(self) -> float:
        # spread, so that many pipelines found at once are not all read at once ever after
        return time.monotonic() + self._settings.resync_s * random.uniform(0.75, 1.0)
