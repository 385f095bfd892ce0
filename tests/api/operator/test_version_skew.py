"""A pipeline begun under one version of the operator goes on under another, whose children look otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.api.operator.test_spec_change import change, job_of
from tests.harness.fault_proxy import FaultProxy
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.other_version import OTHER_LABEL
from tests.harness.outcomes import Run
from tests.harness.pipelines import short
from tests.harness.player import Player, runs_of

from cai_operator.manifests.kinds import DEPLOYMENT, JOB, PIPELINE, POD, SERVICE

OTHER = "tests.harness.other_version"
ONCE = {"models": 1, "datasets": 1, "slData": 1, "slData/server": 1, "sft": 1}
OLD, NEW = "registry.example/jobs:1", "registry.example/jobs:2"

Versions = Callable[..., OperatorProcess]


@pytest.fixture
def version(make_operator: Versions, proxy: FaultProxy) -> Versions:
    """`version(words, image)`: the operator of another version, running; without words the one that is tested."""

    def make(words: str = "", image: str = NEW) -> OperatorProcess:
        module = {"module": OTHER, "OTHER_VERSION": words} if words else {}
        operator = make_operator(proxy.url, CAI_IMAGE_HF=image, **module)
        operator.start()
        return operator

    return make


def uids(api: Api, *kinds: Any) -> set[str]:
    return {found["metadata"]["uid"] for kind in kinds for found in api.list(kind, **{"cai.dev/node": "slData"})}


def annotations(api: Api, deployment: str) -> dict[str, str]:
    return dict((api.get(DEPLOYMENT, deployment) or {"metadata": {}})["metadata"].get("annotations", {}))


def image_of(child: dict[str, Any]) -> str:
    return str(child["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize("words", ["labels,service,fields,unmarked", "names"])
def test_what_runs_goes_on_and_the_next_stage_is_the_new_versions(
    api: Api, player: Player, version: Versions, words: str
) -> None:
    player.script("slData", Run())
    old = version(words, OLD)
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    wait_for(lambda: api.node("short", "slData")["state"] == "Running", "slData to be seen running")
    before = uids(api, JOB, DEPLOYMENT, POD, SERVICE)
    old.stop()

    version()
    change(api, "short", {"stages": {"sft": {"retries": 7}}})
    assert uids(api, JOB, DEPLOYMENT, POD, SERVICE) == before
    assert api.condition("short", "Degraded")["reason"] == "AsExpected"
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE
    sft = job_of(api, "sft")
    assert (image_of(sft), OTHER_LABEL in sft["metadata"]["labels"]) == (NEW, False)


def test_other_keys_make_everything_anew(api: Api, player: Player, version: Versions) -> None:
    player.script("slData", Run(), Run())
    old = version("contract", OLD)
    api.create(PIPELINE, short())
    pod = player.wait_for_running("slData")
    key = api.node("short", "slData")["key"]
    old.stop()

    version()
    wait_for(lambda: len(player.running("slData")) == 2, "slData to run anew")
    assert api.get(POD, pod) is None
    assert api.node("short", "slData")["key"] != key
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == {**dict.fromkeys(ONCE, 2), "sft": 1}


def test_a_served_model_stays_until_the_user_says_something_else(api: Api, player: Player, version: Versions) -> None:
    off, on = {"enabled": False}, {"enabled": True}
    old = version("labels,unmarked", OLD)
    api.create(PIPELINE, short("served", {"stages": {"slData": off, "sft": off, "serve": on}}))
    api.wait_for_phase("served", "Succeeded")
    [pod] = api.list(POD, **{"cai.dev/node": "serve"})
    old.stop()

    version()
    wait_for(lambda: annotations(api, "served-serve"), "a look", lambda found: "cai.dev/settings" in found)
    change(api, "served", {"stages": {"datasets": {"retries": 7}}})
    assert api.names(POD) >= {pod["metadata"]["name"]}
    assert api.status("served")["phase"] == "Succeeded"

    change(api, "served", {"stages": {"serve": {"resources": {"memory": "3Gi"}}}})
    wait_for(lambda: api.get(POD, pod["metadata"]["name"]) is None, "the old pod to go")
    api.wait_for_phase("served", "Succeeded")
    assert image_of(api.get(DEPLOYMENT, "served-serve") or {}) == NEW
