"""The reference page of the resource, as Markdown: one section an object, its fields in a table, its rules below."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from cai_operator import api, api_base, api_stages, conditions
from cai_operator.api import CAIPipeline, PipelineStatus, Spec
from cai_operator.crd.definition import CATEGORIES, COLUMNS, ONLY_WIDE
from cai_operator.crd.rules import RULES, Rule
from cai_operator.crd.words import CONDITIONS, PHASES, REASONS, STATES
from cai_operator.stages import STAGE_NEEDS, STAGES, TRAINING_STAGES
from cai_operator.status import NodeStatus, StageStatus

Fields = Mapping[str, Mapping[str, Any]]

PATTERNS: Mapping[str, str] = {
    api_base.OBJECT_NAME_PATTERN: "name of an object",
    api_base.QUANTITY_PATTERN: "quantity: `2`, `500m`, `16Gi`",
    api_base.DURATION_PATTERN: "duration: `90m`, `1d12h`",
    api_base.CONFIG_KEY_PATTERN: "key",
    api_base.URL_PATTERN: "http or https address",
    api_base.INTERFACE_PATTERN: "name of an interface",
    api_base.DEVICE_PATTERN: "name of a resource",
    api_base.COMMUNICATION_PATTERN: "name of a variable",
}
STAGE_SECTION = "Every stage"

INTRODUCTION = f"""\
# CAIPipeline

Every field of a `CAIPipeline` (`{api.API_VERSION}`), its default, and what is refused: what
`kubectl explain {api.SHORT_NAME}` tells, on one page. Made by `make manifests`. Needs Kubernetes 1.29 or newer.

```yaml
apiVersion: {api.API_VERSION}
kind: {api.KIND}
metadata: {{name: pocket}}
spec:
  engine: hf
  models:
    base: {{pocket: {{}}}}       # the only field without a default
```

Defaults that are constants are written into the resource when it is applied; those that depend on other fields are
not, and the tables say what they depend on. What the API server cannot check (an option of a program in `overrides`, a
Secret that is not there) is told by the condition `Degraded`.
"""


def reference() -> str:
    """The page."""
    definitions = _definitions()
    lines = [INTRODUCTION, *_printed(), "## spec\n", f"{_summary(Spec)}\n", *_body(definitions, "Spec")]
    for name in definitions:
        if name == "Stages":
            lines += _stages(definitions)
        elif name not in ("Spec", "Metadata", "Pocket") and not name.endswith("Stage"):
            lines += [f"### {name}\n", *_described(definitions, name), *_body(definitions, name)]
    return "\n".join([*lines, *_status()]).rstrip() + "\n"


def _definitions() -> dict[str, Mapping[str, Any]]:
    """Every object below the spec by its model's name, in the order in which a reader of the spec meets them."""
    known = _worded(CAIPipeline.model_json_schema(by_alias=True))["$defs"]
    found: dict[str, Mapping[str, Any]] = {}

    def meet(name: str) -> None:
        if name not in found:
            found[name] = known[name]
            for field in known[name].get("properties", {}).values():
                for below in _references(field):
                    meet(below)

    meet("Spec")
    return found


def _worded(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with a description at every field, also where it is that of the object the field holds."""
    for model in (schema, *schema["$defs"].values()):
        for field in model.get("properties", {}).values():
            for name in _references(field):
                field.setdefault("description", schema["$defs"][name]["description"])
    return schema


def _printed() -> Iterator[str]:
    also = " and ".join(f"`kubectl get {category}`" for category in CATEGORIES)
    yield f"## kubectl get\n\n`kubectl get {api.SHORT_NAME}` prints, and {also} list beside other objects:\n"
    yield "| column | shows |\n|---|---|"
    for name, _, path, words in COLUMNS:
        yield f"| {name.upper()} | {words}{' Only with `-o wide`.' if name in ONLY_WIDE else ''} `{path}` |"
    yield f"\nThe annotation `{api.RETRY_ANNOTATION}`, set to a value not seen before, starts failed stages anew.\n"


def _body(definitions: Mapping[str, Mapping[str, Any]], name: str, without: frozenset[str] = frozenset()) -> list[str]:
    schema = definitions[name]
    fields = {field: value for field, value in schema.get("properties", {}).items() if field not in without}
    return [*_table(fields, frozenset(schema.get("required", ()))), *_refusals(_rules_of(definitions, name))]


def _described(definitions: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[str]:
    yield f"{definitions[name]['description']}\n"
    paths = [path for path, model in _paths(definitions).items() if model == name]
    shown = [f"`{path}`" for path in paths[:4]]
    yield f"At {', '.join(shown)}{f' and {len(paths) - 4} other places' if len(paths) > 4 else ''}.\n"


def _table(fields: Fields, required: frozenset[str]) -> Iterator[str]:
    if not fields:
        return
    yield "| field | type | default | |\n|---|---|---|---|"
    for name, field in fields.items():
        words, _, derived = field["description"].partition(" Default: ")
        default = "**required**" if name in required else _default(field, derived)
        yield f"| `{name}` | {_type(field)} | {default} | {words} |"
    yield ""


def _default(field: Mapping[str, Any], derived: str) -> str:
    if derived:
        return derived.rstrip(".")
    default = field.get("default")
    if default is None or default == [] or isinstance(default, dict) or _references(field):
        return ""
    return f"`{json.dumps(default) if isinstance(default, bool) else default}`"


def _type(field: Mapping[str, Any]) -> str:
    arms = [arm for arm in field.get("anyOf", ()) if arm.get("type") != "null"]
    if len(arms) > 1:
        return "text, number, truth value or list"
    node = arms[0] if arms else field
    if "$ref" in node:
        name = _references(node)[0]
        return "`{}`" if name == "Pocket" else f"[{name}](#{name.lower()})"
    if "const" in node:
        return f"`{str(node['const']).lower()}`"
    if "enum" in node:
        return " or ".join(f"`{word}`" for word in node["enum"])
    if node.get("pattern") in PATTERNS:
        return PATTERNS[node["pattern"]]
    if node.get("type") == "array":
        bounds = _bounds(node, "minItems", "maxItems")
        return f"list of {_type(node['items'])}{f'{bounds} items' if bounds else ''}"
    if node.get("type") == "object":
        values = node.get("additionalProperties")
        return f"mapping of names to {_type(values)}" if isinstance(values, Mapping) and values else "mapping"
    kinds = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return ("time" if node.get("format") == "date-time" else kinds[node["type"]]) + _bounds(node, "minimum", "maximum")


def _bounds(node: Mapping[str, Any], lowest: str, highest: str) -> str:
    if lowest in node and highest in node:
        return f", {node[lowest]:g} to {node[highest]:g}"
    words = {lowest: "at least", "exclusiveMinimum": "above", highest: "at most", "exclusiveMaximum": "below"}
    return "".join(f", {word} {node[bound]}" for bound, word in words.items() if bound in node)


def _references(field: Mapping[str, Any]) -> list[str]:
    """Names of the models a field holds."""
    found = [str(field["$ref"]).rpartition("/")[2]] if "$ref" in field else []
    for arm in (*field.get("anyOf", ()), *([field["items"]] if "items" in field else [])):
        found += _references(arm)
    return found


def _paths(definitions: Mapping[str, Mapping[str, Any]], name: str = "Spec", where: str = "spec") -> dict[str, str]:
    """Path of every object below one -> its model's name."""
    found = {where: name}
    for field, value in definitions[name].get("properties", {}).items():
        for below in _references(value):
            found |= _paths(definitions, below, f"{where}.{field}")
    return found


def _rules_of(definitions: Mapping[str, Mapping[str, Any]], name: str) -> list[Rule]:
    """The rules to be told in the section of an object; those of several stages are told in the stages' own section."""
    paths = _paths(definitions)
    found = []
    for rule in RULES:
        objects = {paths.get(path) or paths.get(path.rpartition(".")[0]) for path in rule.paths}
        section = next(iter(objects)) if len(objects) == 1 else STAGE_SECTION
        if section == name or (section is None and name == "Spec"):
            found.append(rule)
    return found


def _refusals(rules: list[Rule]) -> Iterator[str]:
    if not rules:
        return
    yield "Refused, with these words:\n"
    for rule in rules:
        field = rule.field or (rule.paths[0].rpartition(".")[2] if "temperatures" in rule.paths[0] else "")
        names = [path.rpartition(".")[2] for path in rule.paths]
        on = (
            f" of {', '.join(names)}"
            if len(rule.paths) > 1 and field and rule.paths[0].startswith("spec.stages")
            else ""
        )
        where = f"`{field}`{on}: " if field else "`metadata.name`: " if rule.paths == ("metadata.name",) else ""
        yield f"- {where}{rule.message}{' (checked when a resource is changed)' if rule.on_change else ''}"
    yield ""


def _stages(definitions: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    common = frozenset(info.alias or field for field, info in api_stages.Stage.model_fields.items())
    yield "### Stages\n\nEvery one may be left out, and then has its defaults.\n"
    yield "| stage | what it does | needs | its own fields |\n|---|---|---|---|"
    with_own = []
    for name in STAGES:
        model = _references(definitions["Stages"]["properties"][name])[0]
        own = [field for field in definitions[model]["properties"] if field not in common]
        with_own += [(name, model)] if own else []
        needs = ", ".join(STAGE_NEEDS.get(name, ()))
        several = "; on several nodes" if name in TRAINING_STAGES else ""
        listed = f"[{', '.join(own)}](#stage-{name.lower()})" if own else ""
        yield f"| `{name}` | {definitions[model]['description'].rstrip('.')}{several}. | {needs} | {listed} |"
    yield ""
    yield from _refusals(_rules_of(definitions, "Stages"))
    yield f"### {STAGE_SECTION}\n\n{_summary(api_stages.Stage)}\n"
    every = definitions["SftStage"]
    yield from _table({name: every["properties"][name] for name in every["properties"] if name in common}, frozenset())
    yield from _refusals(_rules_of(definitions, STAGE_SECTION))
    for name, model in with_own:
        yield f"### Stage {name}\n\n{definitions[model]['description']} Besides the fields of every stage:\n"
        yield from _body(definitions, model, without=common)


def _status() -> Iterator[str]:
    schema = _worded(PipelineStatus.model_json_schema(by_alias=True))
    definitions = schema["$defs"]
    yield "## status\n\nWritten by the operator: what it saw last.\n"
    yield from _written(schema["properties"])
    yield "| phase | |\n|---|---|"
    yield from (f"| `{phase}` | {words} |" for phase, words in PHASES.items())
    yield f"\n### StageStatus\n\n{_summary(StageStatus)}\n"
    parts = {"parts": definitions["StageStatus"]["properties"]["parts"]}
    yield from _written(definitions["NodeStatus"]["properties"] | parts)
    yield "| state | |\n|---|---|"
    yield from (f"| `{state}` | {words} |" for state, words in STATES.items())
    yield f"\n### NodeStatus\n\n{_summary(NodeStatus)} Fields as in [StageStatus](#stagestatus), without `parts`.\n"
    for name in ("Progress", "ArtifactStatus", "Condition"):
        yield f"### {name}\n\n{definitions[name]['description']}\n"
        yield from _written(definitions[name]["properties"])
    yield "| condition | true when | reasons |\n|---|---|---|"
    yield from (f"| `{type_}` | {true} | {reasons} |" for type_, (true, reasons) in CONDITIONS.items())
    yield "\n### Reasons\n\nOf the condition `Degraded`, and of a stage that does not get on.\n"
    yield "| reason | means | what to do |\n|---|---|---|"
    for reason, (means, cure) in REASONS.items():
        entry = f"`{reason}`" if reason == conditions.AS_EXPECTED else f"[`{reason}`](troubleshoot.md#{reason.lower()})"
        yield f"| {entry} | {means} | {cure} |"


def _written(fields: Fields) -> Iterator[str]:
    """A table of fields that the operator writes; words of `phase` and `state` have tables of their own."""
    yield "| field | type | |\n|---|---|---|"
    for name, field in fields.items():
        shown = "text" if name in ("phase", "state") else _type(field)
        yield f"| `{name}` | {shown} | {field['description']} |"
    yield ""


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())
