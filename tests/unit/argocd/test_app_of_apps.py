"""The application of applications in examples/argocd: well formed, waves in order, every reference leads somewhere."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from tests.harness import binaries
from tests.harness.processes import Unavailable
from tests.unit.argocd.generated import EXAMPLE, ROOT

from cai_operator.texts import MissingTextError, of_node
from cai_operator.validation import parse_pipeline

APPS = EXAMPLE / "apps"
WAVE = "argocd.argoproj.io/sync-wave"
OPTIONS = "argocd.argoproj.io/sync-options"
RESOURCE_OPTIONS = {f"{what}={how}" for what in ("Prune", "Delete") for how in ("false", "confirm")}
APPLICATION_OPTIONS = {"CreateNamespace=true", "ServerSideApply=true", *RESOURCE_OPTIONS}


class Strict(BaseModel):
    """A part of Argo CD's or External Secrets' resources, as far as the example uses it; anything else is a mistake."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Metadata(Strict):
    name: str
    namespace: Literal["argocd"]
    annotations: dict[str, str] = {}


class Helm(Strict):
    release_name: str
    values_object: dict[str, Any]


class Source(Strict):
    repo_url: str = Field(alias="repoURL")
    target_revision: str
    path: str
    helm: Helm | None = None


class Destination(Strict):
    server: Literal["https://kubernetes.default.svc"]
    namespace: str


class Automated(Strict):
    prune: bool
    self_heal: Literal[True]


class SyncPolicy(Strict):
    automated: Automated
    sync_options: list[str] = []


class ApplicationSpec(Strict):
    project: str
    source: Source
    destination: Destination
    sync_policy: SyncPolicy


class Application(Strict):
    """A v1alpha1 Application."""

    api_version: Literal["argoproj.io/v1alpha1"]
    kind: Literal["Application"]
    metadata: Metadata
    spec: ApplicationSpec


class GroupKind(Strict):
    group: str
    kind: str


class Ignored(GroupKind):
    name: str


class Orphaned(Strict):
    warn: bool
    ignore: list[Ignored]


class ProjectSpec(Strict):
    description: str
    source_repos: list[str]
    destinations: list[Destination]
    cluster_resource_whitelist: list[GroupKind]
    orphaned_resources: Orphaned


class Project(Strict):
    """A v1alpha1 AppProject."""

    api_version: Literal["argoproj.io/v1alpha1"]
    kind: Literal["AppProject"]
    metadata: Metadata
    spec: ProjectSpec


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def application(path: Path) -> Application:
    return Application.model_validate(load(path))


ROOT_APPLICATION = EXAMPLE / "root.yaml"
PROJECT = APPS / "0-project.yaml"
CHILDREN = sorted(set(APPS.iterdir()) - {PROJECT})
BY_NAME = {path.stem.partition("-")[2]: path for path in CHILDREN}
PIPELINES = EXAMPLE / "pipelines"
CHART = ROOT / "charts" / "cai-operator"
NO_CHART = "the chart is not in this tree"


@pytest.fixture(scope="module")
def project() -> Project:
    return Project.model_validate(load(PROJECT))


def wave(metadata: Metadata) -> int:
    return int(metadata.annotations[WAVE])


def test_the_waves_come_in_the_order_of_the_files_and_pipelines_last(project):
    waves = [wave(project.metadata), *(wave(application(path).metadata) for path in CHILDREN)]
    assert [path.name for path in CHILDREN] == ["1-crd.yaml", "2-operator.yaml", "3-secrets.yaml", "4-pipelines.yaml"]
    assert waves == sorted(set(waves))


@pytest.mark.parametrize("path", [ROOT_APPLICATION, *CHILDREN], ids=lambda path: path.name)
def test_an_application_leads_somewhere(path, project):
    found = application(path)
    assert set(found.spec.sync_policy.sync_options) <= APPLICATION_OPTIONS
    assert found.spec.source.repo_url in project.spec.source_repos
    folder = ROOT / found.spec.source.path
    if folder == CHART and not CHART.exists():
        pytest.skip(NO_CHART)
    assert list(folder.glob("*.yaml"))


@pytest.mark.parametrize("path", CHILDREN, ids=lambda path: path.name)
def test_the_project_lets_an_application_deploy_there(path, project):
    found = application(path)
    assert found.spec.project == project.metadata.name
    assert found.spec.destination in project.spec.destinations


def test_the_root_deploys_the_applications():
    found = application(ROOT_APPLICATION)
    assert ROOT / found.spec.source.path == APPS
    assert found.spec.project == "default"


@pytest.mark.skipif(not CHART.exists(), reason=NO_CHART)
def test_the_chart_takes_the_applications_values_and_leaves_the_definition_to_its_own(tmp_path):
    found = application(BY_NAME["operator"])
    assert found.spec.source.helm is not None
    helm = found.spec.source.helm
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(helm.values_object))
    namespace = f"--namespace={found.spec.destination.namespace}"
    try:
        program = binaries.tool("helm")
    except Unavailable as problem:
        pytest.skip(str(problem))
    command = [program, "template", helm.release_name, ROOT / found.spec.source.path, namespace, "--values", values]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = {document["kind"] for document in yaml.safe_load_all(done.stdout) if document}
    assert "Deployment" in kinds
    assert "CustomResourceDefinition" not in kinds


def test_the_definition_is_never_pruned_and_everything_it_needs_is_allowed(project):
    found = application(BY_NAME["crd"])
    assert not found.spec.sync_policy.automated.prune
    assert {"Prune=false", "Delete=false", "ServerSideApply=true"} <= set(found.spec.sync_policy.sync_options)
    kinds = {one.kind for one in project.spec.cluster_resource_whitelist}
    assert {load(path)["kind"] for path in (ROOT / "crds").glob("*.yaml")} <= kinds


def test_claims_that_pipelines_retain_are_no_orphans(project):
    [ignored] = project.spec.orphaned_resources.ignore
    assert (ignored.kind, ignored.name) == ("PersistentVolumeClaim", "*-artifacts")


def pipelines() -> list[dict[str, Any]]:
    return [load(PIPELINES / name) for name in load(PIPELINES / "kustomization.yaml")["resources"]]


def generated_texts() -> dict[str, dict[str, str]]:
    """The ConfigMaps that kustomize makes of files, by name, as the operator reads them."""
    found = {}
    for one in load(PIPELINES / "kustomization.yaml")["configMapGenerator"]:
        assert one["options"]["disableNameSuffixHash"] is True
        files = {Path(file).name: (PIPELINES / file).read_text(encoding="utf-8") for file in one["files"]}
        found[f"configMap/{one['name']}"] = files
    return found


def test_every_pipeline_is_valid_and_finds_its_constitution():
    for document in pipelines():
        pipeline = parse_pipeline(document)
        [(name, files)] = generated_texts().items()
        assert name == f"configMap/{document['spec']['constitution']['configMap']['name']}"
        used = {**of_node(pipeline.spec, "slData", {name: files}), **of_node(pipeline.spec, "rlData", {name: files})}
        for file, content in files.items():
            assert used[file].content == content
        with pytest.raises(MissingTextError):
            of_node(pipeline.spec, "slData", {})


def test_the_principles_have_one_name_in_critique_and_comparison():
    names = [set(json.loads(path.read_text())) for path in (PIPELINES / "principles").iterdir()]
    assert len(names) == 2
    assert names[0] == names[1]


def test_every_secret_a_pipeline_names_is_made_with_its_key():
    made = {}
    for path in (EXAMPLE / "secrets").iterdir():
        document = load(path)
        assert (document["apiVersion"], document["kind"]) == ("external-secrets.io/v1", "ExternalSecret")
        made[document["spec"]["target"]["name"]] = {item["secretKey"] for item in document["spec"]["data"]}
    for document in pipelines():
        spec = document["spec"]
        for secret in (spec["hubTokenSecret"], spec["judge"]["apiKeySecret"]):
            assert secret["key"] in made[secret["name"]]


def test_pipelines_are_in_their_applications_last_wave_and_say_nothing_of_suspend():
    constitution = load(PIPELINES / "kustomization.yaml")["configMapGenerator"][0]
    before = int(constitution["options"]["annotations"][WAVE])
    for document in pipelines():
        annotations = document["metadata"]["annotations"]
        assert int(annotations[WAVE]) > before
        assert set(annotations[OPTIONS].split(",")) <= RESOURCE_OPTIONS
        assert "suspend" not in document["spec"]
