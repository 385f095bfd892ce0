"""An operator of single namespaces, with the rights and the settings that the chart gives it: enough, and no more."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness.availability import skipped_where_unavailable
from tests.harness.chart import environment, is_test, render
from tests.harness.control_plane import ControlPlane
from tests.harness.fault_proxy import FaultProxy
from tests.harness.objects import Api
from tests.harness.operator_process import OperatorProcess
from tests.harness.pipelines import short
from tests.harness.player import Player

from cai_operator.manifests.kinds import PIPELINE


def test_it_serves_its_namespaces_and_sees_no_other(
    api: Api,
    player: Player,
    proxy: FaultProxy,
    control_plane_with_jobs: ControlPlane,
    _shared_operator: OperatorProcess,  # noqa: PT019 - it is wanted itself
    tmp_path: Path,
) -> None:
    _shared_operator.kill()  # that of other tests serves every namespace
    plane, name = control_plane_with_jobs, "own-cai-operator"
    with plane.namespace() as release, plane.namespace() as strangers, plane.client() as client:
        values = {"watchNamespaces": [api.namespace], "crds": {"install": False}, "rbac": {"aggregate": False}}
        with skipped_where_unavailable():
            objects = render(values, release="own", namespace=release)
        made = [one for one in objects if one["kind"] != "Deployment" and not is_test(one)]
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=document)
        settings = {
            **environment(objects),
            "CAI_IDENTITY": "own",
            "CAI_PROGRESS_SECONDS": "1",
            "CAI_LIVENESS_PORT": "0",
        }
        operator = OperatorProcess(tmp_path, proxy.url, plane.token(release, name), settings=settings)
        Api(client, strangers).create(PIPELINE, short())
        with operator:
            api.create(PIPELINE, short())
            api.wait_for_phase("short", "Succeeded")
            assert [str(request) for request in proxy.requests if request.status in (401, 403)] == []
            assert {request.namespace for request in proxy.requests} - {""} == {api.namespace, release}
            operator.stop()
        asked = plane.kubectl(
            "auth", "can-i", "--list", f"--as=system:serviceaccount:{release}:{name}", "-n", strangers
        )
        assert "caipipelines" not in asked.stdout
        assert "jobs" not in asked.stdout
