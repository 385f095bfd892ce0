"""What is written for a plan: from children as the API server would give them, in every state they can be found in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cai_operator.api import CAIPipeline, PipelineStatus
from cai_operator.changes import MADE_FROM, Changes, changes, own
from cai_operator.manifests.children import places_of
from cai_operator.manifests.kinds import CLAIM, CONFIG_MAP, DEPLOYMENT, JOB, NETWORK_POLICY, POD, SERVICE, ObjectKind
from cai_operator.manifests.site import Site
from cai_operator.names import NODE_LABEL, PIPELINE_LABEL
from cai_operator.observing import Children, observe
from cai_operator.plan import plan
from cai_operator.snapshot import Snapshot
from cai_operator.standing import SETTINGS

START = datetime(2026, 1, 1, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"
SITE = Site(images={"hf": "cai-jobs:1"})


class Namespace:
    """The children of one pipeline, as an API server without any controllers keeps them."""

    def __init__(self, pipeline: CAIPipeline) -> None:
        self.pipeline = pipeline
        self.site = SITE
        self.status = PipelineStatus()
        self.there: dict[tuple[str, str], dict[str, Any]] = {}
        self.count = 0

    def add(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        found = copy.deepcopy(manifest)
        found["metadata"] |= {"uid": f"uid-{self.count}", "resourceVersion": str(self.count)}
        self.there[found["kind"], found["metadata"]["name"]] = found
        return found

    def of(self, kind: ObjectKind) -> list[dict[str, Any]]:
        return [found for (its, _), found in self.there.items() if its == kind.kind]

    def job(self, node: str) -> dict[str, Any]:
        (found,) = (job for job in self.of(JOB) if job["metadata"]["labels"][NODE_LABEL] == node)
        return found

    def snapshot(self) -> Snapshot:
        children: dict[str, dict[str, dict[str, Any]]] = {}
        for (kind, name), found in self.there.items():
            children.setdefault(kind, {})[name] = found
        return Snapshot(None, children)

    def look(self, refused: Collection[str] = ()) -> Changes:
        everything = self.snapshot()
        mine = own(self.pipeline, everything)
        observed = observe(
            self.pipeline,
            Children(mine.of(JOB), mine.of(DEPLOYMENT), mine.of(POD)),
            progress={},
            refusals={},
            warnings={},
            texts={},
            now=START,
        )
        decision = plan(self.pipeline, self.status, observed, START, places_of(self.pipeline))
        self.status = decision.status
        return changes(self.pipeline, everything, observed, decision, refused, self.site)

    def act(self) -> Changes:
        """Look, and do what is wanted; foreground deletion waits for somebody to take the object away."""
        wanted = self.look()
        for found in wanted.delete:
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        for apply in wanted.apply:
            for manifest in apply.manifests:
                self.add(manifest)
        return wanted

    def complete(self, node: str) -> None:
        self.job(node)["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}

    def start(self, node: str) -> None:
        job = self.job(node)
        pod = {"kind": POD.kind, "metadata": {"name": f"{job['metadata']['name']}-x", **_labels(job)}}
        state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        pod["status"] = {"phase": "Running", "containerStatuses": [{"name": "program", "state": state}]}
        self.add(pod)
        job["status"] = {"active": 1, "ready": 1}


def _labels(job: dict[str, Any]) -> dict[str, Any]:
    return {"labels": dict(job["spec"]["template"]["metadata"]["labels"])}


def applied(wanted: Changes) -> list[tuple[str, str]]:
    return [(m["kind"], m["metadata"]["name"]) for apply in wanted.apply for m in apply.manifests]


def deleted(wanted: Changes) -> list[tuple[str, str]]:
    return [(found["kind"], found["metadata"]["name"]) for found in wanted.delete]


NOTHING: tuple[list[Any], list[Any]] = ([], [])


def writes(wanted: Changes) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return applied(wanted), deleted(wanted)


@pytest.fixture
def namespace(pipeline: Callable[..., CAIPipeline]) -> Callable[..., Namespace]:
    def make(spec: dict[str, Any] | None = None) -> Namespace:
        return Namespace(pipeline(spec, metadata={"uid": UID}))

    return make


def test_the_first_look_makes_what_all_share_and_then_the_first_jobs(namespace):
    wanted = namespace().look()
    kinds = [kind for kind, _ in applied(wanted)]
    assert kinds[:3] == [CLAIM.kind, NETWORK_POLICY.kind, NETWORK_POLICY.kind]
    assert kinds.count(JOB.kind) == 2
    assert deleted(wanted) == []
    assert {apply.workload and apply.workload.node for apply in wanted.apply} == {None, "models", "datasets"}


def test_what_was_made_is_not_written_again(namespace):
    cluster = namespace()
    cluster.act()
    assert writes(cluster.look()) == NOTHING
    cluster.start("models")
    assert writes(cluster.look()) == NOTHING


def test_what_is_missing_is_made_again(namespace):
    cluster = namespace()
    cluster.act()
    for lost in list(cluster.there):
        found = cluster.there.pop(lost)
        assert applied(cluster.look()) == [lost]
        cluster.there[lost] = found


def test_what_was_changed_by_hand_is_applied_again(namespace):
    cluster = namespace()
    cluster.act()
    policy = cluster.of(NETWORK_POLICY)[0]
    policy["spec"]["podSelector"] = {"matchLabels": {"app": "mine"}}
    assert applied(cluster.look()) == [(NETWORK_POLICY.kind, policy["metadata"]["name"])]


def test_what_others_add_is_left(namespace):
    cluster = namespace()
    cluster.act()
    for found in cluster.there.values():
        found["metadata"]["annotations"] = {**found["metadata"].get("annotations", {}), "team.example/cost": "42"}
        found["metadata"]["labels"]["team.example/owner"] = "me"
    cluster.of(CLAIM)[0]["spec"]["volumeName"] = "pv-7"
    assert writes(cluster.look()) == NOTHING


class TestJobs:
    """A Job is never changed: while it does nothing yet it may be made anew."""

    def test_one_that_waits_is_made_anew_from_another_manifest(self, namespace):
        cluster = namespace()
        cluster.act()
        cluster.site = replace(SITE, images={"hf": "cai-jobs:2"})
        names = {job["metadata"]["name"] for job in cluster.of(JOB)}
        wanted = cluster.act()
        assert set(deleted(wanted)) == {(JOB.kind, name) for name in names}
        assert applied(wanted) == []
        assert writes(cluster.act()) == NOTHING, "the places are not free yet"
        for name in names:
            del cluster.there[JOB.kind, name]
        assert {name for _, name in applied(cluster.act())} == names
        images = {job["spec"]["template"]["spec"]["containers"][0]["image"] for job in cluster.of(JOB)}
        assert images == {"cai-jobs:2"}
        assert writes(cluster.look()) == NOTHING

    def test_one_that_runs_is_left(self, namespace):
        cluster = namespace()
        cluster.act()
        cluster.start("models")
        cluster.site = replace(SITE, images={"hf": "cai-jobs:2"})
        assert deleted(cluster.look()) == [(JOB.kind, cluster.job("datasets")["metadata"]["name"])]

    def test_one_whose_mark_is_lost_is_made_anew(self, namespace):
        cluster = namespace()
        cluster.act()
        del cluster.job("models")["metadata"]["annotations"][MADE_FROM]
        assert deleted(cluster.look()) == [(JOB.kind, cluster.job("models")["metadata"]["name"])]

    def test_the_defaults_of_the_api_server_are_no_other_manifest(self, namespace):
        cluster = namespace()
        cluster.act()
        cluster.job("models")["spec"] |= {"parallelism": 1, "completions": 1, "suspend": False}
        assert writes(cluster.look()) == NOTHING

    def test_a_finished_one_stays_until_its_key_changes(self, namespace, pipeline):
        cluster = namespace()
        cluster.act()
        cluster.complete("models")
        assert writes(cluster.look()) == NOTHING
        old = cluster.job("models")["metadata"]["name"]
        cluster.pipeline = pipeline(
            {"models": {"base": {"path": "models/other", "pocket": None}}}, metadata={"uid": UID}
        )
        wanted = cluster.look()
        assert (JOB.kind, old) in deleted(wanted)

    def test_a_finished_one_that_was_removed_is_not_made_again(self, namespace):
        cluster = namespace()
        cluster.act()
        cluster.complete("models")
        cluster.complete("datasets")
        cluster.act()  # the status has it now
        finished = cluster.job("models")["metadata"]["name"]
        del cluster.there[JOB.kind, finished]
        assert (JOB.kind, finished) not in applied(cluster.look())


class TestServers:
    """A Deployment comes with its Service, and both go with the need for them."""

    @staticmethod
    def with_server(namespace: Callable[..., Namespace]) -> Namespace:
        cluster = namespace({"stages": {"evaluate": {"enabled": False}}})
        cluster.act()
        cluster.complete("models")
        cluster.complete("datasets")
        cluster.act()
        assert len(cluster.of(DEPLOYMENT)) == len(cluster.of(SERVICE)) == 1
        return cluster

    def test_the_job_waits_for_it(self, namespace):
        cluster = self.with_server(namespace)
        assert writes(cluster.look()) == NOTHING
        server = cluster.of(DEPLOYMENT)[0]
        server["status"] = {"readyReplicas": 1, "availableReplicas": 1, "replicas": 1, "updatedReplicas": 1}
        wanted = cluster.look()
        assert {kind for kind, _ in applied(wanted)} <= {JOB.kind, CONFIG_MAP.kind}
        assert [apply.workload.node for apply in wanted.apply] == ["slData"]

    def test_what_is_only_taken_out_of_the_spec_is_applied_too(self, namespace, pipeline):
        cluster = self.with_server(namespace)
        server = cluster.of(DEPLOYMENT)[0]["metadata"]["name"]
        changed = {"stages": {"evaluate": {"enabled": False}}, "template": {"nodeSelector": {"disk": "fast"}}}
        cluster.pipeline = pipeline(changed, metadata={"uid": UID})
        assert (DEPLOYMENT.kind, server) in applied(cluster.act())
        cluster.pipeline = pipeline({"stages": {"evaluate": {"enabled": False}}}, metadata={"uid": UID})
        assert (DEPLOYMENT.kind, server) in applied(cluster.act())
        assert writes(cluster.look()) == NOTHING

    def test_one_nobody_needs_goes_with_all_that_is_its_own(self, namespace, pipeline):
        cluster = self.with_server(namespace)
        server = cluster.of(DEPLOYMENT)[0]["metadata"]["name"]
        cluster.pipeline = pipeline({"suspend": True}, metadata={"uid": UID})
        assert sorted(deleted(cluster.act())) == [(DEPLOYMENT.kind, server), (SERVICE.kind, server)]
        assert writes(cluster.act()) == NOTHING, "each is deleted once"


UP = {"readyReplicas": 1, "availableReplicas": 1, "replicas": 1, "updatedReplicas": 1}
SERVING = {
    "stages": {
        stage: {"enabled": False} for stage in ("slData", "sft", "rlData", "rewardModel", "ppo", "evaluate", "report")
    }
}
LATER = replace(SITE, images={"hf": "cai-jobs:2"})


class TestVersions:
    """What runs stands as it was begun, whatever another version of the operator would make of it."""

    @staticmethod
    def at_work(namespace: Callable[..., Namespace]) -> Namespace:
        cluster = TestServers.with_server(namespace)
        cluster.of(DEPLOYMENT)[0]["status"] = UP
        cluster.act()
        cluster.start("slData")
        assert writes(cluster.look()) == NOTHING
        return cluster

    @staticmethod
    def serving(namespace: Callable[..., Namespace]) -> Namespace:
        cluster = namespace(SERVING)
        cluster.act()
        for node in ("models", "datasets"):
            cluster.complete(node)
        cluster.act()
        cluster.of(DEPLOYMENT)[0]["status"] = UP
        assert writes(cluster.look()) == NOTHING
        return cluster

    def test_a_server_at_work_keeps_its_pods(self, namespace):
        cluster = self.at_work(namespace)
        cluster.site = LATER
        assert writes(cluster.look()) == NOTHING

    def test_one_that_was_changed_by_hand_is_mended(self, namespace):
        cluster = self.at_work(namespace)
        server = cluster.of(DEPLOYMENT)[0]
        server["spec"]["template"]["spec"]["containers"][0]["image"] = "mine:1"
        assert applied(cluster.look()) == [(DEPLOYMENT.kind, server["metadata"]["name"])]

    def test_one_that_is_not_ready_is_brought_to_what_is_wanted_now(self, namespace):
        cluster = self.at_work(namespace)
        server = cluster.of(DEPLOYMENT)[0]
        server["status"] = {}
        cluster.site = LATER
        assert applied(cluster.look()) == [(DEPLOYMENT.kind, server["metadata"]["name"])]

    def test_it_gets_other_replicas_all_the_same(self, namespace, pipeline):
        cluster = self.at_work(namespace)
        template = copy.deepcopy(cluster.of(DEPLOYMENT)[0]["spec"]["template"])
        cluster.site = LATER
        more = {"stages": {"evaluate": {"enabled": False}, "slData": {"server": {"replicas": 2}}}}
        cluster.pipeline = pipeline(more, metadata={"uid": UID})
        assert [kind for kind, _ in applied(cluster.act())] == [DEPLOYMENT.kind]
        [server] = cluster.of(DEPLOYMENT)
        assert (server["spec"]["replicas"], server["spec"]["template"]) == (2, template)
        server["status"] = UP
        assert writes(cluster.look()) == NOTHING

    def test_a_service_of_another_kind_stands_while_its_job_runs_and_is_made_anew_else(self, namespace):
        cluster = self.at_work(namespace)
        [service] = cluster.of(SERVICE)
        del service["spec"]["clusterIP"]
        service["metadata"]["annotations"][MADE_FROM] = "an earlier version"
        assert writes(cluster.look()) == NOTHING
        cluster.of(DEPLOYMENT)[0]["status"] = {}
        wanted = cluster.act()
        assert writes(wanted) == ([], [(SERVICE.kind, service["metadata"]["name"])])
        del cluster.there[SERVICE.kind, service["metadata"]["name"]]
        assert applied(cluster.look()) == [(SERVICE.kind, service["metadata"]["name"])]

    def test_a_deployment_that_selects_otherwise_is_made_anew(self, namespace):
        cluster = TestServers.with_server(namespace)
        [server] = cluster.of(DEPLOYMENT)
        server["spec"]["selector"] = {"matchLabels": {"app": "earlier"}}
        assert writes(cluster.look()) == ([], [(DEPLOYMENT.kind, server["metadata"]["name"])])

    def test_a_served_model_keeps_its_pods(self, namespace):
        cluster = self.serving(namespace)
        cluster.site = LATER
        assert writes(cluster.look()) == NOTHING

    @pytest.mark.parametrize("other", [{"image": "mine:3"}, {"template": {"nodeSelector": {"disk": "fast"}}}])
    def test_unless_the_user_says_something_else_about_it(self, namespace, pipeline, other):
        cluster = self.serving(namespace)
        [server] = cluster.of(DEPLOYMENT)
        cluster.pipeline = pipeline({**SERVING, **other}, metadata={"uid": UID})
        assert (DEPLOYMENT.kind, server["metadata"]["name"]) in applied(cluster.act())

    def test_one_of_a_version_without_that_mark_gets_it_and_no_more(self, namespace):
        cluster = self.serving(namespace)
        [server] = cluster.of(DEPLOYMENT)
        template = copy.deepcopy(server["spec"]["template"])
        for found in (server, *cluster.of(SERVICE)):
            del found["metadata"]["annotations"]
        cluster.site = LATER
        assert applied(cluster.act()) == [(DEPLOYMENT.kind, server["metadata"]["name"])]
        [server] = cluster.of(DEPLOYMENT)
        assert server["spec"]["template"] == template
        assert set(server["metadata"]["annotations"]) == {SETTINGS}
        server["status"] = UP
        assert writes(cluster.look()) == NOTHING

    def test_a_job_that_runs_under_another_name_goes_on_with_its_servers(self, namespace):
        cluster = self.at_work(namespace)
        server, job = cluster.of(DEPLOYMENT)[0], cluster.job("slData")
        for found in [one for one in cluster.there.values() if one["metadata"]["labels"].get(NODE_LABEL) == "slData"]:
            old = found["metadata"]["name"]
            del cluster.there[found["kind"], old]
            found["metadata"]["name"] = f"earlier-{old}"
            found["metadata"]["labels"] = {
                name: f"earlier-{value}" if name == "cai.dev/workload" else value
                for name, value in found["metadata"]["labels"].items()
            }
            cluster.there[found["kind"], f"earlier-{old}"] = found
        assert server["metadata"]["name"].startswith("earlier-")
        cluster.status = PipelineStatus()
        assert writes(cluster.look()) == NOTHING
        assert cluster.status.node("slData").state == "Running"
        job["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
        for pod in cluster.of(POD):
            pod["status"]["phase"] = "Succeeded"
        wanted = cluster.look()
        assert (DEPLOYMENT.kind, server["metadata"]["name"]) in deleted(wanted)
        assert (JOB.kind, job["metadata"]["name"]) not in deleted(wanted)
        assert cluster.status.node("slData").state == "Succeeded"

    def test_one_that_waits_under_another_name_is_made_anew(self, namespace):
        cluster = namespace()
        cluster.act()
        job = cluster.job("models")
        del cluster.there[JOB.kind, job["metadata"]["name"]]
        job["metadata"]["name"] = job["metadata"]["labels"]["cai.dev/workload"] = "earlier-models"
        cluster.there[JOB.kind, "earlier-models"] = job
        wanted = cluster.look()
        assert deleted(wanted) == [(JOB.kind, "earlier-models")]
        assert [kind for kind, _ in applied(wanted)] == [JOB.kind]

    def test_another_default_size_grows_no_volume(self, namespace, pipeline):
        cluster = namespace()
        cluster.act()
        [claim] = cluster.of(CLAIM)
        claim["spec"]["resources"]["requests"]["storage"] = "100Gi"
        assert writes(cluster.look()) == NOTHING
        cluster.pipeline = pipeline({"storage": {"size": "300Gi"}}, metadata={"uid": UID})
        assert applied(cluster.look()) == [(CLAIM.kind, claim["metadata"]["name"])]


class TestOwners:
    """Whose an object is decides who may delete it."""

    def test_a_claim_is_never_deleted(self, namespace, pipeline):
        cluster = namespace()
        cluster.act()
        cluster.pipeline = pipeline({"storage": {"claimName": "mine"}}, metadata={"uid": UID})
        assert CLAIM.kind not in {kind for kind, _ in deleted(cluster.look())}
        cluster.pipeline = pipeline(metadata={"uid": "another"})
        assert CLAIM.kind not in {kind for kind, _ in deleted(cluster.look())}

    def test_a_claim_that_is_to_be_retained_loses_its_owner(self, namespace, pipeline):
        cluster = namespace({"storage": {"retain": False}})
        cluster.act()
        assert cluster.of(CLAIM)[0]["metadata"]["ownerReferences"][0]["uid"] == UID
        cluster.pipeline = pipeline({"storage": {"retain": True}}, metadata={"uid": UID})
        wanted = cluster.act()
        assert [kind for kind, _ in applied(wanted)] == [CLAIM.kind]
        assert "ownerReferences" not in cluster.of(CLAIM)[0]["metadata"]
        assert writes(cluster.look()) == NOTHING

    def test_a_claim_that_is_to_go_gets_its_owner(self, namespace, pipeline):
        cluster = namespace({"storage": {"retain": True}})
        cluster.act()
        cluster.pipeline = pipeline({"storage": {"retain": False}}, metadata={"uid": UID})
        assert [kind for kind, _ in applied(cluster.act())] == [CLAIM.kind]
        assert writes(cluster.look()) == NOTHING

    def test_a_retained_claim_serves_the_next_pipeline_of_that_name(self, namespace, pipeline):
        cluster = namespace({"storage": {"retain": True}})
        cluster.act()
        claim = cluster.of(CLAIM)[0]
        cluster.there = {(CLAIM.kind, claim["metadata"]["name"]): claim}
        cluster.pipeline = pipeline({"storage": {"retain": True}}, metadata={"uid": "another"})
        cluster.status = PipelineStatus()
        assert CLAIM.kind not in {kind for kind, _ in applied(cluster.look())}

    def test_children_of_an_earlier_pipeline_of_that_name_make_room(self, namespace, pipeline):
        cluster = namespace({"storage": {"retain": False}})
        cluster.act()
        old = {name for name in cluster.there if name[0] != CLAIM.kind}
        cluster.pipeline = pipeline({"storage": {"retain": False}}, metadata={"uid": "another"})
        cluster.status = PipelineStatus()
        wanted = cluster.act()
        assert set(deleted(wanted)) == old
        assert applied(wanted) == []
        cluster.there.clear()
        assert {name for name in applied(cluster.act()) if name[0] != CLAIM.kind} == old

    def test_an_old_pipelines_finished_job_says_nothing_about_the_new_one(self, namespace, pipeline):
        cluster = namespace()
        cluster.act()
        cluster.complete("models")
        cluster.pipeline = pipeline(metadata={"uid": "another"})
        cluster.status = PipelineStatus()
        cluster.look()
        assert cluster.status.node("models").state == "Starting"

    @pytest.mark.parametrize("owners", [[], [{"kind": "CronJob", "name": "nightly", "uid": "c1", "controller": True}]])
    @pytest.mark.parametrize("kind", [CONFIG_MAP, JOB, SERVICE], ids=lambda kind: kind.kind)
    def test_somebodys_own_object_is_not_deleted_for_its_label(self, namespace, kind, owners):
        cluster = namespace()
        cluster.act()
        mine = {"name": "mine", "labels": {PIPELINE_LABEL: "tiny"}, "ownerReferences": owners}
        cluster.add({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": mine, "spec": {}})
        assert deleted(cluster.look()) == []

    def test_what_is_of_no_workload_any_more_goes_even_without_its_owner(self, namespace):
        cluster = namespace()
        cluster.act()
        orphan = copy.deepcopy(cluster.job("models"))
        orphan["metadata"] |= {"name": "tiny-models-00000000", "ownerReferences": []}
        orphan["metadata"]["labels"]["cai.dev/workload"] = "tiny-models-00000000"
        cluster.add(orphan)
        assert deleted(cluster.look()) == [(JOB.kind, "tiny-models-00000000")]


def test_what_is_being_deleted_is_neither_deleted_again_nor_made_before_it_is_gone(namespace):
    cluster = namespace()
    cluster.act()
    job = cluster.job("models")
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert writes(cluster.look()) == NOTHING
    del cluster.there[JOB.kind, job["metadata"]["name"]]
    assert applied(cluster.look()) == [(JOB.kind, job["metadata"]["name"])]


def test_a_refused_workload_is_tried_again_though_all_of_it_is_there(namespace):
    cluster = namespace()
    cluster.act()
    name = cluster.job("models")["metadata"]["name"]
    (apply,) = cluster.look(refused=[name]).apply
    assert (apply.workload.name, apply.manifests) == (name, ())
