"""The scripts for Argo CD, run as Argo CD runs them: the health of every state, and what may be done in it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.harness import argo_lua
from tests.unit.argocd import generated
from tests.unit.argocd.generated import SCRIPTS, script, states

from cai_operator import conditions
from cai_operator.api import Phase

TYPES = {conditions.READY, conditions.PROGRESSING, conditions.DEGRADED, conditions.SUSPENDED}
REASONS = {
    value
    for name, value in vars(conditions).items()
    if name.isupper() and isinstance(value, str) and value not in TYPES
}
EXPECTED = {
    "Progressing": (
        *("no-status", "changed-spec", "being-deleted", "pending", "starting", "server-loading", "running"),
        *("running-without-total", "queued", "retrying", "older-model-served", "server-away"),
    ),
    "Healthy": ("succeeded", "succeeded-without-serving"),
    "Suspended": ("suspended", "suspended-after-failure"),
}
"""All others are Degraded."""


def health_of(name: str) -> tuple[str, str]:
    return argo_lua.health(script("health.lua"), states()[name].document)


def actions_of(name: str) -> set[str]:
    """The actions that are offered and not disabled."""
    found = argo_lua.discover(script("actions/discovery.lua"), states()[name].document)
    assert set(found) == set(generated.ACTIONS)
    return {action for action, how in found.items() if not how["disabled"]}


def degraded(name: str) -> dict[str, Any]:
    found = states()[name].document.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == "Degraded" and one["status"] == "True"), {})


# the states


def test_every_phase_and_every_reason_is_among_the_states():
    seen: set[str] = set()
    phases = set()
    for state in states().values():
        status = state.document.get("status", {})
        phases.add(status.get("phase"))
        seen |= {one["reason"] for one in status.get("conditions", [])}
        seen |= {node["reason"] for stage in status.get("stages", []) for node in (stage, *stage["parts"])}
    assert phases == {None, *Phase}
    assert REASONS - seen == set()


def test_no_two_states_have_one_name():
    assert len(states()) == len(generated.every_state())


# health


@pytest.mark.parametrize("name", states())
def test_the_health_of(name):
    status, message = health_of(name)
    assert status == next((health for health, names in EXPECTED.items() if name in names), "Degraded")
    assert message


@pytest.mark.parametrize("name", states())
def test_degraded_is_what_the_operator_calls_so_and_the_message_has_its_words(name):
    status, message = health_of(name)
    if status == "Degraded":
        assert message.startswith(f"{degraded(name)['reason']}: {degraded(name)['message']}")
    elif degraded(name):
        assert status in ("Suspended", "Progressing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("running", "sft 40/60 (67 %), 2m left; 3/4 stages done"),
        ("running-without-total", "sft 40 steps; 3/4 stages done"),
        ("queued", "models Queued; datasets Queued; 0/4 stages done"),
        ("succeeded", "10/10 stages done; served at http://tiny-serve:1427"),
        ("suspended", "suspended; 3/4 stages done"),
        ("changed-spec", "waits for the operator to look at the changed spec"),
    ],
)
def test_the_message_of(name, message):
    assert health_of(name)[1] == message


def test_a_stage_that_goes_on_beside_a_failed_one_is_named():
    assert health_of("partly-failed")[1].endswith("; meanwhile ppo 3/40 (8 %), 4m left")


@pytest.mark.parametrize("status", [{}, {"observedGeneration": 1}, {"observedGeneration": 1, "conditions": []}])
def test_half_a_status_is_no_error(status):
    document = {**states()["no-status"].document, "status": status}
    assert argo_lua.health(script("health.lua"), document)[0] == "Progressing"


def test_a_resource_without_a_generation_is_judged_by_its_status():
    document = states()["succeeded"].document
    metadata = {name: part for name, part in document["metadata"].items() if name != "generation"}
    assert argo_lua.health(script("health.lua"), {**document, "metadata": metadata})[0] == "Healthy"


# actions


@pytest.mark.parametrize("name", states())
def test_suspend_or_resume_is_offered(name):
    other = "resume" if name in EXPECTED["Suspended"] else "suspend"
    assert actions_of(name) - {"retry"} == {other}


def test_a_retry_is_offered_where_a_stage_failed():
    offered = {name for name in states() if "retry" in actions_of(name)}
    assert offered == {
        *("input-error", "retries-exhausted", "deadline-exceeded", "failed-out-of-memory", "stage-failed"),
        *("partly-failed", "suspended-after-failure"),
    }


@pytest.mark.parametrize("name", states())
@pytest.mark.parametrize("action", generated.ACTIONS)
def test_an_action_changes_one_field_and_nothing_else(name, action):
    document = states()[name].document
    changed = argo_lua.act(generated.action_script(action), document)
    wanted = {**document, "spec": {**document["spec"], "suspend": action == "suspend"}}
    if action == "retry":
        annotations = {"cai.dev/retry": "2026-01-01T12:00:00Z"}
        wanted = {**document, "metadata": {**document["metadata"], "annotations": annotations}}
    assert changed == wanted


def test_a_retry_keeps_other_annotations_and_replaces_the_last_one():
    document = states()["stage-failed"].document
    annotations = {"team": "red", "cai.dev/retry": "yesterday"}
    document = {**document, "metadata": {**document["metadata"], "annotations": annotations}}
    changed = argo_lua.act(generated.action_script("retry"), document)
    assert changed["metadata"]["annotations"] == {"team": "red", "cai.dev/retry": "2026-01-01T12:00:00Z"}


# an application of applications


@pytest.mark.parametrize("status", argo_lua.STATUSES)
def test_an_application_has_the_health_argo_cd_gave_it(status):
    lua = (generated.EXAMPLE / "application-health.lua").read_text()
    found = argo_lua.health(lua, {"status": {"health": {"status": status, "message": "so it is"}}})
    assert found == (status, "so it is")
    assert argo_lua.health(lua, {"status": {"health": {"status": status}}}) == (status, "")


@pytest.mark.parametrize("document", [{"metadata": {}}, {"status": {}}, {"status": {"health": {}}}])
def test_an_application_nobody_has_looked_at_is_not_healthy(document):
    assert argo_lua.health((generated.EXAMPLE / "application-health.lua").read_text(), document)[0] == "Progressing"


# the machine itself


@pytest.mark.parametrize(
    "lua",
    [
        'return { status = "Healthy", message = ("x"):rep(2) }',
        'return { status = "Healthy", message = string.format("%d", 1) }',
        "return { status = math.floor(1) }",
        'return { status = os.date("%x") }',
        'return { status = require("string") }',
        "return { status = io.open('/etc/passwd') }",
        'return { status = "Fine" }',
        'return { message = "no status" }',
        'return "Healthy"',
    ],
)
def test_what_argo_cd_has_not_or_does_not_take_is_an_error(lua):
    with pytest.raises(argo_lua.ScriptError):
        argo_lua.health(lua, {"metadata": {}})


def test_tables_come_back_as_they_were():
    document = {"spec": {"empty": {}, "list": [], "deep": [{"a": {}}, {"b": [1, 2.5, True]}], "text": "x"}}
    assert argo_lua.act("return obj", document) == document


# generated files


@pytest.mark.parametrize("path", generated.files(), ids=lambda path: path.relative_to(generated.EXAMPLE).as_posix())
def test_a_generated_file_is_what_would_be_generated(path):
    assert path.read_text(encoding="utf-8") == generated.files()[path], "run python -m tests.unit.argocd.generated"


def test_no_test_data_is_left_over():
    there = {path for folder in ("testdata", "actions/testdata") for path in (SCRIPTS / folder).iterdir()}
    assert there - set(generated.files()) == set()


def test_the_health_table_of_the_documentation_is_what_would_be_generated():
    written = generated.DOCUMENTATION.read_text(encoding="utf-8")
    assert written == generated.documentation(), "run python -m tests.unit.argocd.generated"


def test_the_config_map_holds_the_scripts_word_for_word():
    data = yaml.safe_load(generated.config_map())["data"]
    assert data["resource.customizations.health.cai.dev_CAIPipeline"] == script("health.lua")
    actions = yaml.safe_load(data["resource.customizations.actions.cai.dev_CAIPipeline"])
    assert actions["discovery.lua"] == script("actions/discovery.lua")
    definitions = {one["name"]: one["action.lua"] for one in actions["definitions"]}
    assert definitions == {action: generated.action_script(action) for action in generated.ACTIONS}


def test_the_test_data_for_argo_cd_says_what_the_scripts_say():
    """As Argo CD's own tests read these files."""
    for test in yaml.safe_load(script("health_test.yaml"))["tests"]:
        found = argo_lua.health(script("health.lua"), yaml.safe_load(script(test["inputPath"])))
        assert {"status": found[0], "message": found[1]} == test["healthStatus"]
    tests = yaml.safe_load(script("actions/action_test.yaml"))
    for test in tests["discoveryTests"]:
        document = yaml.safe_load(script(f"actions/{test['inputPath']}"))
        found = argo_lua.discover(script("actions/discovery.lua"), document)
        assert [{"name": name, **found[name]} for name in generated.ACTIONS] == test["result"]
    for test in tests["actionTests"]:
        document, output = (
            yaml.safe_load(script(f"actions/{test[path]}")) for path in ("inputPath", "expectedOutputPath")
        )
        assert argo_lua.act(generated.action_script(test["action"]), document) == output
