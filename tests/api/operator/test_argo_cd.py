"""What Argo CD would see: a pipeline stays as it was applied, and one that is pruned loses no data.

Argo CD marks what it deploys, applies it as kubectl does (client-side, or server-side as field manager
argocd-controller), and compares what is wanted with what is there. Self-heal is the same once more.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from tests.harness import argo_lua
from tests.harness.control_plane import ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import Fail, Run
from tests.harness.pipelines import pocket, short
from tests.harness.player import Player
from tests.unit.argocd.generated import EXAMPLE, ROOT, action_script, script

from cai_operator.cluster import FIELD_MANAGER
from cai_operator.manifests.kinds import CHILD_KINDS, CLAIM, PIPELINE, POD, ObjectKind

Document = dict[str, Any]

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
LABELS = ("app.kubernetes.io/instance", "argocd.argoproj.io/instance")
TRACKING_ID = "argocd.argoproj.io/tracking-id"
SERVER_SIDE = ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")
WAYS = {"client-side": ("--field-manager=argocd-controller",), "server-side": SERVER_SIDE}
CONFIG_MAP = ObjectKind("v1", "ConfigMap", "configmaps")


@dataclass
class ArgoCd:
    """The part of Argo CD that applies and compares, by the real kubectl, in one namespace."""

    plane: ControlPlane
    namespace: str
    way: tuple[str, ...]

    def marked(self, document: Document) -> Document:
        """The document as Argo CD applies it: with the marks of each of its ways to know it again."""
        marked = copy.deepcopy(document)
        metadata = marked["metadata"]
        metadata["labels"] = {**metadata.get("labels", {}), **dict.fromkeys(LABELS, "lab")}
        track = f"lab:{PIPELINE.api_version.partition('/')[0]}/{PIPELINE.kind}:{self.namespace}/{metadata['name']}"
        metadata["annotations"] = {**metadata.get("annotations", {}), TRACKING_ID: track}
        return marked

    def build(self, folder: str) -> list[Document]:
        """What kustomize makes of a folder of examples/argocd; as JSON, for its 1e-05 is text to Python's YAML."""
        words = ("create", "--dry-run=client", "-o", "json", "-n", self.namespace, "-k", str(EXAMPLE / folder))
        text, built = self.plane.kubectl(*words).stdout, []
        while text.strip():
            document, end = json.JSONDecoder().raw_decode(text.lstrip())
            text = text.lstrip()[end:]
            built.append(document)
        return built

    def sync(self, *documents: Document) -> None:
        """Apply, as a sync and as self-heal do."""
        self._kubectl("apply", *self.way, documents=documents)

    def drift(self, document: Document) -> str:
        """What `kubectl diff` says would be changed by a sync."""
        return self._kubectl("diff", *self.way, documents=(document,), check=False).strip()

    def _kubectl(self, *words: str, documents: tuple[Document, ...], check: bool = True) -> str:
        text = "\n---\n".join(map(json.dumps, documents))
        done = self.plane.kubectl(*words, "-n", self.namespace, "-f", "-", stdin=text, check=check)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout


@pytest.fixture(params=WAYS)
def argo_cd(request: pytest.FixtureRequest, control_plane_with_jobs: ControlPlane, namespace_with_jobs: str) -> ArgoCd:
    """Argo CD in the test's namespace, once for each of its ways to apply."""
    return ArgoCd(control_plane_with_jobs, namespace_with_jobs, WAYS[request.param])


def drifted(wanted: Any, live: Any, where: str = "") -> list[str]:
    """Paths at which what is there is not what is wanted, by Argo CD's own comparison of custom resources.

    That is a three-way JSON merge: what is wanted is laid over what is there field by field, but lists whole. So fields
    besides are no difference, and items of lists have to be just as they are written.
    """
    if isinstance(wanted, dict) and isinstance(live, dict):
        return [path for name, part in wanted.items() for path in drifted(part, live.get(name), f"{where}.{name}")]
    # 1 and 1.0 are one number in JSON, but neither is true
    same = wanted == live and isinstance(wanted, bool) == isinstance(live, bool)
    return [] if same else [f"{where}: {wanted!r} became {live!r}"]


def owned(live: Document, manager: str) -> list[Document]:
    """The fields of an object that a field manager owns."""
    return [entry["fieldsV1"] for entry in live["metadata"]["managedFields"] if entry["manager"] == manager]


def children(api: Api) -> list[Document]:
    """Everything the operator made, and the pods of it."""
    mine = {"app.kubernetes.io/managed-by": "cai-operator"}
    return [{**one, "kind": kind.kind} for kind in (*CHILD_KINDS, POD) for one in api.list(kind, **mine)]


def wait_until_running(api: Api, pipeline: str, node: str) -> None:
    """Wait until the operator says so, and has nothing more to say."""
    wait_for(lambda: api.node(pipeline, node).get("state"), f"{node} of {pipeline}", lambda state: state == "Running")


# no drift


def stays(api: Api, argo_cd: ArgoCd, document: Document) -> None:
    """What was written is there, the operator wrote nothing but the status, and self-heal changes nothing."""
    name = document["metadata"]["name"]
    live = api.pipeline(name)
    assert drifted(document, live) == []
    assert argo_cd.drift(document) == ""
    assert [set(fields) for fields in owned(live, FIELD_MANAGER)] == [{"f:status"}]
    argo_cd.sync(document)
    again = api.pipeline(name)
    for field in ("resourceVersion", "generation"):
        assert again["metadata"][field] == live["metadata"][field]


def test_examples_stay_as_they_are_written(
    api: Api, operator: OperatorProcess, player: Player, argo_cd: ArgoCd
) -> None:
    for node in ("models", "datasets"):
        player.script(node, *[Run()] * (len(EXAMPLES) + 1))
    examples = [*(yaml.safe_load(path.read_text(encoding="utf-8")) for path in EXAMPLES), *argo_cd.build("pipelines")]
    argo_cd.sync(*(argo_cd.marked(document) for document in examples))
    documents = [argo_cd.marked(document) for document in examples if document["kind"] == PIPELINE.kind]
    names = {document["metadata"]["name"] for document in documents}
    assert names > {"kind", "pocket"}
    for name in names:
        for node in ("models", "datasets"):
            wait_until_running(api, name, node)
    for document in documents:
        stays(api, argo_cd, document)


def test_a_finished_pipeline_stays_as_it_is_written_and_its_children_carry_no_mark(
    api: Api, operator: OperatorProcess, player: Player, argo_cd: ArgoCd
) -> None:
    document = argo_cd.marked(pocket())
    argo_cd.sync(document)
    api.wait_for_phase("pocket", "Succeeded")
    stays(api, argo_cd, document)
    made = children(api)
    assert {one["kind"] for one in made} == {kind.kind for kind in (*CHILD_KINDS, POD)}
    for child in made:
        assert not {*LABELS} & {*child["metadata"].get("labels", {})}
        assert TRACKING_ID not in child["metadata"].get("annotations", {})
        assert bool(child["metadata"].get("ownerReferences")) != (child["kind"] == CLAIM.kind)


def test_lists_and_numbers_in_any_writing_stay_as_they_are_written(
    api: Api, operator: OperatorProcess, argo_cd: ArgoCd
) -> None:
    template = {
        "interconnect": {"devices": [{"resource": "rdma/hca"}], "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 30}],
        "imagePullSecrets": [{"name": "registry"}],
        "labels": {"app.kubernetes.io/instance": "cost-centre"},
        "shmSize": 1024,
    }
    panel = [{"url": "https://one.example/v1", "model": "m"}, {"url": "https://two.example/v1", "model": "m"}]
    stages = {
        "sft": {"resources": {"cpu": 1, "memory": "0.5Gi"}, "overrides": {"learning-rate": 1e-06, "weight-decay": 1.0}},
        "rlData": {"temperatures": [1.0, 0.01]},
        "evaluate": {"gates": {"maxHarmfulRate": 1}},
    }
    spec = {"suspend": True, "template": template, "stages": stages, "judge": {"panel": panel}}
    spec |= {"storage": {"size": "1024Mi"}, "models": {"base": {"huggingFace": {"repo": "a/b"}}}}
    document = argo_cd.marked({**pocket("lists"), "spec": {"engine": "hf", **spec}})
    argo_cd.sync(document)
    api.wait_for_phase("lists", "Suspended")
    assert drifted(document, api.pipeline("lists")) == []
    assert argo_cd.drift(document) == ""


def test_self_heal_leaves_alone_what_runs(api: Api, operator: OperatorProcess, player: Player, argo_cd: ArgoCd) -> None:
    player.script("sft", Run())
    document = argo_cd.marked(short())
    argo_cd.sync(document)
    pod = player.wait_for_running("sft")
    wait_until_running(api, "short", "sft")
    generation = api.pipeline("short")["metadata"]["generation"]
    assert argo_cd.drift(document) == ""
    argo_cd.sync(document)
    assert api.pipeline("short")["metadata"]["generation"] == generation
    assert api.get(POD, pod) is not None
    player.end("sft")
    api.wait_for_phase("short", "Succeeded")
    assert player.started.count("sft") == 1


# actions


def act(api: Api, name: str, action: str) -> None:
    """Do what Argo CD's action of that name does: patch the difference the script makes."""
    live = api.pipeline(name)
    changed = argo_lua.act(action_script(action), live)
    spec = {"suspend": changed["spec"]["suspend"]} if changed["spec"] != live["spec"] else {}
    annotations = changed["metadata"].get("annotations", {})
    api.patch(PIPELINE, name, {"spec": spec, "metadata": {"annotations": annotations}})


def offered(api: Api, name: str) -> set[str]:
    found = argo_lua.discover(script("actions/discovery.lua"), api.pipeline(name))
    return {action for action, how in found.items() if not how["disabled"]}


def health(api: Api, name: str) -> str:
    return argo_lua.health(script("health.lua"), api.pipeline(name))[0]


def test_suspend_and_resume_are_no_drift_where_git_does_not_say(
    api: Api, operator: OperatorProcess, player: Player, argo_cd: ArgoCd
) -> None:
    player.script("sft", Run())
    document = argo_cd.marked(short())
    argo_cd.sync(document)
    player.wait_for_running("sft")
    act(api, "short", "suspend")
    api.wait_for_phase("short", "Suspended")
    assert argo_cd.drift(document) == ""
    argo_cd.sync(document)
    assert api.pipeline("short")["spec"]["suspend"] is True
    assert (health(api, "short"), offered(api, "short")) == ("Suspended", {"resume"})
    act(api, "short", "resume")
    api.wait_for_phase("short", "Succeeded")
    assert (health(api, "short"), offered(api, "short")) == ("Healthy", {"suspend"})


def test_git_has_the_last_word_where_it_says_suspend(
    api: Api, operator: OperatorProcess, player: Player, argo_cd: ArgoCd
) -> None:
    document = argo_cd.marked(short(spec={"suspend": False}))
    argo_cd.sync(document)
    act(api, "short", "suspend")
    assert argo_cd.drift(document) != ""
    argo_cd.sync(document)
    assert api.pipeline("short")["spec"]["suspend"] is False


def test_retry_starts_what_failed_and_is_no_drift(
    api: Api, operator: OperatorProcess, player: Player, argo_cd: ArgoCd
) -> None:
    player.script("sft", Fail(2))
    document = argo_cd.marked(short())
    argo_cd.sync(document)
    api.wait_for_phase("short", "Failed")
    assert (health(api, "short"), offered(api, "short")) == ("Degraded", {"suspend", "retry"})
    act(api, "short", "retry")
    api.wait_for_phase("short", "Succeeded")
    assert argo_cd.drift(document) == ""
    argo_cd.sync(document)
    assert (health(api, "short"), offered(api, "short")) == ("Healthy", {"suspend"})


# pruning


def test_what_was_pruned_and_applied_again_finds_its_artifacts(
    api: Api, operator: OperatorProcess, player: Player, argo_cd: ArgoCd
) -> None:
    document = argo_cd.marked(short())
    argo_cd.sync(document)
    before = api.wait_for_phase("short", "Succeeded")
    [claim] = api.list(CLAIM)
    api.delete(PIPELINE, "short", "Foreground")  # Argo CD's way to prune
    wait_for(lambda: api.get(PIPELINE, "short"), "the pipeline to go", lambda found: found is None)
    assert "deletionTimestamp" not in api.list(CLAIM)[0]["metadata"]
    argo_cd.sync(document)
    after = api.wait_for_phase("short", "Succeeded")
    [same] = api.list(CLAIM)
    assert same["metadata"]["uid"] == claim["metadata"]["uid"]
    assert artifacts(after) == artifacts(before) != {}


def artifacts(status: Document) -> dict[str, str]:
    return {stage["name"]: stage["artifact"]["path"] for stage in status["stages"] if "artifact" in stage}


# Argo CD's own settings


def test_the_settings_are_added_to_those_that_are_there(api: Api, control_plane_with_jobs: ControlPlane) -> None:
    """And stay where Argo CD's own manifests are applied once more."""
    own = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm"}, "data": {"url": "https://argo"}}
    ours = yaml.safe_load((EXAMPLE / "argocd-cm.yaml").read_text(encoding="utf-8"))
    ours["metadata"].pop("namespace")
    for words in ((), ("--server-side", "--field-manager=cai-operator-settings"), ()):
        text = yaml.safe_dump(ours if words else own)
        control_plane_with_jobs.kubectl("apply", *words, "-n", api.namespace, "-f", "-", stdin=text)
    live = api.get(CONFIG_MAP, "argocd-cm")
    assert live is not None
    assert live["data"] == {**own["data"], **ours["data"]}
