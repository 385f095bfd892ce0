"""A pipeline begun under one version of the operator goes on under another, whose children look otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.api.operator.test_spec_change import change, job_of
from tests.harness.control_plane import ControlPlane
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


def unmark(api: Api) -> None:
    """What the operator notes on its children is gone, as if its version did not know to note it."""
    nothing = {"metadata": {"annotations": {"cai.dev/made-from": None, "cai.dev/settings": None}}}
    for kind in (JOB, DEPLOYMENT, SERVICE):
        for name in api.names(kind):
            api.patch(kind, name, nothing)


def annotations(api: Api, deployment: str) -> dict[str, str]:
    return dict((api.get(DEPLOYMENT, deployment) or {"metadata": {}})["metadata"].get("annotations", {}))


def image_of(child: dict[str, Any]) -> str:
    return str(child["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize("words", ["labels,service,fields", "names"])
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
    unmark(api)

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
    old = version("labels", OLD)
    api.create(PIPELINE, short("served", {"stages": {"slData": off, "sft": off, "serve": on}}))
    api.wait_for_phase("served", "Succeeded")
    [pod] = api.list(POD, **{"cai.dev/node": "serve"})
    old.stop()
    unmark(api)

    version()
    wait_for(lambda: annotations(api, "served-serve"), "a look", lambda found: "cai.dev/settings" in found)
    change(api, "served", {"stages": {"datasets": {"retries": 7}}})
    assert api.names(POD) >= {pod["metadata"]["name"]}
    assert api.status("served")["phase"] == "Succeeded"

    change(api, "served", {"stages": {"serve": {"resources": {"memory": "3Gi"}}}})
    wait_for(lambda: api.get(POD, pod["metadata"]["name"]) is None, "the old pod to go")
    api.wait_for_phase("served", "Succeeded")
    assert image_of(api.get(DEPLOYMENT, "served-serve") or {}) == NEW


CRD = Path(__file__).parents[3] / "crds" / "cai.dev_caipipelines.yaml"


@pytest.fixture
def define(control_plane_with_jobs: ControlPlane) -> Iterator[Callable[[str], None]]:
    """`define("older")`, "newer" or "ours": the definition that the API server serves; ours at the end."""

    def apply(which: str) -> None:
        document = yaml.load(CRD.read_text(), Loader=yaml.CSafeLoader)
        schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        spec, status = schema["spec"]["properties"], schema["status"]["properties"]
        if which == "older":
            del spec["template"]["properties"]["shmSize"]
            del status["stages"]["items"]["properties"]["reason"]
        if which == "newer":
            spec["stages"]["properties"]["sft"]["properties"]["warmth"] = {"type": "integer", "default": 3}
            spec["flavour"] = {"type": "string"}
            status["costs"] = {"type": "object", "additionalProperties": {"type": "integer"}}
            status["stages"]["items"]["properties"]["colour"] = {"type": "string"}
        words = ["apply", "--server-side", "--force-conflicts", "-f", "-"]
        control_plane_with_jobs.kubectl(*words, stdin=yaml.safe_dump(document))

    yield apply
    apply("ours")


def stored(api: Api, change: dict[str, Any], look: Callable[[dict[str, Any]], Any]) -> None:
    """Wait until the API server serves a definition, by what it keeps of a change."""
    wait_for(lambda: api.patch(PIPELINE, "short", change), "another definition to be served", look)


def test_stored_objects_survive_an_upgrade_of_the_definition(
    api: Api, player: Player, version: Versions, define: Callable[[str], None]
) -> None:
    player.script("slData", Run())
    define("older")
    version()
    wait_for(lambda: _is_pruned(api, {"template": {"shmSize": "1Gi"}}), "the older definition")
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    wait_for(lambda: api.node("short", "slData").get("state"), "slData to be seen", lambda state: state == "Running")
    keys = {stage["name"]: stage.get("key") for stage in api.status("short")["stages"]}
    define("ours")
    new = {"spec": {"template": {"shmSize": "1Gi"}}}
    stored(api, new, lambda found: "shmSize" in found["spec"].get("template", {}))
    change(api, "short", {"stages": {"sft": {"retries": 7}}})
    assert {stage["name"]: stage.get("key") for stage in api.status("short")["stages"]} == keys
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE


def test_a_newer_definition_stops_nothing_and_rolling_it_back_loses_only_what_is_new(
    api: Api, player: Player, version: Versions, define: Callable[[str], None]
) -> None:
    player.script("slData", Run())
    operator = version()
    api.create(PIPELINE, short())
    player.wait_for_running("slData")
    before = uids(api, JOB, DEPLOYMENT, POD)
    define("newer")
    stored(api, {"spec": {"flavour": "lemon"}}, lambda found: "flavour" in found["spec"])
    api.patch(PIPELINE, "short", {"status": {"costs": {"gpuSeconds": 12}}}, "status")
    change(api, "short", {"stages": {"sft": {"retries": 7}}})
    assert api.pipeline("short")["spec"]["stages"]["sft"]["warmth"] == 3
    assert api.status("short")["phase"] == "Running"
    assert api.status("short")["costs"] == {"gpuSeconds": 12}
    # a watch of the old definition's may go on for minutes, and drops what only the new one knows
    operator.stop()
    operator.start()
    words = "short: this version does not know, and passes over: spec."
    wait_for(operator.log, "the new fields to be told", lambda log: words in log)
    assert api.status("short")["phase"] == "Running"

    define("ours")
    wait_for(lambda: api.pipeline("short")["spec"], "our definition again", lambda spec: "flavour" not in spec)
    change(api, "short", {"stages": {"sft": {"retries": 8}}})
    assert uids(api, JOB, DEPLOYMENT, POD) == before
    assert "costs" not in api.status("short")
    define("newer")
    wait_for(lambda: api.pipeline("short")["spec"]["stages"]["sft"], "the newer one", lambda sft: "warmth" in sft)
    assert "flavour" not in api.pipeline("short")["spec"]
    player.end("slData")
    api.wait_for_phase("short", "Succeeded")
    assert runs_of(player.started) == ONCE


def _is_pruned(api: Api, spec: dict[str, Any]) -> bool:
    """Whether the API server drops a part of a spec that it is asked to take, as its definition does not have it."""
    asked = {**short("asked"), "apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline"}
    asked["spec"] |= spec
    answer = api.client.post(PIPELINE.path(api.namespace), params={"dryRun": "All"}, json=asked).raise_for_status()
    return not set(spec) & {name for name, part in answer.json()["spec"].items() if part == spec.get(name)}
