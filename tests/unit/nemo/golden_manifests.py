"""The golden manifests: everything `cai render` prints for the examples of engine nemo, made readable.

    .venv/bin/python -m tests.unit.nemo.golden_manifests       writes golden/*.yaml anew, for `git diff` to review

Keys are replaced by the names of their nodes, and texts are left out: other words for a principle change nothing here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cai_operator.manifests.site import Site
from cai_operator.plan import node_keys
from cai_operator.render import as_yaml, manifests_by_node
from cai_operator.validation import parse_pipeline

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[2] / "examples"
NAMES = ("mistral-7b", "llama-70b-multinode")


def golden(name: str) -> str:
    """The golden text of an example."""
    pipeline = parse_pipeline(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()))
    keys, _ = node_keys(pipeline.spec, {})
    text = ""
    for title, manifests in manifests_by_node(pipeline, {}, Site(images={"nemo": "cai-nemo:dev"})):
        for manifest in manifests:
            text += f"---\n# {title}\n{as_yaml(without_texts(manifest))}"
    for node, key in keys.items():
        text = text.replace(key, f"KEY({node})").replace(key[:8], f"KEY8({node})")
    return text


def without_texts(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest, of a ConfigMap only the names of its texts."""
    if manifest["kind"] != "ConfigMap":
        return manifest
    return {**manifest, "data": dict.fromkeys(manifest["data"], "...")}


if __name__ == "__main__":
    for each in NAMES:
        (HERE / "golden" / f"{each}.yaml").write_text(golden(each))
