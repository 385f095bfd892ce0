"""What the chart renders is taken by a real API server, and `helm test` tells a good operator from a bad one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.harness import binaries
from tests.harness.availability import skipped_where_unavailable
from tests.harness.chart import CHART, EVERYTHING, RELEASE, ROOT, SYSTEM, Object, helm, is_test, render
from tests.harness.cluster import RESTRICTED
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for

from cai_operator.manifests.kinds import PIPELINE

pytestmark = pytest.mark.usefixtures("crd")

NAME = "trial-cai-operator-test"
Start = Callable[..., Callable[[], subprocess.CompletedProcess[str]]]
OF_PROMETHEUS = "monitoring.coreos.com/v1"


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    with skipped_where_unavailable():
        binaries.tool("helm")


@pytest.fixture
def restricted(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace that enforces the restricted Pod Security level."""
    with control_plane.namespace(RESTRICTED) as name:
        yield name


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_the_api_server_takes_all_of_it(control_plane: ControlPlane, restricted: str, values: Object) -> None:
    here = {"metrics": {**values.get("metrics", {}), "dashboard": {"enabled": True, "namespace": restricted}}}
    objects = render({**values, **here}, release="trial", namespace=restricted)
    kept = [one for one in objects if one["apiVersion"] != OF_PROMETHEUS]
    accounts = [one for one in kept if one["kind"] == "ServiceAccount"]
    # a pod is not taken before its account is there
    control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=_listed(accounts))
    words = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = control_plane.kubectl(*words, stdin=_listed(kept))
    assert len(done.stdout.splitlines()) == len(kept)
    # Pod Security would warn of what its level forbids in a Deployment
    assert "arning" not in done.stderr


def test_what_kubectl_installed_before_can_be_taken_over(control_plane: ControlPlane, restricted: str) -> None:
    bundle = ROOT / "operator" / "install" / "kustomize" / "cai-operator.yaml"
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(bundle))
    # as the chart's README says: a Deployment's selector cannot be changed
    control_plane.kubectl("delete", "deployment,rolebinding,role", RELEASE, "-n", SYSTEM)
    words = ["install", RELEASE, CHART, "--namespace", SYSTEM, "--take-ownership", "--force-conflicts"]
    helm(*words, cluster=control_plane)
    try:
        owned = control_plane.kubectl("get", "crd", "caipipelines.cai.dev", "-o", "json").stdout
        assert json.loads(owned)["metadata"]["annotations"]["meta.helm.sh/release-namespace"] == SYSTEM
        release = control_plane.kubectl("get", "secret", f"sh.helm.release.v1.{RELEASE}.v1", "-n", SYSTEM, "-o", "json")
        print(f"the release's Secret has {len(release.stdout)} bytes")
        assert len(release.stdout) < 300_000  # of a megabyte
        # another release would have to share the definition
        words = ["install", "second", CHART, "--namespace", restricted]
        assert "cannot be imported into the current release" in helm(*words, cluster=control_plane, check=False).stderr
    finally:
        helm("uninstall", RELEASE, "--namespace", SYSTEM, cluster=control_plane)
    control_plane.kubectl("get", "crd", "caipipelines.cai.dev")


class TestTrial:
    """`cai_operator.trial` under exactly the rights that the chart gives it; the test plays the operator."""

    @pytest.fixture
    def run(self, control_plane: ControlPlane, restricted: str, tmp_path: Path) -> Start:
        """`run(timeout)`: start a trial; what it returns waits for its end."""
        objects = [one for one in render({}, release="trial", namespace=restricted) if is_test(one)]
        kept = [one for one in objects if one["kind"] != "Pod"]
        control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=_listed(kept))
        (texts,) = (one["data"] for one in kept if one["kind"] == "ConfigMap")
        file = tmp_path / "pipeline.yaml"
        file.write_text(texts["pipeline.yaml"])
        (pod,) = (one for one in objects if one["kind"] == "Pod")
        module = pod["spec"]["containers"][0]["command"][2]
        login = control_plane.write_kubeconfig(tmp_path / "trial", token=control_plane.token(restricted, NAME))

        def start(timeout: float = 60) -> Callable[[], subprocess.CompletedProcess[str]]:
            words = [sys.executable, "-m", module, str(file), "--timeout", str(timeout)]
            done: list[subprocess.CompletedProcess[str]] = []
            environment = {**os.environ, "KUBECONFIG": str(login)}

            def work() -> None:
                done.append(subprocess.run(words, capture_output=True, text=True, env=environment))

            thread = threading.Thread(target=work)
            thread.start()

            def wait() -> subprocess.CompletedProcess[str]:
                thread.join()
                return done[0]

            return wait

        return start

    @pytest.fixture
    def api(self, control_plane: ControlPlane, restricted: str) -> Iterator[Api]:
        with control_plane.client() as client:
            yield Api(client, restricted)

    def test_it_ends_well_once_the_pipeline_is_ready(self, run: Start, api: Api) -> None:
        end = run()
        _say(api, phase="Running", activity="sft 1/2")
        _say(api, "True", phase="Succeeded")
        done = end()
        assert (done.returncode, done.stderr) == (0, "")
        assert "it became Ready, and is taken away again" in done.stdout
        assert api.get(PIPELINE, NAME) is None

    def test_it_tells_why_where_the_pipeline_failed(self, run: Start, api: Api) -> None:
        # one that an earlier trial left is in the way of nothing
        api.create(PIPELINE, {"metadata": {"name": NAME}, "spec": {"engine": "hf", "models": {"base": {"pocket": {}}}}})
        left = api.pipeline(NAME)["metadata"]["uid"]
        end = run()
        wait_for(lambda: (api.get(PIPELINE, NAME) or {}).get("metadata", {}).get("uid"), "a new one", _other_than(left))
        _say(api, phase="Failed", message="datasets: no node has room for it")
        done = end()
        assert done.returncode == 1
        assert "the pipeline ended and is not Ready" in done.stderr
        assert "datasets: no node has room for it" in done.stderr
        assert api.get(PIPELINE, NAME) is None

    def test_without_an_operator_it_says_so_in_the_end(self, run: Start, api: Api) -> None:
        done = run(1)()
        assert done.returncode == 1
        assert "no operator has looked at it: is it running, and does it serve this namespace?" in done.stderr
        assert api.get(PIPELINE, NAME) is None


def _say(api: Api, ready: str = "False", **status: str) -> None:
    """Write a status as the operator would."""
    wait_for(lambda: api.get(PIPELINE, NAME), "the pipeline to be applied")
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "Told",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    api.patch(PIPELINE, NAME, {"status": {**status, "conditions": [condition]}}, "status")


def _other_than(uid: str) -> Callable[[str | None], bool]:
    return lambda found: found is not None and found != uid


def _listed(objects: list[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
