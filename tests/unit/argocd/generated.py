"""What is made from the Lua scripts and the operator's statuses: test data for Argo CD, a ConfigMap, the health table.

.venv/bin/python -m tests.unit.argocd.generated        writes all of them anew, for `git diff` to review
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.harness import argo_lua
from tests.unit.argocd.states import Shown, every_state

from cai_operator.made_part import with_part

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "argocd"
SCRIPTS = EXAMPLE / "resource_customizations" / "cai.dev" / "CAIPipeline"
DOCUMENTATION = ROOT / "docs" / "argocd.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- health table: begin -->\n", "<!-- health table: end -->\n"

ACTIONS = ("suspend", "resume", "retry")
CONTRIBUTED = (
    *("no-status", "changed-spec", "being-deleted", "pending", "starting", "running", "queued", "retrying"),
    *("unschedulable", "secret-missing", "stage-failed", "partly-failed", "gate-not-met", "spec-invalid"),
    *("suspended", "suspended-after-failure", "succeeded", "succeeded-without-serving", "served-and-refused"),
)
"""States in the test data for Argo CD: one or two for each way through the script; the table has them all."""

ACTED_ON = {"running": "suspend", "suspended": "resume", "stage-failed": "retry"}
"""States whose actions are in the test data, and the action that is done in each."""

CONFIG_MAP = """\
# What Argo CD is to know about pipelines: their health, and what may be done with them by hand. Made from health.lua,
# actions/ and application-health.lua beside this file; docs/argocd.md says how to install it.
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  namespace: argocd
data:
"""


@cache
def states() -> Mapping[str, Shown]:
    """Every state a pipeline can show, by name."""
    return {state.name: state for state in every_state()}


def script(name: str) -> str:
    """A Lua script, by its path from the customization's folder."""
    return (SCRIPTS / name).read_text(encoding="utf-8")


def action_script(action: str) -> str:
    """The script of an action."""
    return script(f"actions/{action}/action.lua")


def files() -> dict[Path, str]:
    """Every generated file but the table in the documentation."""
    made = {EXAMPLE / "argocd-cm.yaml": config_map()}
    contributed = [states()[name] for name in CONTRIBUTED]
    made[SCRIPTS / "health_test.yaml"] = _yaml({"tests": [_health_test(state) for state in contributed]})
    for state in contributed:
        made[SCRIPTS / "testdata" / f"{state.name}.yaml"] = _yaml(state.document)
    discoveries, actions = [], []
    for name, action in ACTED_ON.items():
        document = states()[name].document
        output = f"{name}-{action}.yaml"
        made[SCRIPTS / "actions" / "testdata" / f"{name}.yaml"] = _yaml(document)
        made[SCRIPTS / "actions" / "testdata" / output] = _yaml(argo_lua.act(action_script(action), document))
        discoveries.append({"inputPath": f"testdata/{name}.yaml", "result": _offered(document)})
        paths = {"inputPath": f"testdata/{name}.yaml", "expectedOutputPath": f"testdata/{output}"}
        actions.append({"action": action, **paths})
    tests = {"discoveryTests": discoveries, "actionTests": actions}
    made[SCRIPTS / "actions" / "action_test.yaml"] = _yaml(tests)
    return made


def config_map() -> str:
    """The ConfigMap argocd-cm with nothing in it but what pipelines need."""
    actions = f"discovery.lua: |\n{_indented(script('actions/discovery.lua'), 2)}definitions:\n"
    for action in ACTIONS:
        actions += f"- name: {action}\n  action.lua: |\n{_indented(action_script(action), 4)}"
    data = {
        "resource.customizations.health.cai.dev_CAIPipeline": script("health.lua"),
        "resource.customizations.actions.cai.dev_CAIPipeline": actions,
        "resource.customizations.health.argoproj.io_Application": (EXAMPLE / "application-health.lua").read_text(),
    }
    return CONFIG_MAP + "".join(f"  {key}: |\n{_indented(text, 4)}" for key, text in data.items())


def health_table() -> str:
    """The health of every state as a table in Markdown."""
    lines = ["| state | phase | health | message |", "|---|---|---|---|"]
    for state in states().values():
        status, message = argo_lua.health(script("health.lua"), state.document)
        phase = state.document.get("status", {}).get("phase", "")
        lines.append(f"| {state.what} | {phase} | **{status}** | {message.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def documentation() -> str:
    """The page of the documentation with the table as it is now."""
    return with_part(
        DOCUMENTATION.name, DOCUMENTATION.read_text(encoding="utf-8"), TABLE_BEGINS, TABLE_ENDS, health_table()
    )


def _health_test(state: Shown) -> dict[str, Any]:
    status, message = argo_lua.health(script("health.lua"), state.document)
    return {"healthStatus": {"status": status, "message": message}, "inputPath": f"testdata/{state.name}.yaml"}


def _offered(document: dict[str, Any]) -> list[dict[str, Any]]:
    found = argo_lua.discover(script("actions/discovery.lua"), document)
    return [{"name": action, **dict(sorted(found[action].items()))} for action in ACTIONS]


def _indented(text: str, spaces: int) -> str:
    return textwrap.indent(text, " " * spaces)


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text


def write() -> None:
    """Write everything anew, and take away test data of states that are no more."""
    made = files()
    for folder in (SCRIPTS / "testdata", SCRIPTS / "actions" / "testdata"):
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path not in made:
                path.unlink()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    DOCUMENTATION.write_text(documentation(), encoding="utf-8")


if __name__ == "__main__":
    write()
