"""What a test does on a machine that cannot hold its cluster: skipped with the reason, but failed in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.harness.processes import Unavailable


@contextmanager
def skipped_where_unavailable() -> Iterator[None]:
    """Turn Unavailable into a skip with its sentence, or into a failure where the environment says CI=true."""
    reason = ""
    try:
        yield
    except Unavailable as error:
        reason = str(error)
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"CI must run this test, and this machine cannot: {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)
