"""What becomes of GPUs: who holds them, who works with them, and how it adds up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.unit.operator.child_objects import NOW, at

from cai_operator import names
from cai_operator.metrics.gpus import Meter, gpus_by_state

HF = ("lab", "hf")


def pod(
    node: str = "sft",
    kind: str = "job",
    gpus: int | str = 8,
    *,
    uid: str = "",
    of: str = "",
    placed: float | None = 0,
    runs: bool = True,
    ready: bool = True,
    ended: float | None = None,
) -> dict[str, Any]:
    state: dict[str, Any] = {"running": {"startedAt": at(1)}} if runs else {"waiting": {"reason": "PodInitializing"}}
    if ended is not None:
        state = {"terminated": {"exitCode": 0, "startedAt": at(1), "finishedAt": at(ended)}}
    conditions = [{"type": "Ready", "status": str(ready and runs)}]
    if placed is not None:
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": at(placed)})
    workload = of or f"tiny-{node}-{kind}"
    return {
        "metadata": {
            "uid": uid or workload,
            "labels": {names.NODE_LABEL: node, names.KIND_LABEL: kind, names.WORKLOAD_LABEL: workload},
        },
        "spec": {
            "restartPolicy": "Never" if kind == "job" else "Always",
            "containers": [{"name": "program", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}],
            **({"nodeName": "n1"} if placed is not None else {}),
        },
        "status": {
            "phase": "Succeeded" if ended is not None else "Running" if runs else "Pending",
            "containerStatuses": [{"name": "program", "state": state}],
            "conditions": conditions,
        },
    }


def test_a_job_that_runs_works_and_one_without_a_machine_holds_nothing() -> None:
    assert gpus_by_state([pod()]) == {("sft", "working"): 8}
    assert gpus_by_state([pod(runs=False)]) == {("sft", "starting"): 8}
    assert gpus_by_state([pod(runs=False, placed=None)]) == {("sft", "pending"): 8}
    assert gpus_by_state([pod(ended=50)]) == {}
    assert gpus_by_state([pod(gpus=0)]) == {}
    assert gpus_by_state([pod(gpus="none")]) == {}


def test_a_server_works_while_a_job_of_its_node_runs() -> None:
    server, job = pod("slData", "server", gpus=4), pod("slData", gpus=0)
    assert gpus_by_state([server, job]) == {("slData", "working"): 4}
    assert gpus_by_state([server]) == {("slData", "idle"): 4}
    assert gpus_by_state([server, pod("slData", gpus=0, runs=False)]) == {("slData", "idle"): 4}
    assert gpus_by_state([server, pod("slData", gpus=0, ended=50)]) == {("slData", "idle"): 4}
    assert gpus_by_state([server, pod("rlData", gpus=0)]) == {("slData", "idle"): 4}
    assert gpus_by_state([pod("slData", "server", ready=False), job]) == {("slData", "starting"): 8}


def test_the_kept_server_works_once_it_is_ready() -> None:
    assert gpus_by_state([pod("serve", "server")]) == {("serve", "working"): 8}
    assert gpus_by_state([pod("serve", "server", ready=False)]) == {("serve", "starting"): 8}


def test_a_rank_that_waits_for_others_idles() -> None:
    ranks = [pod(uid="0", of="sft"), pod(uid="1", of="sft", runs=False, placed=None)]
    assert gpus_by_state(ranks) == {("sft", "idle"): 8, ("sft", "pending"): 8}
    assert gpus_by_state([pod(uid="0", of="sft"), pod(uid="1", of="sft")]) == {("sft", "working"): 16}
    before = pod(uid="2", of="sft", ended=10)  # of an attempt before
    assert gpus_by_state([pod(uid="0", of="sft"), before]) == {("sft", "working"): 8}


def seconds(after: float) -> datetime:
    return NOW + timedelta(seconds=after)


def read(meter: Meter, after: float, *pods: dict[str, Any]) -> dict[Any, float]:
    meter.add(HF, pods, seconds(after))
    return {key[2:]: value for key, value in meter.take(seconds(after)).items() if value}


def test_seconds_count_from_the_placement_to_the_end_wherever_the_looks_fall() -> None:
    meter = Meter(seconds(0))
    assert read(meter, 5, pod(placed=None, runs=False)) == {}
    assert read(meter, 10, pod(placed=7, runs=False)) == {("sft", "starting"): 8 * 3}
    assert read(meter, 15, pod(placed=7)) == {("sft", "starting"): 8 * 5}  # as at the look before
    assert read(meter, 20, pod(placed=7)) == {("sft", "working"): 8 * 5}
    assert read(meter, 25, pod(placed=7, ended=22)) == {("sft", "working"): 8 * 2}
    assert read(meter, 30, pod(placed=7, ended=22)) == {}


@pytest.mark.parametrize("every", [1, 3, 7, 50])
def test_the_total_does_not_depend_on_how_often_one_looks(every: int) -> None:
    meter, total = Meter(seconds(0)), 0.0
    for after in range(every, 200, every):
        there = [] if after < 11 else [pod(placed=11)] if after < 100 else [pod(placed=11, ended=100)]
        total += sum(read(meter, after, *there).values())
    assert total == 8 * (100 - 11)


def test_what_was_before_the_first_look_is_not_ours_and_what_is_new_begins_at_nought() -> None:
    meter = Meter(seconds(100))
    meter.add(HF, [pod(placed=0)], seconds(100))
    found = meter.take(seconds(100))
    assert dict(found) == {(*HF, "sft", use): 0.0 for use in ("starting", "idle", "working")}
    assert read(meter, 101, pod(placed=0)) == {("sft", "working"): 8}


def test_pipelines_of_one_namespace_and_engine_add_up() -> None:
    meter = Meter(seconds(0))
    for where, uid in ((HF, "a"), (HF, "b"), (("team", "nemo"), "c")):
        meter.add(where, [pod(uid=uid)], seconds(10))
    found = meter.take(seconds(10))
    assert found[*HF, "sft", "working"] == 160
    assert found["team", "nemo", "sft", "working"] == 80
