"""Leader election by a Lease (coordination.k8s.io/v1), so that of several operators one works and the others wait.

The holder renews often and stops believing in its lease well before others may take it; whoever finds it expired, by
its own clock since it last saw it change, takes it. Every write is conditional on the Lease's resourceVersion.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cai_operator.cluster import Cluster, Conflict, Refused, Unavailable
from cai_operator.manifests.kinds import LEASE

DURATION_S = 15.0
TRUSTED_S = 10.0
RENEW_S = 3.0

log = logging.getLogger("cai_operator.leadership")


class NotLeading(Exception):
    """Somebody else may hold the lease now: stop writing."""


class Leadership:
    """The lease of that name, as seen by one operator."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._namespace, self._name, self._identity = cluster, namespace, name, identity
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[Any, float] = (None, clock())
        self._waits_for: str | None = None

    @property
    def is_held(self) -> bool:
        """Whether the lease is ours for certain."""
        return self._renewed is not None and self._clock() - self._renewed < TRUSTED_S

    def check(self) -> None:
        """Call before every write.

        Raises:
            NotLeading: the lease is not ours for certain.
        """
        if not self.is_held:
            raise NotLeading(f"the Lease {self._namespace}/{self._name} is not held")

    async def keep(self, took_over: Callable[[], None]) -> None:
        """Take the lease when it is free and renew it, forever; `took_over` is called whenever it has become ours."""
        while True:
            was_held = self.is_held
            try:
                await self._try_once()
            except (Unavailable, Conflict) as problem:
                log.debug("the Lease could not be renewed: %s", problem)
            except Refused as problem:
                log.error("the Lease %s/%s cannot be used: %s", self._namespace, self._name, problem.message)
            if self.is_held and not was_held:
                log.info("holding the Lease %s/%s as %s", self._namespace, self._name, self._identity)
                took_over()
            await asyncio.sleep(RENEW_S)

    async def release(self) -> None:
        """Give the lease up at once, so that the next operator need not wait for its end."""
        # asked even if it seems not ours: stopped while taking it, we have not heard the answer
        self._renewed = None
        found = await self._cluster.get(LEASE, self._namespace, self._name)
        if found is not None and found.get("spec", {}).get("holderIdentity") == self._identity:
            found["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._put(found)

    async def _try_once(self) -> None:
        asked_at = self._clock()
        found = await self._cluster.get(LEASE, self._namespace, self._name)
        if found is None:
            await self._cluster.send("POST", LEASE.path(self._namespace), self._lease({}, transitions=0))
            self._renewed = asked_at
            return
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if self._seen[0] != (holder, spec.get("renewTime")):
            self._seen = ((holder, spec.get("renewTime")), self._clock())
        lasts = float(spec.get("leaseDurationSeconds") or DURATION_S)
        is_free = not holder or self._clock() - self._seen[1] > lasts
        if holder != self._identity and not is_free:
            if self._waits_for != holder:
                log.info("waiting: %s holds the Lease %s/%s", holder, self._namespace, self._name)
                self._waits_for = holder
            self._renewed = None
            return
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        await self._put(self._lease(found, transitions))
        self._renewed, self._waits_for = asked_at, None

    async def _put(self, lease: dict[str, Any]) -> None:
        await self._cluster.send("PUT", LEASE.path(self._namespace, self._name), lease)

    def _lease(self, found: dict[str, Any], transitions: int) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = found.get("spec", {})
        is_ours = spec.get("holderIdentity") == self._identity
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": found.get("metadata") or {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION_S),
                "acquireTime": spec.get("acquireTime") if is_ours else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
