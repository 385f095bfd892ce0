"""Values that are wrong are refused before anything is installed, with their path."""

from __future__ import annotations

from typing import Any

import pytest
from tests.harness.chart import refusal

CASES: list[tuple[dict[str, Any], str]] = [
    ({"image": {"tagg": "1"}}, "at '/image': additional properties 'tagg' not allowed"),
    ({"setings": {}}, "additional properties 'setings' not allowed"),
    (
        {"engines": {"hf": {"image": {"digset": ""}}}},
        "at '/engines/hf/image': additional properties 'digset' not allowed",
    ),
    (
        {"metrics": {"podMonitor": {"enable": True}}},
        "at '/metrics/podMonitor': additional properties 'enable' not allowed",
    ),
    ({"affinity": {"nodeAfinity": {}}}, "at '/affinity': additional properties 'nodeAfinity' not allowed"),
    ({"tolerations": [{"keys": "a"}]}, "at '/tolerations/0': additional properties 'keys' not allowed"),
    ({"extraEnv": [{"name": "A", "vale": "1"}]}, "at '/extraEnv/0': additional properties 'vale' not allowed"),
    ({"resources": {"request": {}}}, "at '/resources': additional properties 'request' not allowed"),
    ({"image": {"digest": "sha256:abc"}}, "at '/image/digest': 'sha256:abc' does not match pattern"),
    ({"image": {"tag": ""}}, "at '/image/tag': '' does not match pattern"),
    ({"settings": {"logLevel": "INFO"}}, "at '/settings/logLevel': value must be one of"),
    ({"settings": {"runAsUser": 0}}, "at '/settings/runAsUser': minimum: got 0, want 1"),
    ({"settings": {"healthPort": 70000}}, "at '/settings/healthPort': maximum: got 70,000, want 65,535"),
    ({"settings": {"workers": "many"}}, "at '/settings/workers': got string, want integer"),
    ({"watchNamespaces": "team-a"}, "at '/watchNamespaces': got string, want array"),
    ({"watchNamespaces": ["Team"]}, "at '/watchNamespaces/0': 'Team' does not match pattern"),
    ({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces': items at 0 and 1 are equal"),
    (
        {"podDisruptionBudget": {"maxUnavailable": 0}},
        "at '/podDisruptionBudget/maxUnavailable': minimum: got 0, want 1",
    ),
    ({"podLabels": {"a": 1}}, "at '/podLabels/a': got number, want string"),
    ({"replicas": -1}, "at '/replicas': minimum: got -1, want 0"),
    (
        {"extraEnv": [{"name": "HOME", "value": "/"}, {"name": "CAI_WORKERS", "value": "2"}]},
        "extraEnv[1].name: CAI_WORKERS is a setting of the operator, and has a value of its own",
    ),
]


@pytest.mark.parametrize(("values", "sentence"), CASES, ids=[sentence[:50] for _, sentence in CASES])
def test_it_is_refused_with_its_path(values: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(values)
