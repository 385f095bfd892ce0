"""What the chart and the bundle take over from crds/ and operator/install/: definition and rights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CHART = Path("charts/cai-operator")
INSTALL = Path("operator/install")
BUNDLE = INSTALL / "kustomize" / "cai-operator.yaml"
ROLES = INSTALL / "3-role.yaml"
PARTS = ("1-namespace.yaml", "2-service-account.yaml", ROLES.name, "4-operator.yaml")
HEADER = "# Made by `make manifests` from {sources}; change those, not this.\n"


def chart_files(definition: Mapping[str, Any], roles: str) -> dict[Path, str]:
    """The files of the chart that its templates read: path below the repository's root -> text.

    The definition's head is left to a template, for it depends on values; its body is text, since Helm would write
    large numbers in another way.

    Args:
        definition: the CustomResourceDefinition.
        roles: text of 3-role.yaml, which has one ClusterRole, the operator's rights, and one Role, those on its Lease.
    """
    rules = {role["kind"]: role["rules"] for role in yaml.safe_load_all(roles) if "rules" in role}
    files: dict[str, tuple[str, Any]] = {
        "crd-spec.yaml": ("operator/cai_operator/api.py and crd/rules.py", definition["spec"]),
        "rules.yaml": (str(ROLES), rules["ClusterRole"]),
        "lease-rules.yaml": (str(ROLES), rules["Role"]),
    }
    return {
        CHART / "files" / name: HEADER.format(sources=sources) + dumped(document)
        for name, (sources, document) in files.items()
    }


def bundle(definition: str, parts: Sequence[str]) -> str:
    """The CustomResourceDefinition and the parts of operator/install/ as one file for kubectl.

    Args:
        definition: text of the file in crds/.
        parts: texts of the files PARTS.
    """
    namespace, *others = parts
    header = HEADER.format(sources=f"crds/ and {INSTALL}/")
    return header + "---\n".join(text.removeprefix("---\n") for text in (definition, namespace, *others))


def dumped(document: Any) -> str:
    """YAML as all generated files have it: fields in their order, nothing by reference."""
    return yaml.dump(document, Dumper=_WithoutAnchors, sort_keys=False, width=120, allow_unicode=True)


class _WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True
