"""The operator, as a real process under exactly the role that is shipped, before a real API server.

| fixtures | what a test gets |
|---|---|
| `api` | the objects of a namespace of its own, with an administrator's rights |
| `player` | plays the kubelet there: what becomes of pods |
| `operator` | the operator runs, for all namespaces, as shipped; one process for many tests |
| `own_operator`, `proxy` | an operator of the test's own, for its namespace only, not started yet, behind a proxy |
| `recorder` | what happened to Jobs and Deployments, in order |
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import release
from tests.harness.control_plane import ControlPlane
from tests.harness.fault_proxy import FaultProxy
from tests.harness.objects import Api
from tests.harness.operator_process import OperatorProcess
from tests.harness.player import Player
from tests.harness.recorder import Recorder

INSTALL = Path(__file__).parents[3] / "operator" / "install"
SYSTEM, ACCOUNT = "cai-system", "cai-operator"
LONGEST_LOG = 20_000


@pytest.fixture(scope="session")
def operator_token(control_plane_with_jobs: ControlPlane) -> str:
    """The token of the operator's service account, after all of operator/install but the Deployment was applied."""
    for name in ("1-namespace.yaml", "2-service-account.yaml", "3-role.yaml"):
        control_plane_with_jobs.kubectl("apply", "-f", str(INSTALL / name))
    return control_plane_with_jobs.token(SYSTEM, ACCOUNT, seconds=7200)


@pytest.fixture
def api(control_plane_with_jobs: ControlPlane, namespace_with_jobs: str) -> Iterator[Api]:
    """The objects of the test's namespace."""
    with control_plane_with_jobs.client() as client:
        yield Api(client, namespace_with_jobs)


@pytest.fixture
def player(control_plane_with_jobs: ControlPlane, namespace_with_jobs: str) -> Iterator[Player]:
    """Plays the kubelet in the test's namespace."""
    with Player(control_plane_with_jobs, namespace_with_jobs) as player:
        yield player


@pytest.fixture
def recorder(control_plane_with_jobs: ControlPlane, namespace_with_jobs: str) -> Iterator[Recorder]:
    """Records Jobs and Deployments of the test's namespace."""
    with Recorder(control_plane_with_jobs, namespace_with_jobs) as recorder:
        yield recorder


@pytest.fixture(scope="session")
def _shared_operator(
    control_plane_with_jobs: ControlPlane, operator_token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    plane = control_plane_with_jobs
    # the same holder at every start: a new one need not wait until the old one's lease has run out
    settings = {"CAI_LEASE_NAMESPACE": SYSTEM, "CAI_IDENTITY": "shared", "CAI_PROGRESS_SECONDS": "1"}
    process = OperatorProcess(tmp_path_factory.mktemp("operator"), plane.url, operator_token, plane.ca, settings)
    release.when_unused("control_plane_with_jobs", process.kill)
    yield process
    process.kill()


@pytest.fixture
def operator(_shared_operator: OperatorProcess) -> OperatorProcess:
    """The operator, running."""
    if not _shared_operator.is_running:
        _shared_operator.start()
    return _shared_operator


@pytest.fixture
def proxy(control_plane_with_jobs: ControlPlane) -> Iterator[FaultProxy]:
    """What `own_operator` reaches the API server through."""
    with FaultProxy(control_plane_with_jobs.url, control_plane_with_jobs.ca) as proxy:
        yield proxy


@pytest.fixture
def make_operator(
    _shared_operator: OperatorProcess,
    control_plane_with_jobs: ControlPlane,
    namespace_with_jobs: str,
    operator_token: str,
    tmp_path: Path,
) -> Iterator[Callable[..., OperatorProcess]]:
    """`make_operator(url, identity, module, CAI_…="…")`: for the test's namespace only; killed at its end.

    The shared one is stopped meanwhile, as it would do the work of one that a test has killed.
    """
    _shared_operator.kill()
    _allow_leases(control_plane_with_jobs, namespace_with_jobs)
    made: list[OperatorProcess] = []

    def make(url: str, identity: str = "own", module: str = "cai_operator.main", **settings: str) -> OperatorProcess:
        own = {
            "CAI_NAMESPACES": namespace_with_jobs,
            "CAI_LEASE_NAMESPACE": namespace_with_jobs,
            "CAI_IDENTITY": identity,
            "CAI_PROGRESS_SECONDS": "1",
        }
        directory = tmp_path / f"operator-{len(made)}"
        all_settings = {**own, **settings}
        made.append(OperatorProcess(directory, url, operator_token, settings=all_settings, module=module))
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.fixture
def own_operator(make_operator: Callable[..., OperatorProcess], proxy: FaultProxy) -> OperatorProcess:
    """An operator of the test's own behind `proxy`, not started yet."""
    return make_operator(proxy.url)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show what the operators wrote where a test failed."""
    report: Any = yield
    arguments = getattr(item, "funcargs", {})
    if report.failed and report.when == "call":
        for name in ("operator", "own_operator"):
            process = arguments.get(name)
            if isinstance(process, OperatorProcess):
                report.sections.append((f"log of {name}", process.log()[-LONGEST_LOG:]))
    return report


def _allow_leases(plane: ControlPlane, namespace: str) -> None:
    # what is shipped allows the one Lease of an operator for all namespaces
    role = ["create", "role", "leases", "--verb=get,create,update", "--resource=leases.coordination.k8s.io"]
    plane.kubectl(*role, "-n", namespace)
    binding = ["create", "rolebinding", "leases", "--role=leases", f"--serviceaccount={SYSTEM}:{ACCOUNT}"]
    plane.kubectl(*binding, "-n", namespace)
