"""All the operator's I/O with a real API server: what it writes, what it is told, and how it gets over bad times."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.harness.fault_proxy import FaultProxy, reads_of
from tests.harness.objects import wait_for
from tests.harness.pipelines import pocket
from tests.harness.processes import free_port

from cai_operator import cluster as cluster_module
from cai_operator.cluster import Cluster, Conflict, LoginFailed, Refused, Unavailable, login
from cai_operator.manifests.event import event_object
from cai_operator.manifests.kinds import CLAIM, CONFIG_MAP, DEPLOYMENT, EVENT, JOB, PIPELINE, POD
from cai_operator.summary import Event

pytestmark = pytest.mark.usefixtures("crd")

T = TypeVar("T")
Ask = Callable[[Cluster], Coroutine[Any, Any, T]]
Asker = Callable[[Ask[T]], T]


@pytest.fixture
def ask(kubeconfig: Path) -> Asker[Any]:
    """Ask a cluster client of one's own something."""
    return asked


def asked(what: Ask[T]) -> T:
    async def run() -> T:
        client = Cluster()
        try:
            return await what(client)
        finally:
            await client.close()

    return asyncio.run(run())


def config_map(namespace: str, name: str = "texts", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def job(namespace: str, name: str = "sft", image: str = "jobs:1") -> dict[str, Any]:
    container = {"name": "program", "image": image}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": name, "namespace": namespace, "labels": {"cai.dev/pipeline": "tiny"}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}


class TestRead:
    def test_what_is_not_there_is_none(self, ask, namespace):
        assert ask(lambda c: c.get(CONFIG_MAP, namespace, "nobody")) is None
        assert ask(lambda c: c.get(CONFIG_MAP, "no-such-namespace", "nobody")) is None
        assert ask(lambda c: c.list_all(CONFIG_MAP, "no-such-namespace")) == []

    def test_objects_come_without_the_book_keeping_of_managers(self, ask, api, namespace):
        api.apply(CONFIG_MAP, config_map(namespace, a="1"))
        got = ask(lambda c: c.get(CONFIG_MAP, namespace, "texts"))
        (listed,) = ask(lambda c: c.list_all(CONFIG_MAP, namespace, fields="metadata.name=texts"))
        assert got == listed, "a list says apiVersion and kind of each, too"
        assert got["data"] == {"a": "1"}
        assert "managedFields" not in got["metadata"]

    def test_a_list_of_several_pages_is_whole(self, ask, api, namespace):
        wanted = set()
        for number in range(cluster_module.LIST_LIMIT + 3):
            name = f"text-{number}"
            wanted.add(name)
            metadata = {"name": name, "labels": {"cai.dev/pipeline": "tiny"}}
            api.create(CONFIG_MAP, {"metadata": metadata, "data": {}})
        api.create(CONFIG_MAP, {"metadata": {"name": "other"}})
        found = ask(lambda c: c.list_all(CONFIG_MAP, namespace, labels="cai.dev/pipeline=tiny"))
        names = [item["metadata"]["name"] for item in found]
        assert len(names) == len(wanted)
        assert set(names) == wanted


class TestApply:
    def test_it_makes_changes_and_takes_back_what_is_its_own(self, ask, namespace):
        made = ask(lambda c: c.apply(config_map(namespace, a="1", b="2")))
        assert made["data"] == {"a": "1", "b": "2"}
        assert made["metadata"]["uid"]
        assert "managedFields" not in made["metadata"]
        changed = ask(lambda c: c.apply(config_map(namespace, a="9")))
        assert changed["data"] == {"a": "9"}
        assert changed["metadata"]["uid"] == made["metadata"]["uid"]

    def test_the_same_once_more_is_no_change(self, ask, namespace):
        versions = {ask(lambda c: c.apply(job(namespace)))["metadata"]["resourceVersion"] for _ in range(3)}
        assert len(versions) == 1

    def test_what_somebody_else_changed_is_won_back_and_what_they_added_stays(self, ask, api, namespace):
        ask(lambda c: c.apply(config_map(namespace, a="1")))
        api.apply(CONFIG_MAP, config_map(namespace, a="theirs", b="theirs"), manager="somebody")
        assert ask(lambda c: c.apply(config_map(namespace, a="1")))["data"] == {"a": "1", "b": "theirs"}

    def test_a_claim_applied_without_its_owner_has_none(self, ask, api, namespace):
        owner = api.create(PIPELINE, pocket())["metadata"]["uid"]
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "pocket-artifacts", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        reference = {"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "name": "pocket", "uid": owner}
        owned = copy.deepcopy(claim)
        owned["metadata"]["ownerReferences"] = [{**reference, "controller": True, "blockOwnerDeletion": False}]
        assert ask(lambda c: c.apply(owned))["metadata"]["ownerReferences"]
        assert "ownerReferences" not in ask(lambda c: c.apply(claim))["metadata"]
        api.delete(PIPELINE, "pocket")
        assert api.get(CLAIM, "pocket-artifacts") is not None

    def test_what_is_invalid_is_refused_with_the_servers_sentence(self, ask, namespace):
        broken = job(namespace)
        broken["spec"]["template"]["spec"]["restartPolicy"] = "Always"
        with pytest.raises(Refused) as refusal:
            ask(lambda c: c.apply(broken))
        assert (refusal.value.code, refusal.value.reason) == (422, "Invalid")
        assert 'Job.batch "sft" is invalid' in refusal.value.message
        assert str(refusal.value) == refusal.value.message

    def test_what_cannot_change_is_refused(self, ask, namespace):
        ask(lambda c: c.apply(job(namespace)))
        with pytest.raises(Refused, match="field is immutable") as refusal:
            ask(lambda c: c.apply(job(namespace, image="jobs:2")))
        assert refusal.value.reason == "Invalid"

    def test_a_quota_refuses(self, ask, api, namespace):
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}}
        path = f"/api/v1/namespaces/{namespace}/resourcequotas"
        api.client.post(path, json={**quota, "spec": {"hard": {"count/jobs.batch": "0"}}}).raise_for_status()
        wait_for(lambda: api.client.get(f"{path}/few").json().get("status", {}).get("hard"), "the quota to count")
        with pytest.raises(Refused, match="exceeded quota: few") as refusal:
            ask(lambda c: c.apply(job(namespace)))
        assert (refusal.value.code, refusal.value.reason) == (403, "Forbidden")

    def test_whom_no_role_allows_it_is_refused(self, control_plane, namespace, monkeypatch):
        monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig_of(namespace, "default")))
        with pytest.raises(Refused, match=f"system:serviceaccount:{namespace}:default.* cannot patch") as refusal:
            asked(lambda c: c.apply(job(namespace)))
        assert refusal.value.reason == "Forbidden"
        with pytest.raises(Refused, match="cannot list"):
            asked(lambda c: c.list_all(POD, namespace))

    def test_a_namespace_that_is_not_there_refuses(self, ask):
        with pytest.raises(Refused, match='namespaces "no-such-namespace" not found') as refusal:
            ask(lambda c: c.apply(job("no-such-namespace")))
        assert refusal.value.code == 404


class TestDelete:
    def test_exactly_the_object_that_was_seen_goes(self, ask, api, namespace):
        seen = ask(lambda c: c.apply(config_map(namespace)))
        api.delete(CONFIG_MAP, "texts")
        assert ask(lambda c: c.delete(seen)) is False, "it is gone"
        ask(lambda c: c.apply(config_map(namespace)))
        assert ask(lambda c: c.delete(seen)) is False, "another has its name"
        now_there = ask(lambda c: c.get(CONFIG_MAP, namespace, "texts"))
        assert now_there["metadata"]["uid"] != seen["metadata"]["uid"]
        assert ask(lambda c: c.delete(now_there)) is True
        wait_for(lambda: api.get(CONFIG_MAP, "texts") is None, "the ConfigMap to go")

    def test_a_change_since_it_was_seen_is_no_reason_to_keep_it(self, ask, namespace):
        seen = ask(lambda c: c.apply(config_map(namespace, a="1")))
        ask(lambda c: c.apply(config_map(namespace, a="2")))
        assert ask(lambda c: c.delete(seen)) is True

    def test_its_children_go_first(self, ask, api, namespace):
        parent = ask(lambda c: c.apply(job(namespace)))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "sft", "uid": parent["metadata"]["uid"]}
        metadata = {"name": "sft-x", "finalizers": ["test.example/wait"]}
        metadata["ownerReferences"] = [{**owner, "blockOwnerDeletion": True, "controller": True}]
        api.create(POD, {"metadata": metadata, "spec": {"containers": [{"name": "program", "image": "jobs:1"}]}})
        assert ask(lambda c: c.delete(parent)) is True
        wait_for(lambda: "deletionTimestamp" in api.get(POD, "sft-x")["metadata"], "the pod to be deleted")
        left = ask(lambda c: c.get(JOB, namespace, "sft"))
        assert "deletionTimestamp" in left["metadata"]
        assert ask(lambda c: c.delete(left)) is True, "a second time changes nothing"
        api.patch(POD, "sft-x", {"metadata": {"finalizers": None}})
        wait_for(lambda: api.get(JOB, "sft") is None, "the Job to go")


STATUS = {"phase": "Running", "message": "sft runs", "progress": "1/4"}


class TestStatus:
    def test_it_is_written_as_a_whole(self, ask, api, namespace):
        api.create(PIPELINE, pocket())
        seen = ask(lambda c: c.get(PIPELINE, namespace, "pocket"))
        written = ask(lambda c: c.write_status(seen, {**STATUS, "endpoint": "http://pocket-serve:1427"}))
        assert written["metadata"]["generation"] == seen["metadata"]["generation"]
        again = ask(lambda c: c.write_status(written, {"phase": "Running", "message": "", "endpoint": None}))
        assert api.status("pocket") == again["status"]
        assert "endpoint" not in again["status"]
        assert again["status"]["progress"] == "1/4", "what is not named stays"

    def test_it_does_not_hold_for_a_pipeline_that_changed(self, ask, api, namespace):
        api.create(PIPELINE, pocket())
        seen = ask(lambda c: c.get(PIPELINE, namespace, "pocket"))
        api.patch(PIPELINE, "pocket", {"spec": {"suspend": True}})
        with pytest.raises(Conflict):
            ask(lambda c: c.write_status(seen, STATUS))
        assert api.status("pocket") == {}

    def test_it_does_not_hold_for_one_that_is_gone_or_another_of_its_name(self, ask, api, namespace):
        api.create(PIPELINE, pocket())
        seen = ask(lambda c: c.get(PIPELINE, namespace, "pocket"))
        api.delete(PIPELINE, "pocket")
        with pytest.raises(Conflict):
            ask(lambda c: c.write_status(seen, STATUS))
        api.create(PIPELINE, pocket())
        with pytest.raises(Conflict):
            ask(lambda c: c.write_status(seen, STATUS))
        assert api.status("pocket") == {}

    def test_one_the_schema_does_not_know_is_refused(self, ask, api, namespace):
        api.create(PIPELINE, pocket())
        seen = ask(lambda c: c.get(PIPELINE, namespace, "pocket"))
        with pytest.raises(Refused, match=r"status\.phase.*Unsupported value"):
            ask(lambda c: c.write_status(seen, {"phase": "Nonsense"}))


class TestEvents:
    def test_one_is_recorded_once_and_kubectl_shows_it(self, ask, api, control_plane, namespace):
        api.create(PIPELINE, pocket())
        seen = ask(lambda c: c.get(PIPELINE, namespace, "pocket"))
        happening = Event("Warning", "Failed", "sft failed: " + "é" * 2000, "sft")
        event = event_object(seen, happening, 0, datetime.now(UTC), "operator-1")
        ask(lambda c: c.post_event(event))
        ask(lambda c: c.post_event(event))
        (found,) = api.events("pocket")
        assert found[:2] == ("Warning", "Failed")
        shown = control_plane.kubectl("events", "--for", "caipipeline/pocket", "-n", namespace).stdout
        assert "sft failed: ééé" in shown

    def test_warnings_about_an_object_come_oldest_first(self, ask, api, namespace):
        moment = datetime(2026, 1, 1, tzinfo=UTC)

        def record(name: str, kind: str, type_: str, message: str, minute: int) -> None:
            about = {"apiVersion": "batch/v1", "kind": kind, "name": name, "namespace": namespace}
            stamp = (moment + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
            event = {"metadata": {"generateName": "e-"}, "involvedObject": about, "reason": "R", "type": type_}
            api.create(EVENT, {**event, "message": message, "firstTimestamp": stamp, "lastTimestamp": stamp})

        record("sft", "Job", "Warning", "second", 5)
        record("sft", "Job", "Warning", "first", 1)
        record("sft", "Job", "Normal", "never mind", 9)
        record("sft", "Deployment", "Warning", "another kind", 9)
        record("ppo", "Job", "Warning", "another name", 9)
        found = ask(lambda c: c.warnings(namespace, JOB.kind, "sft"))
        assert [event["message"] for event in found] == ["first", "second"]
        assert ask(lambda c: c.warnings(namespace, JOB.kind, "nobody")) == []


def test_a_pod_without_a_log_has_an_empty_one(ask, api, namespace):
    spec = {"containers": [{"name": "program", "image": "jobs:1"}]}
    api.create(POD, {"metadata": {"name": "unplaced"}, "spec": spec})
    assert ask(lambda c: c.log_tail(namespace, "unplaced", "program")) == ""
    assert ask(lambda c: c.log_tail(namespace, "gone", "program")) == ""
    api.create(POD, {"metadata": {"name": "placed"}, "spec": {**spec, "nodeName": "away"}})
    assert ask(lambda c: c.log_tail(namespace, "placed", "program")) == "", "its node does not answer"


def test_a_node_that_does_not_answer_is_not_waited_for_long(control_plane, kubeconfig, namespace, monkeypatch):
    monkeypatch.setattr(cluster_module, "LOG_TIMEOUT_S", 0.2)
    with FaultProxy(control_plane.url, control_plane.ca) as proxy:
        kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, proxy.url))
        proxy.delay(3600, reads_of("pods/log"))
        assert asked(lambda c: c.log_tail(namespace, "pod", "program")) == ""


class TestLogin:
    """Credentials change under a running operator: tokens are replaced on disk, files are rewritten."""

    def test_a_token_that_no_longer_holds_is_read_anew(self, control_plane, kubeconfig, namespace):
        async def scenario(client: Cluster) -> None:
            control_plane.write_kubeconfig(kubeconfig, token="outdated")
            with pytest.raises(Unavailable, match="401"):
                await client.list_all(CONFIG_MAP, namespace)
            control_plane.write_kubeconfig(kubeconfig, token=control_plane.admin_token)
            assert await client.get(DEPLOYMENT, namespace, "nobody") is None

        asked(scenario)

    def test_a_file_that_cannot_be_read_is_waited_for(self, control_plane, kubeconfig, namespace):
        async def scenario(client: Cluster) -> None:
            control_plane.write_kubeconfig(kubeconfig, token="outdated")
            with pytest.raises(Unavailable, match="401"):
                await client.list_all(CONFIG_MAP, namespace)
            kubeconfig.write_text("apiVersion: [")
            with pytest.raises(Unavailable, match="the kubeconfig cannot be used"):
                await client.list_all(CONFIG_MAP, namespace)
            kubeconfig.unlink()
            with pytest.raises(Unavailable, match="No such file"):
                await client.list_all(CONFIG_MAP, namespace)
            control_plane.write_kubeconfig(kubeconfig, token=control_plane.admin_token)
            await client.list_all(CONFIG_MAP, namespace)

        asked(scenario)

    def test_a_login_is_renewed_under_requests_in_flight(self, kubeconfig, namespace, api, monkeypatch):
        api.create(CONFIG_MAP, {"metadata": {"name": "texts"}})
        monkeypatch.setattr(cluster_module, "LOGIN_MAX_AGE_S", -1.0)

        async def scenario(client: Cluster) -> None:
            found = await asyncio.gather(*(client.get(CONFIG_MAP, namespace, "texts") for _ in range(20)))
            assert all(item is not None for item in found)

        asked(scenario)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "Current context is not set"),
            ("hello", "the kubeconfig cannot be used"),
            ("current-context: [", "the kubeconfig cannot be used"),
            ("current-context: here", "the kubeconfig refers to 'here', which is not in it"),
            (
                "{current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
                " clusters: [{name: c, cluster: {}}], users: [{name: u, user: {token: t}}]}",
                "its cluster has no server",
            ),
        ],
    )
    def test_a_kubeconfig_that_is_none_is_said(self, kubeconfig, text, sentence):
        kubeconfig.write_text(text)
        with pytest.raises(LoginFailed, match=sentence.replace("[", r"\[")):
            login()

    def test_no_credentials_at_all_is_said(self, monkeypatch, tmp_path):
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(LoginFailed, match="set KUBECONFIG"):
            login()


class TestUnavailable:
    """The API server is away or overloaded: all that is asked is told so, and nothing else."""

    def test_nobody_listens(self, control_plane, kubeconfig, namespace):
        kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, f"https://127.0.0.1:{free_port()}"))

        async def scenario(client: Cluster) -> None:
            with pytest.raises(Unavailable, match="the API server cannot be reached"):
                await client.get(CONFIG_MAP, namespace, "texts")
            with pytest.raises(Unavailable, match="the API server cannot be reached"):
                await client.apply(job(namespace))
            assert await client.log_tail(namespace, "pod", "program") == ""

        asked(scenario)

    def test_a_server_nobody_vouches_for_is_not_trusted(self, kubeconfig, namespace):
        lines = kubeconfig.read_text().splitlines()
        kubeconfig.write_text("\n".join(line for line in lines if "certificate-authority-data" not in line))
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            asked(lambda c: c.get(CONFIG_MAP, namespace, "texts"))

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_it_answers_that_it_cannot(self, control_plane, kubeconfig, namespace, status):
        with FaultProxy(control_plane.url, control_plane.ca) as proxy:
            kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, proxy.url))
            proxy.answer(status, reads_of("configmaps"), times=1, message="etcd has no leader")

            async def scenario(client: Cluster) -> None:
                with pytest.raises(Unavailable, match=f"{status}.*etcd has no leader"):
                    await client.list_all(CONFIG_MAP, namespace)
                await client.list_all(CONFIG_MAP, namespace)

            asked(scenario)

    def test_a_gateway_answers_in_html(self, control_plane, kubeconfig, namespace):
        with FaultProxy(control_plane.url, control_plane.ca) as proxy:
            kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, proxy.url))
            proxy.answer(502, reads_of("configmaps"), text="<html>Bad Gateway</html>")
            with pytest.raises(Unavailable, match=r"502.*Bad Gateway"):
                asked(lambda c: c.list_all(CONFIG_MAP, namespace))

    def test_it_hangs_up(self, control_plane, kubeconfig, namespace):
        with FaultProxy(control_plane.url, control_plane.ca) as proxy:
            kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, proxy.url))
            proxy.cut(reads_of("configmaps"), times=1)

            async def scenario(client: Cluster) -> None:
                with pytest.raises(Unavailable, match="the API server cannot be reached"):
                    await client.list_all(CONFIG_MAP, namespace)
                await client.list_all(CONFIG_MAP, namespace)

            asked(scenario)
