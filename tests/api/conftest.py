"""An API server of the tests' own, one for every group of tests.

| fixtures | who acts |
|---|---|
| `control_plane`, `namespace` | the controllers that keep house; a test plays those of Jobs and Deployments |
| `control_plane_with_jobs`, `namespace_with_jobs` | Jobs and Deployments make pods; a test plays the kubelet |
| `crd` | installs the CAIPipeline resource in `control_plane`; the other one has it |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.harness import release
from tests.harness.availability import skipped_where_unavailable
from tests.harness.control_plane import HOUSEKEEPING, ONE_CLIENT, WORKLOADS, ControlPlane
from tests.harness.objects import Api

HERE = Path(__file__).parent
CRDS = HERE.parents[1] / "crds"
# by the first of these fixtures that a test uses
GROUPS = {
    "operator": "the operator of all namespaces",
    "control_plane_with_jobs": "operators of a test's own",
    "control_plane": "no operator",
}
# off by default; a test changes Jobs as they are created, as a webhook does, with no server of its own
MUTATING = (
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`: one worker for all that share an API server, and with it the operator of all namespaces.

    A test with operators of its own has to stop that one, so such tests have another API server.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        group = next((group for name, group in GROUPS.items() if name in fixtures), None)
        if group is not None and item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server, and controllers of namespaces, service accounts, garbage collection and quotas."""
    with _started(HOUSEKEEPING) as plane:
        release.when_unused("control_plane", plane.close)
        yield plane


@pytest.fixture(scope="session")
def crd(control_plane: ControlPlane) -> None:
    """The CAIPipeline resource is served."""
    control_plane.install_crds(CRDS)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a namespace of the test's own."""
    with control_plane.namespace() as name:
        yield name


@pytest.fixture
def api(control_plane: ControlPlane, namespace: str) -> Iterator[Api]:
    """The namespace as its admin sees it."""
    with control_plane.client() as client:
        yield Api(client, namespace)


@pytest.fixture
def kubeconfig(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's kubeconfig: the admin's rights, a file of the test's own."""
    path = control_plane.write_kubeconfig(tmp_path / "kubeconfig", token=control_plane.admin_token)
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture(scope="session")
def control_plane_with_jobs() -> Iterator[ControlPlane]:
    """The same with the controllers of Jobs and Deployments, and the CAIPipeline resource."""
    with _started(WORKLOADS) as plane:
        release.when_unused("control_plane_with_jobs", plane.close)
        if list(CRDS.glob("*.yaml")):
            plane.install_crds(CRDS)
        yield plane


@pytest.fixture
def namespace_with_jobs(control_plane_with_jobs: ControlPlane) -> Iterator[str]:
    """The name of a namespace of the test's own in `control_plane_with_jobs`."""
    with control_plane_with_jobs.namespace() as name:
        yield name


@contextmanager
def _started(controllers: tuple[str, ...]) -> Iterator[ControlPlane]:
    plane = ControlPlane(controllers=controllers, apiserver_flags=(*MUTATING, *ONE_CLIENT))
    with skipped_where_unavailable():
        plane.start()
    with plane:
        yield plane
