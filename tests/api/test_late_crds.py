"""The operator is up before its resource is: it waits, says for what, and goes on by itself."""

from __future__ import annotations

from pathlib import Path

from tests.harness.availability import skipped_where_unavailable
from tests.harness.control_plane import HOUSEKEEPING, ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.pipelines import short

from cai_operator.manifests.kinds import PIPELINE

CRDS = Path(__file__).parents[2] / "crds"


def test_pipelines_are_seen_though_the_resource_came_later(tmp_path: Path) -> None:
    with skipped_where_unavailable():
        plane = ControlPlane(controllers=HOUSEKEEPING)
        plane.start()
    with (
        plane,
        plane.namespace() as namespace,
        plane.client() as client,
        OperatorProcess(tmp_path, plane.url, plane.admin_token, plane.ca) as operator,
    ):
        wait_for(operator.log, "the operator to say what it misses", lambda log: "kubectl apply -f crds/" in log)
        plane.install_crds(CRDS)
        api = Api(client, namespace)
        api.create(PIPELINE, short())
        wait_for(lambda: api.status("short"), "a status")
        assert operator.log().count("kubectl apply -f crds/") == 1
