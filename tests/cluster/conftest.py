"""A cluster whose pods run, shared by all processes that run tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.harness import installed
from tests.harness.availability import skipped_where_unavailable
from tests.harness.chart import previous_release
from tests.harness.cluster import RESTRICTED, Cluster, cluster
from tests.harness.installed import SMALL, Run, Start
from tests.harness.objects import Api

HERE = Path(__file__).parent
# what kills the node is first; last is what takes most of the machine, as the tests of other workers are done by then
ORDER = ("killed_node", "node", "kills", "nemo", "two_nodes", "suspend", "uninstall", "pipeline")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these tests on one worker (with `--dist loadgroup`), but those that only look into images."""
    for item in filter(_is_of_the_node, items):
        item.add_marker(pytest.mark.xdist_group("node"))
    items.sort(key=_place)


def _is_of_the_node(item: pytest.Item) -> bool:
    return item.path.is_relative_to(HERE) and item.path.name != "test_images.py"


def _place(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    return ORDER.index(name) if _is_of_the_node(item) and name in ORDER else len(ORDER)


@pytest.fixture(scope="session")
def node() -> Iterator[Cluster]:
    """The cluster of CAI_TEST_KUBECONFIG, else this machine's own node: two free cores, a default storage class."""
    with ExitStack() as stack:
        with skipped_where_unavailable():
            its = stack.enter_context(cluster())
        yield its


@pytest.fixture
def namespace(node: Cluster) -> Iterator[str]:
    """The name of a namespace of the test's own that enforces the restricted Pod Security level."""
    with node.namespace(RESTRICTED) as name:
        yield name


@pytest.fixture(scope="session")
def previous_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of the release before this one."""
    return previous_release(tmp_path_factory.mktemp("chart"))


@pytest.fixture(scope="session")
def operator(node: Cluster, previous_chart: Path) -> Cluster:
    """The node with the release before this one installed by helm."""
    with skipped_where_unavailable():
        installed.install(node, previous_chart)
    return node


@pytest.fixture(scope="session")
def start(operator: Cluster) -> Iterator[Start]:
    """`start(file, namespace)`: apply a pipeline's manifest as a user does, which begins it."""
    with operator.client() as client:

        def apply(file: Path, namespace: str) -> Run:
            applied = operator.kubectl("apply", "-n", namespace, "-f", str(file), "-o", "name").stdout
            return Run(operator, Api(client, namespace), applied.strip().rpartition("/")[2])

        yield apply


@pytest.fixture(scope="session")
def undisturbed(operator: Cluster, start: Start) -> Iterator[Run]:
    """The small pipeline, started and left alone, in a namespace of its own."""
    with operator.namespace(RESTRICTED) as namespace:
        yield start(SMALL, namespace)
