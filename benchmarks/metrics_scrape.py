"""What a scrape of the operator's metrics costs with very many pipelines.

    python -m benchmarks.metrics_scrape [--pipelines 300] [--running 60]

Pipelines as they are in the middle of PPO (so many) and at their end (the rest), each with the Jobs, Deployments and
pods it would have, in the operator's own view. A scrape is what the endpoint does: make the figures, write them out.
Times are of the process's CPU: others may use the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import random
import time
import tracemalloc
from collections.abc import Awaitable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from prometheus_client import generate_latest
from tests.unit.operator.conftest import POCKET, FakeExecutor

from cai_operator import names
from cai_operator.manifests.kinds import DEPLOYMENT, JOB, PIPELINE, POD
from cai_operator.metrics.accounting import Accounting
from cai_operator.metrics.catalogue import FAMILIES, Scope
from cai_operator.metrics.gpus import Meter
from cai_operator.metrics.recorder import Metrics
from cai_operator.snapshot import WATCHED, Key, View
from cai_operator.validation import parse_pipeline

PROGRESS = {"done": 17, "total": 40, "unit": "steps", "metrics": {"steps_per_s": 0.4, "loss": 0.2, "reward": 0.9}}
SCRAPES = 20
OF_PIPELINES = tuple(one.name for one in FAMILIES if one.scope == Scope.NOW)


class Index:
    """Objects of a kind by pipeline, as kopf's index has them."""

    def __init__(self) -> None:
        self.found: dict[Key, list[dict[str, Any]]] = {}

    def get(self, key: Key, default: Iterable[Any] = ()) -> Iterable[Any]:
        return self.found.get(key, default)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", type=int, default=300, help="how many")
    parser.add_argument("--running", type=int, default=60, help="how many of them are at work")
    options = parser.parse_args()
    indexes = {kind.kind: Index() for kind in WATCHED}
    keys = fill(indexes, options.pipelines, options.running)
    asyncio.run(measure(View(indexes), keys))


def fill(indexes: Mapping[str, Index], pipelines: int, running: int) -> set[Key]:
    """Put the pipelines and their children into the indexes."""
    at_work, ended = stand("ppo"), stand(None)
    keys: set[Key] = set()
    for number in range(pipelines):
        key = (f"team-{number % 10}", f"pipeline-{number:04}")
        keys.add(key)
        for kind, objects in (at_work if number < running else ended).items():
            indexes[kind].found[key] = [_renamed(one, key) for one in copy.deepcopy(objects)]
    return keys


def stand(held: str | None) -> dict[str, list[dict[str, Any]]]:
    """A pipeline and its children when the node `held` runs; at the end if None."""
    executor, rng = FakeExecutor(parse_pipeline(POCKET)), random.Random(0)
    while True:
        executor.reconcile()
        if held in {node.name for stage in executor.status.stages for node in (stage,) if stage.state == "Running"}:
            break
        if not executor.step(rng):
            break
    executor.reconcile()
    status = executor.status.document()
    for stage in status["stages"]:
        if stage["name"] == held:
            stage["progress"] = PROGRESS
    found: dict[str, list[dict[str, Any]]] = {PIPELINE.kind: [{**POCKET, "status": status}], POD.kind: []}
    found |= {JOB.kind: [], DEPLOYMENT.kind: []}
    for workload in executor.workloads.values():
        is_job = workload.name in executor.jobs
        if not is_job and workload.name not in executor.servers:
            continue
        labels = names.labels("tiny", workload.node, workload.node, workload.key, str(workload.kind))
        labels |= {names.WORKLOAD_LABEL: workload.name}
        metadata = {"labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
        kind = JOB if is_job else DEPLOYMENT
        found[kind.kind].append({"kind": kind.kind, "metadata": {**metadata, "name": workload.name}, "spec": {}})
        has_ended = is_job and executor.jobs[workload.name].state == "Succeeded"
        found[POD.kind].append(_pod(workload.name, metadata, has_ended))
    return found


def _pod(workload: str, metadata: dict[str, Any], has_ended: bool) -> dict[str, Any]:
    moment = "2026-01-01T00:00:10Z"
    ended = {"terminated": {"exitCode": 0, "startedAt": moment, "finishedAt": moment, "message": "{}"}}
    state = ended if has_ended else {"running": {"startedAt": moment}}
    true = {"status": "True", "lastTransitionTime": moment}
    return {
        "kind": POD.kind,
        "metadata": {**metadata, "name": f"{workload}-x1"},
        "spec": {
            "nodeName": "n1",
            "restartPolicy": "Never",
            "containers": [{"name": "program", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        },
        "status": {
            "phase": "Succeeded" if has_ended else "Running",
            "conditions": [{"type": type_, **true} for type_ in ("PodScheduled", "Ready")],
            "containerStatuses": [{"name": "program", "state": state}],
        },
    }


def _renamed(one: dict[str, Any], key: Key) -> dict[str, Any]:
    metadata = one["metadata"]
    metadata |= {"namespace": key[0], "uid": f"{key[1]}/{one.get('kind')}/{metadata['name']}", "resourceVersion": "1"}
    if one.get("kind") == PIPELINE.kind:
        metadata["name"] = key[1]
    return one


async def measure(view: View, keys: set[Key]) -> None:
    """Scrape again and again."""
    metrics = Metrics()
    accounting = Accounting(metrics, view, keys, lambda: True)
    objects = sum(sum(map(len, view.snapshot(key).children.values())) + 1 for key in keys)
    refresh, write, meter = [], [], []
    text, counter = b"", Meter(datetime.now(UTC))
    for _ in range(SCRAPES):
        refresh.append(await _cpu_s(accounting.refresh()))
        meter.append(await _cpu_s(accounting.meter(counter)))
        begin = time.process_time()
        text = generate_latest(metrics.registry)
        write.append(time.process_time() - begin)
    held = await _longest_block(accounting)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    fresh = Metrics()
    await Accounting(fresh, view, keys, lambda: True).refresh()
    generate_latest(fresh.registry)
    kept, most = (one - before for one in tracemalloc.get_traced_memory())
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    own = sum(line.startswith(OF_PIPELINES) for line in lines)
    print(f"{len(keys)} pipelines, {objects} objects")
    print(f"series              {len(lines)}, of these {own} of pipelines now; {len(text) / 1024:.0f} KiB")
    print(f"making the figures  {_ms(refresh)} ms; the event loop is held for {1000 * held:.1f} ms at a time")
    print(f"writing them out    {_ms(write)} ms")
    print(f"GPU-seconds         {_ms(meter)} ms, every five seconds")
    print(f"memory              {kept / 2**20:.1f} MiB kept, {most / 2**20:.1f} MiB at most during a scrape")


async def _cpu_s(work: Awaitable[None]) -> float:
    begin = time.process_time()
    await work
    return time.process_time() - begin


async def _longest_block(accounting: Accounting) -> float:
    """The longest CPU time for which other tasks wait while the figures are made."""
    gaps: list[float] = []
    is_over = False

    async def tick() -> None:
        last = time.process_time()
        while not is_over:
            await asyncio.sleep(0)
            gaps.append(time.process_time() - last)
            last = time.process_time()

    ticking = asyncio.create_task(tick())
    await accounting.refresh()
    is_over = True
    await ticking
    return max(gaps, default=0.0)


def _ms(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{1000 * ordered[len(ordered) // 2]:.1f} (median; {1000 * ordered[-1]:.1f} at most)"


if __name__ == "__main__":
    main()
