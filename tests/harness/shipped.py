"""Everything a cluster is given by this product, as files: what is installed, the chart, and what pipelines become."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from tests.harness import binaries
from tests.harness.pipelines import merged

from cai_operator.manifests.site import Site
from cai_operator.render import as_yaml, manifests_by_node
from cai_operator.validation import parse_pipeline

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "cai-operator"
NAMESPACE = "lab"
DIGEST = "sha256:" + 64 * "0"
SITE = Site(images={"hf": f"registry.example/cai-jobs@{DIGEST}", "nemo": f"registry.example/cai-nemo@{DIGEST}"})


def write(directory: Path) -> Path:
    """Write the manifests into a directory, one file each of `operator/install`, `crds`, the examples and the chart."""
    for path in [*(ROOT / "operator" / "install").glob("*.yaml"), *(ROOT / "crds").glob("*.yaml")]:
        (directory / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for path in (ROOT / "examples").glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document and document["kind"] == "CAIPipeline":
                _write_pipeline(directory, path.stem, merged(document, {"metadata": {"namespace": NAMESPACE}}))
    if CHART.is_dir():
        command = [binaries.tool("helm"), "template", "cai-operator", CHART, "--namespace", "cai-system"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (directory / "chart.yaml").write_text(done.stdout, encoding="utf-8")
    return directory


def _write_pipeline(directory: Path, name: str, document: dict[str, object]) -> None:
    (directory / f"pipeline-{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    groups = manifests_by_node(parse_pipeline(document), {}, SITE)
    made = [manifest for _, manifests in groups for manifest in manifests]
    # as `cai render` writes it: other YAML readers take 3e-05 for a number
    (directory / f"made-{name}.yaml").write_text("---\n".join(map(as_yaml, made)), encoding="utf-8")
