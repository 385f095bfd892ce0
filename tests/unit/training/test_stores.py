"""A torch without libuv finds its other processes all the same."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest
from torch import distributed

from cai_jobs.training.stores import MAKERS, allow_torch_without_libuv

MODULES = [import_module(name) for name in MAKERS]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set by hand is taken back after a test."""
    for module in MODULES:
        monkeypatch.setattr(module, "TCPStore", module.TCPStore)
    monkeypatch.setenv("USE_LIBUV", "1")


def test_without_libuv_no_store_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def store(*given: Any, use_libuv: bool = True, **_: Any) -> None:
        if use_libuv:
            raise RuntimeError("use_libuv was requested but PyTorch was build without libuv support")
        made.append(given)

    monkeypatch.setattr(distributed, "TCPStore", store)
    allow_torch_without_libuv()
    for module in MODULES:
        module.TCPStore("first", 29500)
    assert made == [("first", 29500)] * 3
    assert os.environ["USE_LIBUV"] == "0"


def test_with_libuv_all_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "TCPStore", lambda *_, **__: None)
    before = [module.TCPStore for module in MODULES]
    allow_torch_without_libuv()
    assert [module.TCPStore for module in MODULES] == before
    assert os.environ["USE_LIBUV"] == "1"
