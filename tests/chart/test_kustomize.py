"""The bundle for kubectl and the kustomize base, as a real kubectl builds them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness import binaries
from tests.harness.availability import skipped_where_unavailable
from tests.harness.chart import ROOT

INSTALL = ROOT / "operator" / "install"
BASE = INSTALL / "kustomize"

Object = dict[str, Any]


@pytest.fixture(scope="module")
def kubectl() -> Path:
    with skipped_where_unavailable():
        return binaries.find_or_build("kubectl")["kubectl"]


def built(kubectl: Path, directory: Path) -> list[Object]:
    done = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def read(text: str) -> list[Object]:
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def sources() -> list[Object]:
    files = [*sorted((ROOT / "crds").glob("*.yaml")), *sorted(INSTALL.glob("*.yaml"))]
    return [document for path in files for document in read(path.read_text())]


def test_the_bundle_is_all_there_is_to_apply() -> None:
    assert read((BASE / "cai-operator.yaml").read_text()) == sources()


def test_the_base_is_the_same(kubectl: Path) -> None:
    def named(objects: list[Object]) -> dict[tuple[str, str], Object]:
        return {(one["kind"], one["metadata"]["name"]): one for one in objects}

    assert named(built(kubectl, BASE)) == named(sources())


def test_the_overlay_of_the_readme_changes_images_and_namespace(kubectl: Path, tmp_path: Path) -> None:
    (overlay,) = re.findall(r"```yaml\n(.*?)```", (INSTALL / "README.md").read_text(), re.DOTALL)
    here = overlay.replace("../cai-operator/operator/install/kustomize", "../kustomize")
    assert here != overlay
    here = here.replace("namespace: cai-system", "namespace: elsewhere")
    # kustomize takes bases by relative paths only
    (tmp_path / "kustomize").mkdir()
    for file in BASE.iterdir():
        (tmp_path / "kustomize" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "kustomization.yaml").write_text(here)
    objects = built(kubectl, tmp_path / "overlay")
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/cai-operator:1"
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables == {"CAI_IMAGE_HF": "registry.example/cai-jobs:1", "CAI_IDENTITY": None}
    subjects = [one["subjects"][0]["namespace"] for one in objects if "subjects" in one]
    assert subjects == ["elsewhere"] * 2
