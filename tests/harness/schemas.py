"""JSON schemas for kubeconform, made from what an API server publishes about its kinds (OpenAPI v3): no download.

They are stricter than the server's words: a field that a kind does not name is a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from tests.harness.objects import wait_for

from cai_operator.api import API_VERSION

LOCATION = "{{.Group}}_{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
"""How files are called, in kubeconform's own words."""

_REFERENCE = "#/components/schemas/"


def write(client: httpx.Client, directory: Path) -> int:
    """Write the schema of every kind the server has; how many there are."""
    found = 0
    for document in _documents(client):
        published = document.get("components", {}).get("schemas", {})
        definitions = {name: strict(schema) for name, schema in published.items()}
        for name, schema in definitions.items():
            for kind in schema.get("x-kubernetes-group-version-kind", ()):
                # the group of what has none is its version, for kubeconform
                group = kind["group"] or kind["version"]
                file = f"{group}_{kind['kind'].lower()}_{kind['version']}.json"
                whole = {"$ref": f"#/definitions/{name}", "definitions": definitions}
                (directory / file).write_text(json.dumps(whole), encoding="utf-8")
                found += 1
    return found


def _documents(client: httpx.Client) -> list[dict[str, Any]]:
    def published() -> Mapping[str, Any]:
        found: Mapping[str, Any] = client.get("/openapi/v3").raise_for_status().json()["paths"]
        return found

    # of a resource that was just defined it comes a moment later
    paths = wait_for(published, f"the schema of {API_VERSION}", lambda found: f"apis/{API_VERSION}" in found)
    versions = [one["serverRelativeURL"] for name, one in paths.items() if name.startswith(("api/v1", "apis/"))]
    return [client.get(path).raise_for_status().json() for path in versions]


def strict(schema: Any) -> Any:
    """A schema in which objects have the fields they name and no others, with references as a file of its own has them.

    What the server says to keep, or leaves open by naming no fields, stays open.
    """
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(part) for name, part in schema.items()}
    if isinstance(schema.get("$ref"), str):
        made["$ref"] = schema["$ref"].replace(_REFERENCE, "#/definitions/")
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    return made
