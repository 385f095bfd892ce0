"""The end of a node: killed with pods running it is cleaned up by the next one, and one that ends leaves nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
from tests.harness import up
from tests.harness.availability import skipped_where_unavailable
from tests.harness.cluster import VARIABLE, Cluster, cluster
from tests.harness.node_files import POD_IMAGE
from tests.harness.node_traces import traces
from tests.harness.processes import Unavailable, wait_for

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "lasting"},
    "spec": {"containers": [{"name": "program", "image": POD_IMAGE}]},
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody else uses this machine's node while the test runs."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with skipped_where_unavailable(), up.alone():
        yield


def test_a_killed_node_is_cleaned_up_by_the_next(alone: None) -> None:
    with cluster() as killed:
        _run_a_pod(killed)
        os.kill(up.supervisor(), signal.SIGKILL)
        wait_for("the end of the supervisor", lambda: up.supervisor() == 0)
    left = traces()
    # the container's own keeper outlives everything: else this test would show nothing
    assert any(trace.startswith("process") for trace in left)
    assert any(trace.startswith("mount") for trace in left)
    with cluster() as second:
        assert second.kubectl("get", "pods", "-n", "default").stdout == ""
        _run_a_pod(second)
    assert traces() == []


def test_one_that_stays_is_used_where_it_is_named_and_ends_on_demand(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    up.up()
    try:
        with pytest.raises(Unavailable, match=f"is up: use it with {VARIABLE}={up.KUBECONFIG}"), cluster():
            pass
        monkeypatch.setenv(VARIABLE, str(up.KUBECONFIG))
        with cluster() as node:
            assert node.is_local
            _run_a_pod(node)
        assert up.supervisor()
    finally:
        up.down()
    assert traces() == []


def _run_a_pod(node: Cluster) -> None:
    node.kubectl("apply", "-n", "default", "-f", "-", stdin=json.dumps(POD))
    node.kubectl("wait", "pod/lasting", "-n", "default", "--for=condition=Ready", "--timeout=600s")
