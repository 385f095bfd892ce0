"""The whole CustomResourceDefinition as a document."""

from __future__ import annotations

from typing import Any

from cai_operator.api import GROUP, KIND, PLURAL, SHORT_NAME, VERSION, CAIPipeline, PipelineStatus, Spec
from cai_operator.crd.rules import RULES
from cai_operator.crd.schema import Schema, at, structural

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("Engine", "string", ".spec.engine", "The programs that train and serve."),
    ("Phase", "string", ".status.phase", "One word for the whole pipeline."),
    ("Stage", "string", ".status.activity", "What is being worked on, how far it is, how long it will take."),
    ("Progress", "string", ".status.progress", "Stages done of stages enabled."),
    ("Message", "string", ".status.message", "One sentence for the whole pipeline."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since it was made."),
)
"""Columns of `kubectl get`: name, type, path, what it shows."""

ONLY_WIDE = frozenset({"Message"})

CATEGORIES = ("all", "cai")
"""`kubectl get all` lists a pipeline beside the jobs and servers that belong to it."""

LISTS_BY_KEY = {"conditions": "type", "stages": "name", "stages[].parts": "name"}
"""Lists of the status whose items have a name: paths below `status` -> the field that names an item."""


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition (apiextensions.k8s.io/v1)."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "cai-operator"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": list(CATEGORIES),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
                    "schema": {"openAPIV3Schema": resource_schema()},
                }
            ],
        },
    }


def resource_schema() -> Schema:
    """The structural schema of the resource, rules in their places."""
    schema: Schema = {
        "description": _summary(CAIPipeline),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Group and version of this kind: {GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"This kind: {KIND}."},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": structural(Spec, with_defaults=True),
            "status": _status(),
        },
    }
    for rule in RULES:
        for path in rule.paths:
            at(schema, path).setdefault("x-kubernetes-validations", []).append(rule.validation())
    return schema


def _status() -> Schema:
    schema = structural(PipelineStatus, with_defaults=False)
    for path, key in LISTS_BY_KEY.items():
        at(schema, path).update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]})
    return schema


def _column(name: str, kind: str, path: str, description: str) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | ({"priority": 1} if name in ONLY_WIDE else {})


def _summary(model: type) -> str:
    return (model.__doc__ or "").strip().partition("\n\n")[0]
