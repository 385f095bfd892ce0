"""The chart rendered by a real helm, without a cluster."""

from __future__ import annotations

import pytest
from tests.harness import binaries
from tests.harness.availability import skipped_where_unavailable
from tests.harness.chart import EVERYTHING, Object, render


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    """helm is there, built if need be."""
    with skipped_where_unavailable():
        binaries.tool("helm")


@pytest.fixture(scope="session")
def default(_helm: None) -> list[Object]:
    """The objects of the chart as it is."""
    return render()


@pytest.fixture(scope="session")
def everything(_helm: None) -> list[Object]:
    """The objects of the chart with every feature in use."""
    return render(EVERYTHING)
