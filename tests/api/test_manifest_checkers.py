"""What a cluster is given, under two checkers of other people: checkov for settings, kubeconform for the schemas."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness import binaries, checkov, schemas, shipped
from tests.harness.availability import skipped_where_unavailable
from tests.harness.checkov import Complaint
from tests.harness.control_plane import ControlPlane

EXCEPTIONS = Path(__file__).parents[1] / "checker_exceptions.yaml"


@dataclass(frozen=True)
class Exemption:
    """A complaint we live with: the check, what it is about, and the reason."""

    check: str
    about: tuple[str, ...]
    reason: str

    def covers(self, complaint: Complaint) -> bool:
        return complaint.check == self.check and complaint.about.startswith(self.about)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with skipped_where_unavailable():
        return shipped.write(tmp_path_factory.mktemp("shipped"))


def exemptions() -> list[Exemption]:
    given = yaml.safe_load(EXCEPTIONS.read_text(encoding="utf-8"))
    return [Exemption(one["check"], tuple(one["about"]), one["reason"]) for one in given]


def test_checkov_has_nothing_against_them_that_has_no_reason(manifests: Path) -> None:
    with skipped_where_unavailable():
        complaints, passed = checkov.check(manifests)
    assert passed > 1500
    allowed = exemptions()
    assert [one for one in complaints if not any(exemption.covers(one) for exemption in allowed)] == []
    unused = [one for one in allowed if not any(one.covers(complaint) for complaint in complaints)]
    assert unused == []
    assert all(len(one.reason) > 40 for one in allowed)


def test_checkov_finds_what_is_wrong(tmp_path: Path) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "lab"}}
    container = {"name": "c", "image": "i", "securityContext": {"privileged": True}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump({**pod, "spec": {"containers": [container]}}))
    with skipped_where_unavailable():
        complaints, _ = checkov.check(tmp_path)
    assert "CKV_K8S_16" in {one.check for one in complaints}


@pytest.fixture(scope="module")
def schema_directory(control_plane: ControlPlane, crd: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("schemas")
    with control_plane.client() as client:
        assert schemas.write(client, directory) > 100
    return directory


def kubeconform(schema_directory: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    with skipped_where_unavailable():
        program = binaries.tool("kubeconform")
    command = [program, "-strict", "-summary", "-schema-location", schema_directory / schemas.LOCATION, *files]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def test_kubeconform_takes_them_by_the_servers_own_schemas(manifests: Path, schema_directory: Path) -> None:
    files = sorted(manifests.glob("*.yaml"))
    done = kubeconform(schema_directory, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(len([one for one in yaml.safe_load_all(path.read_text()) if one]) for path in files)
    assert f"{count} resources found in {len(files)} files - Valid: {count}, Invalid: 0, Errors: 0" in done.stdout


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"apiVersion": "batch/v1", "kind": "Job", "spec": {"templates": {}}}, "templates"),
        ({"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "spec": {"engin": "hf"}}, "engin"),
        ({"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "spec": {"seed": "x"}}, "seed"),
        ({"apiVersion": "v9", "kind": "Job", "spec": {}}, "could not find schema"),
    ],
)
def test_kubeconform_refuses_what_is_wrong(
    schema_directory: Path, tmp_path: Path, manifest: dict[str, Any], said: str
) -> None:
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**manifest, "metadata": {"name": "wrong"}}))
    done = kubeconform(schema_directory, tmp_path / "wrong.yaml")
    assert done.returncode == 1
    assert said in done.stdout
