"""Names fit Kubernetes, are the same every time, and differ where they must."""

from __future__ import annotations

import re

import pytest

from cai_operator import names
from cai_operator.stages import NODES

KEY = "0123456789abcdef"
PIPELINES = ["a", "pocket", "7b-run", "a.b", "x" * 63, "x" * 62 + "y", "a-" * 31 + "b", "a." * 31 + "b"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_children_have_names_a_service_may_have(pipeline):
    made = [names.serve_name(pipeline)]
    for node in NODES:
        for retry in (None, "again"):
            made.append(names.job_name(pipeline, node.name, KEY, retry))
            made += [names.server_name(pipeline, node.name, role, KEY, retry) for role in names.ROLES]
    assert len(set(made)) == len(made)
    for name in made:
        assert len(name) <= names.LONGEST_CHILD_NAME
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)


def test_pipelines_do_not_share_names():
    made = [names.job_name(pipeline, "sft", KEY) for pipeline in [*PIPELINES, "a-b"]]
    assert len(set(made)) == len(made)


def test_names_tell_what_they_are():
    assert names.job_name("pocket", "slData", KEY) == "pocket-sl-data-01234567"
    assert names.server_name("pocket", "evaluateSlCai", "judge", KEY) == "pocket-evaluate-sl-cai-judge-01234567"
    assert names.job_name("pocket", "sft", KEY, "x").startswith("pocket-sft-01234567-r")
    assert names.artifact_path("pocket", "sft", KEY) == f"pocket/sft/{KEY}"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_labels_are_label_values(pipeline):
    for value in names.labels(pipeline, "evaluate", "evaluateBase", KEY, "job").values():
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", value)
        assert len(value) <= 63


def test_what_v1alpha1_promises_is_as_ever():
    """docs/upgrades.md: another version finds and selects children by these, and others rely on them."""
    assert (names.serve_name("mine"), names.claim_name("mine")) == ("mine-serve", "mine-artifacts")
    assert names.artifact_path("mine", "sft", "0123456789abcdef") == "mine/sft/0123456789abcdef"
    assert (
        names.labels("mine", "evaluate", "evaluateBase", "0123456789abcdef", "job").items()
        >= {
            "app.kubernetes.io/managed-by": "cai-operator",
            "cai.dev/pipeline": "mine",
            "cai.dev/stage": "evaluate",
            "cai.dev/node": "evaluateBase",
            "cai.dev/key": "0123456789abcdef",
            "cai.dev/kind": "job",
        }.items()
    )
    assert names.WORKLOAD_LABEL == "cai.dev/workload"
