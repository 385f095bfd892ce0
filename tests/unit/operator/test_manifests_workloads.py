"""Jobs and servers as Kubernetes objects: how they fail, how they are reached, how several nodes find each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cai_operator.manifests.children import workload_children
from cai_operator.manifests.pod import QUEUE_LABEL
from cai_operator.manifests.quantities import value
from cai_operator.manifests.site import Site
from cai_operator.manifests.texts_config_map import LARGEST_CONFIG_MAP
from cai_operator.names import WORKLOAD_LABEL
from cai_operator.validation import parse_pipeline
from cai_operator.workloads import Kind

EXAMPLE = Path(__file__).parents[3] / "examples" / "pocket.yaml"
FREE_CORES = 1.0
"""What a node of two cores has left for us where the control plane and the operator run on it, too."""
SITE = Site(images={"hf": "cai-jobs:1"}, job_ttl_s=77)


@pytest.fixture
def children(executor, pipeline):
    """The children of every workload of a whole run, by node for jobs and by node and role for servers."""

    def make(spec=None, texts=None, **fields):
        run = executor(pipeline(spec, **fields), texts=texts or {})
        run.run()
        found = {}
        for workload in run.workloads.values():
            program = "" if workload.kind == Kind.JOB else "." + workload.command[2].removeprefix("cai_jobs.")
            found[workload.node + program] = workload_children(run.pipeline, workload, SITE)
        return found

    return make


def kinds(manifests):
    return [manifest["kind"] for manifest in manifests]


def owner(manifest):
    [found] = manifest["metadata"]["ownerReferences"]
    return found


def test_every_child_is_in_the_pipelines_namespace_and_goes_with_it(children):
    metadata = {"name": "tiny", "namespace": "team", "uid": "u-1", "labels": {"argo": "x"}, "annotations": {"a": "b"}}
    for manifests in children(metadata=metadata).values():
        for manifest in manifests:
            assert manifest["metadata"]["namespace"] == "team"
            assert owner(manifest) == {
                "apiVersion": "cai.dev/v1alpha1",
                "kind": "CAIPipeline",
                "name": "tiny",
                "uid": "u-1",
                "controller": True,
                "blockOwnerDeletion": False,
            }
            assert "argo" not in manifest["metadata"]["labels"]
            assert "annotations" not in manifest["metadata"]


def test_children_are_plain_json(children):
    for manifests in children({"template": {"tolerations": [{"key": "a"}]}}).values():
        assert json.loads(json.dumps(manifests)) == list(manifests)


def test_what_a_workload_refers_to_comes_before_it(children):
    found = children({"stages": {"sft": {"nodes": 2}}})
    assert kinds(found["models"]) == ["Job"]
    assert kinds(found["slData"]) == ["ConfigMap", "Job"]
    assert kinds(found["sft"]) == ["Service", "Job"]
    assert kinds(found["slData.serve"]) == kinds(found["serve.serve"]) == ["Service", "Deployment"]
    for manifests in found.values():
        names = {manifest["metadata"]["name"] for manifest in manifests}
        assert names == {manifests[-1]["metadata"]["labels"][WORKLOAD_LABEL]}


def test_a_job_fails_for_good_on_wrong_input_and_never_for_an_eviction(children):
    job = children({"stages": {"sft": {"retries": 5, "deadline": "2h"}}})["sft"][-1]["spec"]
    eviction, wrong_input = job["podFailurePolicy"]["rules"]
    assert (eviction["action"], eviction["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert wrong_input["action"] == "FailJob"
    assert wrong_input["onExitCodes"] == {"containerName": "program", "operator": "In", "values": [2]}
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert (job["backoffLimit"], job["activeDeadlineSeconds"]) == (5, 7200)
    assert (job["podReplacementPolicy"], job["ttlSecondsAfterFinished"]) == ("Failed", 77)
    assert not {"suspend", "completionMode", "selector"} & set(job)


def test_a_job_without_deadline_has_none(children):
    assert "activeDeadlineSeconds" not in children()["sft"][-1]["spec"]


def test_nodes_of_a_job_find_each_other_by_name(children):
    peers, job = children({"stages": {"sft": {"nodes": 3, "retries": 1}}})["sft"]
    name, spec = job["metadata"]["name"], job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimit"] == 5  # all three pods of both tries may fail, but no further one
    assert (peers["spec"]["clusterIP"], peers["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert spec["template"]["spec"]["subdomain"] == peers["metadata"]["name"]
    assert peers["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    env = {item["name"]: item for item in spec["template"]["spec"]["containers"][0]["env"]}
    assert env["PET_MASTER_ADDR"]["value"] == f"{name}-0.{name}"
    assert env["PET_MASTER_PORT"]["value"] == str(peers["spec"]["ports"][0]["port"])
    rank = env["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert rank == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_one_node_needs_no_service(children):
    [job] = children({"gpusPerNode": 8})["sft"]
    env = {item["name"] for item in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert not any(name.startswith("PET_") for name in env)
    assert "subdomain" not in job["spec"]["template"]["spec"]


def test_a_server_is_reached_where_it_listens(children):
    for name, manifests in children({"stages": {"slData": {"server": {"port": 6001, "replicas": 3}}}}).items():
        if kinds(manifests) != ["Service", "Deployment"]:
            continue
        service, deployment = manifests
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        [port] = service["spec"]["ports"]
        assert port["port"] == port["targetPort"] == container["ports"][0]["containerPort"]
        assert ["--port", str(port["port"])] == container["command"][container["command"].index("--port") :][:2]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
        assert service["spec"]["selector"].items() <= labels.items()
        assert deployment["spec"]["replicas"] == (3 if name == "slData.serve" else 1)


def test_the_name_of_a_generators_server_stands_for_each_of_its_pods(children):
    found = children({"stages": {"rlData": {"server": {"replicas": 3}}}})
    for node, headless in (("slData", True), ("rlData", True), ("evaluateBase", True), ("serve", False)):
        service = found[f"{node}.serve"][0]["spec"]
        assert (service.get("clusterIP") == "None") == headless, node
        # only pods that are ready: a client must not be sent to one that loads its model
        assert "publishNotReadyAddresses" not in service
    for name in ("rlData.pocket_judge", "ppo.serve_critic"):
        assert "clusterIP" not in found[name][0]["spec"]


def test_a_server_is_ready_by_its_protocol_and_has_time_to_load(children):
    found = children()
    for name, path in (
        ("slData.serve", "/health/ready"),
        ("rlData.pocket_judge", "/health/ready"),
        ("ppo.serve_critic", "/v2/health/ready"),
    ):
        container = found[name][-1]["spec"]["template"]["spec"]["containers"][0]
        port = container["ports"][0]["containerPort"]
        assert container["readinessProbe"]["httpGet"] == {"path": path, "port": port}
        assert container["startupProbe"]["httpGet"] == {"path": path, "port": port}
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800
        # a long training step must not look like death
        assert container["livenessProbe"]["tcpSocket"] == {"port": port}
        assert "httpGet" not in container["livenessProbe"]


def test_a_server_gives_up_its_gpus_before_its_successor_asks_for_them(children):
    assert children()["serve.serve"][-1]["spec"]["strategy"] == {"type": "Recreate"}


def test_the_kept_server_is_the_same_object_whatever_model_it_serves(children):
    before = children()["serve.serve"]
    after = children({"seed": 5})["serve.serve"]
    for old, new in zip(before, after, strict=True):
        assert old["metadata"]["name"] == new["metadata"]["name"] == "tiny-serve"
    assert before[-1]["spec"]["selector"] == after[-1]["spec"]["selector"]  # which cannot be changed
    assert before[0]["spec"] == after[0]["spec"]
    assert before[-1]["spec"]["template"] != after[-1]["spec"]["template"]


def test_a_queue_admits_jobs_and_servers(children):
    found = children({"template": {"queueName": "gpus"}, "stages": {"ppo": {"template": {"queueName": "big"}}}})
    job, deployment = found["sft"][-1], found["slData.serve"][-1]
    assert job["metadata"]["labels"][QUEUE_LABEL] == deployment["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert deployment["spec"]["template"]["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert QUEUE_LABEL not in job["spec"]["template"]["metadata"]["labels"]  # its pods are the Job's, not the queue's
    assert "suspend" not in job["spec"]
    assert found["ppo"][-1]["metadata"]["labels"][QUEUE_LABEL] == "big"


def test_a_critic_may_have_a_queue_of_its_own(children):
    """So that critics cannot take what their actors wait for."""
    stage = {"template": {"queueName": "actors"}, "critic": {"queueName": "critics"}}
    found = children({"template": {"queueName": "gpus"}, "stages": {"ppo": stage}})
    queues = {name: found[name][-1]["metadata"]["labels"][QUEUE_LABEL] for name in ("ppo", "ppo.serve_critic", "sft")}
    assert queues == {"ppo": "actors", "ppo.serve_critic": "critics", "sft": "gpus"}


def test_texts_are_kept_as_they_were(children):
    config_map = children()["slData"][0]
    assert config_map["immutable"] is True
    assert set(config_map["data"]) == {"critique_revision_instructions.json", "few_shot_samples.json"}


def test_texts_that_are_too_large_for_one_config_map_get_several(children):
    large = "x" * (LARGEST_CONFIG_MAP // 2 + 1)
    sources = {name: {"configMap": {"name": "rows", "key": name}} for name in ("redTeam", "helpfulness", "preference")}
    texts = {"configMap/rows": dict.fromkeys(sources, large)}
    *config_maps, job = children({"datasets": sources}, texts)["datasets"]
    names = [config_map["metadata"]["name"] for config_map in config_maps]
    assert len(config_maps) == len(set(names)) == 3
    assert names[0] == job["metadata"]["name"]
    for config_map in config_maps:
        assert sum(len(text) for text in config_map["data"].values()) <= LARGEST_CONFIG_MAP
        assert config_map["metadata"]["labels"] == job["metadata"]["labels"]
    [volume] = [v for v in job["spec"]["template"]["spec"]["volumes"] if v["name"] == "texts"]
    assert [source["configMap"]["name"] for source in volume["projected"]["sources"]] == names


def test_each_node_of_the_pocket_example_fits_a_machine_of_two_cores(executor):
    run = executor(parse_pipeline(yaml.safe_load(EXAMPLE.read_text())))
    run.run()
    asked = {}
    for workload in run.workloads.values():
        container = workload_children(run.pipeline, workload, SITE)[-1]["spec"]["template"]["spec"]["containers"][0]
        cpu = value(container["resources"]["requests"]["cpu"]) * workload.replicas
        asked[workload.node] = asked.get(workload.node, 0) + cpu
        assert workload.environment["OMP_NUM_THREADS"] == "1"
    assert asked["ppo"] > 0
    assert {node: cpu for node, cpu in asked.items() if cpu > FREE_CORES} == {}
