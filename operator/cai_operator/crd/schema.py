"""Pydantic models to structural schemas: the OpenAPI v3 subset that a CustomResourceDefinition may hold.

What is allowed there: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
under "Specifying a structural schema".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from cai_operator.validation import PATTERNS

Schema = dict[str, Any]

FREE_OBJECT: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
FREE_VALUE: Schema = {"x-kubernetes-preserve-unknown-fields": True, "maxProperties": 0}
"""Text, a number, a truth value or a list: the bound keeps mappings out, as arms of a union may not name types here."""

KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
)


def structural(model: type[BaseModel], with_defaults: bool) -> Schema:
    """The structural schema of a model.

    Args:
        model: it, described field by field.
        with_defaults: whether the API server is to write constant defaults into objects that leave them out; into
            items of lists it never does. A default of None is never written: what is absent is derived by the operator
            from other fields.
    """
    schema = model.model_json_schema(by_alias=True)
    return _converted(schema, schema.get("$defs", {}), with_defaults)


def at(schema: Schema, path: str) -> Schema:
    """The part of a schema at a path such as `spec.stages.rlData.temperatures[]`.

    Raises:
        KeyError: there is no such field.
    """
    for name in path.replace("[]", ".[]").split("."):
        schema = schema["items"] if name == "[]" else schema["properties"][name]
    return schema


def _converted(node: Mapping[str, Any], definitions: Mapping[str, Any], with_defaults: bool) -> Schema:
    node = _resolved(node, definitions)
    if "anyOf" in node:
        return {**_described(node), **FREE_VALUE}
    made = {name: node[name] for name in KEPT if name in node}
    if "pattern" in node:
        text = "string(self)" if "x-kubernetes-int-or-string" in node else "self"
        words = f"allowed: {PATTERNS[node['pattern']]}"
        # in place of the pattern, which the API server would show as it is to who does not keep to it
        made["x-kubernetes-validations"] = [{"rule": f"{text}.matches(r'{node['pattern']}')", "message": words}]
    if "const" in node:
        made["enum"] = [node["const"]]
    for bound, name in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            made |= {name: node[bound], bound: True}
    if node.get("type") == "array":
        # with a default in an item the list is another one, and tools that compare lists whole see a change by hand
        made["items"] = _converted(node["items"], definitions, with_defaults=False)
    if node.get("type") == "object":
        made |= _object(node, definitions, with_defaults)
    if with_defaults and (default := _default(node, made)) is not None:
        made["default"] = default
    return made


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node itself: what it refers to, and the one arm of it that is not null, laid under its own words."""
    while True:
        if "$ref" in node:
            below = definitions[str(node["$ref"]).rpartition("/")[2]]
        elif len(arms := [arm for arm in node.get("anyOf", ()) if arm.get("type") != "null"]) == 1:
            below = arms[0]
        else:
            return node
        node = {**below, **{name: value for name, value in node.items() if name not in ("$ref", "anyOf")}}


def _object(node: Mapping[str, Any], definitions: Mapping[str, Any], with_defaults: bool) -> Schema:
    values = node.get("additionalProperties")
    if values is True:
        return FREE_OBJECT
    if isinstance(values, Mapping):
        return {"additionalProperties": _converted(values, definitions, with_defaults)}
    fields = {name: _converted(field, definitions, with_defaults) for name, field in node.get("properties", {}).items()}
    required = {"required": node["required"]} if "required" in node else {}
    return {**required, **({"properties": fields} if fields else {})}


def _default(node: Mapping[str, Any], made: Schema) -> Any:
    default = node.get("default")
    if default in (None, "", []):
        return None
    if made.get("type") != "object":
        return default
    # an object is written out with the defaults of its fields: the API server checks rules on a default as it stands
    fields = made.get("properties", {})
    return {name: field["default"] for name, field in fields.items() if "default" in field} or None


def _described(node: Mapping[str, Any]) -> Schema:
    return {"description": node["description"]} if "description" in node else {}
