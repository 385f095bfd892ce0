"""Progress and ETA of a running program, read from the end of its log, and not too often."""

from __future__ import annotations

import json

import pytest
from tests.harness.fault_proxy import FaultProxy, Request, reads_of
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Run
from tests.harness.pipelines import short
from tests.harness.player import Player

from cai_operator.manifests.kinds import PIPELINE


def line(done: int) -> str:
    """What a program prints."""
    return json.dumps(
        {"progress": {"done": done, "total": 192, "unit": "rows", "eta_s": 31.5, "metrics": {"rate": 2.5}}}
    )


def log_of(node: str) -> object:
    """Requests for the log of a node's pods."""
    return lambda request: reads_of("pods/log")(request) and f"-{node}-" in request.name


@pytest.fixture
def running(api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess) -> None:
    """A pipeline whose slData runs on; there is no node to fetch logs from, so the proxy has them."""
    player.script("slData", Run())
    api.create(PIPELINE, short())
    own_operator.start()
    player.wait_for_running("slData")


@pytest.mark.usefixtures("running")
def test_progress_is_shown(api: Api, player: Player, proxy: FaultProxy) -> None:
    noise = "2026-11-22T00:00:00Z loading the model\n"
    proxy.answer(200, reads_of("pods/log"), text=f"{noise}{line(3)}\n{line(17)}\n{noise}")
    node = wait_for(lambda: api.node("short", "slData"), "progress", lambda node: "progress" in node)
    assert node["progress"] == {
        "done": 17,
        "total": 192,
        "unit": "rows",
        "etaSeconds": 31.5,
        "metrics": {"rate": 2.5},
    }
    proxy.mend()
    proxy.answer(200, reads_of("pods/log"), text=f"{line(20)}\n")
    wait_for(lambda: api.node("short", "slData")["progress"]["done"], "progress to go on", lambda done: done == 20)
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert "progress" not in api.node("short", "slData")


@pytest.mark.usefixtures("running")
def test_a_log_that_cannot_be_read_harms_nothing(api: Api, player: Player, proxy: FaultProxy) -> None:
    proxy.answer(500, reads_of("pods/log"), message="the node is out of reach")
    wait_for(lambda: len(_log_reads(proxy)) >= 3, "the log to be asked for")
    assert api.node("short", "slData")["state"] == "Running"
    assert api.condition("short", "Degraded")["status"] == "False"
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")


def _log_reads(proxy: FaultProxy) -> list[Request]:
    return [request for request in proxy.requests if request.full_resource == "pods/log"]
