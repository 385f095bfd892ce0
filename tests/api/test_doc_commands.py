"""Every command of our pages, in the order a reader meets them, against a real API server.

The operator is at work, as a process of its own, and pods are played. Before a page, or a section that installs, stands
what its reader has by then. What needs pods that run, and what cannot be run, is in tests/harness/doc_runs.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import doc_runs
from tests.harness.availability import skipped_where_unavailable
from tests.harness.control_plane import ONE_CLIENT, WORKLOADS, ControlPlane
from tests.harness.doc_commands import ROOT, Command, blocks, commands, filled_in, pages
from tests.harness.doc_shell import Shell
from tests.harness.objects import Api, again_and_again, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Fail, Stuck
from tests.harness.pipelines import pocket, short
from tests.harness.player import Player

from cai_operator.manifests.kinds import CLAIM, PIPELINE, POD

SYSTEM = "cai-system"
INSTALLING = ("docs/install.md", "docs/upgrades.md", "operator/install/README.md", "charts/cai-operator/README.md")
"""Pages whose sections put something into the cluster: each begins on an empty one."""

HELM = "helm install cai-operator charts/cai-operator -n cai-system --create-namespace"
HAS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("docs/upgrades.md", "With Helm"): (HELM,),
    ("docs/upgrades.md", "With kubectl"): ("kubectl apply -f crds/ -f operator/install/",),
    ("docs/upgrades.md", "What stays as it is"): ("kubectl apply -f crds/ -f operator/install/",),
    ("docs/upgrades.md", "Rolling back"): (HELM, f"{HELM.replace('install', 'upgrade', 1)}"),
    ("docs/install.md", "No cluster at hand?"): (),
    ("charts/cai-operator/README.md", "Upgrade, roll back, uninstall"): (HELM,),
    ("charts/cai-operator/README.md", "Without rights on the cluster"): (
        "kubectl create namespace team-a && kubectl create namespace team-a-dev && kubectl apply -f crds/",
    ),
}
"""What the reader of a section has run before."""

UNINSTALL = """
helm list -A -o json | python -c 'import json, sys; [print(r["name"], r["namespace"]) for r in json.load(sys.stdin)]' |
  while read name namespace; do helm uninstall $name -n $namespace; done
kubectl delete --ignore-not-found --wait=false $(printf ' -f %s' operator/install/[2-4]-*.yaml)
kubectl delete crd caipipelines.cai.dev --ignore-not-found
"""
"""All but namespaces, which take their time to go."""


@dataclass
class Reader:
    """Somebody at a shell, whose pods are played in the namespace default."""

    shell: Shell
    api: Api
    player: Player


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of these tests' own: they take the resource's definition away."""
    plane = ControlPlane(controllers=WORKLOADS, apiserver_flags=ONE_CLIENT)
    with skipped_where_unavailable():
        plane.start()
    with plane:
        yield plane


@pytest.fixture
def reader(plane: ControlPlane, tmp_path: Path) -> Iterator[Reader]:
    """A reader; pipelines and data of the namespace default are taken away at the end."""
    with plane.client() as client, Player(plane, "default") as player, _ready_operators(plane):
        api = Api(client, "default")
        with Shell(tmp_path, plane.kubeconfig, lambda _: api.wait_for_phase("pocket", "Succeeded")) as shell:
            yield Reader(shell, api, player)
        for kind in (PIPELINE, CLAIM):
            path = kind.path("default")
            # the definition may be going, and with it all of a kind
            for one in _items(client.get(path)):
                client.delete(f"{path}/{one['metadata']['name']}")
            wait_for(lambda path=path: _items(client.get(path)), f"{kind.kind} to go", lambda left: not left)


@pytest.fixture
def bare(reader: Reader) -> Iterator[Reader]:
    """A reader on whose cluster nothing is yet; what was installed is taken away again."""
    yield reader
    reader.shell.shell(UNINSTALL)


@pytest.fixture(scope="module")
def at_work(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The resource is served and the operator at work."""
    for path in ("crds", "operator/install"):
        plane.kubectl("apply", "-f", str(ROOT / path))
    plane.kubectl("wait", "--for=condition=Established", "crd/caipipelines.cai.dev", "--timeout=60s")
    settings = {"CAI_PROGRESS_SECONDS": "1", "CAI_LEASE_NAMESPACE": SYSTEM}
    directory = tmp_path_factory.mktemp("operator")
    with OperatorProcess(directory, plane.url, plane.admin_token, plane.ca, settings):
        yield


def to_run(page: str) -> list[Command]:
    """The commands of a page that are run here."""
    lists = (doc_runs.ON_NODE, doc_runs.PARSED)
    return [one for one in commands(page) if not any(doc_runs.reason(one.text, each) for each in lists)]


SECTIONS = [
    pytest.param(list(group), id=f"{page}-{section}")
    for page in INSTALLING
    for section, group in groupby(to_run(page), lambda command: command.section)
]


PAGES = [page for page in pages() if page not in INSTALLING and to_run(page)]
RUNBOOKS = "docs/runbooks/"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_installs(bare: Reader, section: list[Command]) -> None:
    for text in HAS.get((section[0].page, section[0].section), ()):
        bare.shell.shell(text)
    for command in section:
        bare.shell.run(command)


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(RUNBOOKS)])
def test_a_page(reader: Reader, page: str) -> None:
    _give(reader, page)
    for command in to_run(page):
        reader.shell.run(command)


@pytest.mark.usefixtures("at_work")
def test_the_runbooks(reader: Reader) -> None:
    _give_a_failure(reader)
    values = {"NAMESPACE": "default", "NAME": "lost", "STAGE": "sft", "RESOURCE": "jobs.batch"}
    every = {command.text: command for page in PAGES if page.startswith(RUNBOOKS) for command in to_run(page)}
    for command in every.values():
        reader.shell.run(filled_in(command, values))


def _give(reader: Reader, page: str) -> None:
    """What a reader of a page has before its first command."""
    if page == "docs/moving-to-nemo.md":
        (manifest,) = (block for block in blocks(page, "yaml") if "kind: CAIPipeline" in block)
        (reader.shell.checkout / "mine.yaml").write_text(manifest)
    if page == "docs/troubleshoot.md":
        reader.player.script("datasets", Stuck("ErrImagePull", "no such host"))
        reader.api.create(PIPELINE, short("typo", {"stages": {"datasets": {"image": "cai-jobs:no-such-tag"}}}))
        _wait(reader.api, "typo", "ImagePullFailed")
    if page == "docs/operate.md":
        _give_a_failure(reader)
        reader.api.create(PIPELINE, pocket())
        reader.api.wait_for_phase("pocket", "Succeeded")


def _give_a_failure(reader: Reader) -> None:
    reader.player.script("datasets", Fail(2, "/artifacts/prompts/red-team.jsonl: no such file"))
    reader.api.create(PIPELINE, short("lost"))
    reader.api.wait_for_phase("lost", "Failed")


def _wait(api: Api, name: str, reason: str) -> None:
    wait_for(lambda: api.condition(name, "Degraded").get("reason"), f"{name} to be {reason}", lambda it: it == reason)


def _items(answer: httpx.Response) -> list[dict[str, Any]]:
    return [] if answer.status_code == 404 else list(answer.raise_for_status().json()["items"])


@contextmanager
def _ready_operators(plane: ControlPlane) -> Iterator[None]:
    """The pods of installed operators become ready, though no node runs them."""
    with plane.client() as client:

        def look() -> None:
            for namespace in (SYSTEM, "team-a"):
                for pod in Api(client, namespace).list(POD):
                    if pod["status"].get("phase") == "Pending":
                        _make_ready(Api(client, namespace), pod)

        with again_and_again(look, every_s=0.2):
            yield


def _make_ready(api: Api, pod: dict[str, Any]) -> None:
    ready = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "ContainersReady", "Ready")]
    name = pod["spec"]["containers"][0]["name"]
    running = {"startedAt": pod["metadata"]["creationTimestamp"]}
    container = {
        "name": name,
        "ready": True,
        "restartCount": 0,
        "image": "x",
        "imageID": "x",
        "state": {"running": running},
    }
    status = {"phase": "Running", "conditions": ready, "containerStatuses": [container]}
    api.patch(POD, pod["metadata"]["name"], {"status": status}, "status")


def test_every_page_is_looked_at() -> None:
    named = {command.page for each in SECTIONS for command in each.values[0]}  # type: ignore[attr-defined]
    named |= set(PAGES)
    assert {
        "README.md",
        "docs/install.md",
        "docs/first-pipeline.md",
        "docs/operate.md",
        "docs/troubleshoot.md",
    } <= named
    assert (ROOT / "docs" / "upgrades.md").exists()
