"""The operator's process killed (SIGKILL) at its writes, again and again, and started again each time.

The same as `test_crash_sweep.py`, which covers every write, with all that a process is: its watches, its indexes, its
Lease, and Jobs and Deployments under their real controllers. With CAI_FULL_SWEEP=1 every write has a run of its own
here too (some 20 s each).
"""

from __future__ import annotations

import os
import threading

import pytest
from tests.harness.fault_proxy import FaultProxy
from tests.harness.objects import PATIENCE_S, Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.pipelines import JOBS, SERVERS, pocket
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import CHILD_KINDS, DEPLOYMENT, PIPELINE

EXPECTED_WRITES = 90
"""About as many as a clean run makes; a run that is over before its turn to be killed shows nothing, and says so."""


@pytest.mark.parametrize(("when", "every"), [("before", 7), ("after", 8)])
def test_killed_again_and_again(
    api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess, when: str, every: int
) -> None:
    kills = 0
    own_operator.start()
    api.create(PIPELINE, pocket())
    while api.status("pocket").get("phase") != "Succeeded":
        killed = _kill_at(proxy, own_operator, when, every)
        _wait_for_either(killed, api)
        if killed.is_set():
            kills += 1
            proxy.forget()
            own_operator.start()
    proxy.mend()
    assert kills > EXPECTED_WRITES // every // 2
    _assert_all_is_as_after_a_clean_run(api, player)


@pytest.mark.skipif("CAI_FULL_SWEEP" not in os.environ, reason="CAI_FULL_SWEEP=1 runs it; it takes an hour")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(1, EXPECTED_WRITES + 1))
def test_killed_once(
    api: Api, player: Player, proxy: FaultProxy, own_operator: OperatorProcess, when: str, write: int
) -> None:
    killed = _kill_at(proxy, own_operator, when, write)
    own_operator.start()
    api.create(PIPELINE, pocket())
    _wait_for_either(killed, api)
    if not killed.is_set():
        pytest.skip(f"this run made fewer than {write} writes")
    own_operator.start()
    api.wait_for_phase("pocket", "Succeeded")
    _assert_all_is_as_after_a_clean_run(api, player)


def _kill_at(proxy: FaultProxy, operator: OperatorProcess, when: str, write: int) -> threading.Event:
    if when == "before":
        return proxy.crash(operator.kill, before_write=write)
    return proxy.crash(operator.kill, after_write=write)


def _wait_for_either(killed: threading.Event, api: Api) -> None:
    def is_over() -> bool:
        return killed.is_set() or api.status("pocket").get("phase") == "Succeeded"

    wait_for(is_over, "the next kill, or the end", patience_s=2 * PATIENCE_S)


def _assert_all_is_as_after_a_clean_run(api: Api, player: Player) -> None:
    servers = {f"{node}/server": count for node, count in SERVERS.items()}
    assert runs_of(player.started) == {**dict.fromkeys(JOBS, 1), **servers}
    wait_for(
        lambda: [found["metadata"]["name"] for found in api.list(DEPLOYMENT)],
        "only the kept server to stand",
        lambda names: names == ["pocket-serve"],
    )
    status = api.status("pocket")
    assert {stage["state"] for stage in status["stages"]} == {"Succeeded", "Running"}
    assert status["progress"] == "10/10"
    counts = {kind.kind: len(api.list(kind, **{"cai.dev/pipeline": "pocket"})) for kind in CHILD_KINDS}
    assert counts["Job"] == len(JOBS)
    assert counts["Service"] == 1
