"""Each right of the role that is shipped is taken away from an operator, and something is lost: the role is minimal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import OperatorProcess
from tests.harness.rights import ROLE, markdown, removal_table, rights_of

PAGE = Path(__file__).parents[3] / "docs" / "security.md"


def test_something_is_lost_without_each_right(
    control_plane_with_jobs: ControlPlane,
    make_operator: Callable[..., OperatorProcess],  # it has stopped the operator that serves all namespaces
) -> None:
    rows = removal_table(control_plane_with_jobs)
    table = markdown(rows)
    print(table)
    assert {row.right for row in rows} == set(rights_of(ROLE))
    assert table in PAGE.read_text(encoding="utf-8"), "docs/security.md has another table: see above"
