"""What all workloads share: the claim, who may reach whom, and where programs find things."""

from __future__ import annotations

import pytest

from cai_operator.manifests.children import places_of, shared_children, workload_children
from cai_operator.manifests.site import Site

SITE = Site(images={"hf": "cai-jobs:1"})
METADATA = {"name": "tiny", "namespace": "team", "uid": "u-1"}


def claim_of(pipeline):
    return shared_children(pipeline, SITE)[0]


def policies_of(pipeline):
    return [manifest for manifest in shared_children(pipeline, SITE) if manifest["kind"] == "NetworkPolicy"]


def test_a_claim_that_any_cluster_can_give(pipeline):
    claim = claim_of(pipeline())
    assert claim["kind"] == "PersistentVolumeClaim"
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "200Gi"}}}


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        ({"storage": {"storageClassName": "fast"}}, "ReadWriteOnce"),
        ({"storage": {"accessMode": "ReadWriteMany"}}, "ReadWriteMany"),
        ({"stages": {"rewardModel": {"nodes": 2}}}, "ReadWriteMany"),
    ],
)
def test_the_access_mode(pipeline, spec, mode):
    claim = claim_of(pipeline(spec))
    assert claim["spec"]["accessModes"] == [mode]
    assert claim["spec"].get("storageClassName") == spec.get("storage", {}).get("storageClassName")


def test_the_claims_size_as_the_api_server_would_write_it(pipeline):
    claim = claim_of(pipeline({"storage": {"size": "2048Gi"}}))
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Ti"


def test_a_claim_outlives_its_pipeline_unless_told_otherwise(pipeline):
    assert "ownerReferences" not in claim_of(pipeline(metadata=METADATA))["metadata"]
    [owner] = claim_of(pipeline({"storage": {"retain": False}}, metadata=METADATA))["metadata"]["ownerReferences"]
    assert owner["uid"] == "u-1"


TRACKING = {
    "labels": {"app.kubernetes.io/instance": "lab", "argocd.argoproj.io/instance": "lab", "team": "red"},
    "annotations": {"argocd.argoproj.io/tracking-id": "lab:cai.dev/CAIPipeline:team/tiny", "note": "x"},
}


@pytest.mark.parametrize("retain", [True, False])
def test_children_have_an_owner_and_nothing_by_which_the_pipeline_is_tracked(executor, pipeline, retain):
    """A tool that deploys the pipeline would take a child with its marks for its own, and delete it as not wanted."""
    spec = {"storage": {"retain": retain}, "stages": {"sft": {"nodes": 2}}}
    run = executor(pipeline(spec, metadata={**METADATA, **TRACKING}))
    run.run()
    made = [child for one in run.workloads.values() for child in workload_children(run.pipeline, one, SITE)]
    made.extend(shared_children(run.pipeline, SITE))
    assert {"Job", "Deployment", "Service", "NetworkPolicy", "PersistentVolumeClaim"} <= {one["kind"] for one in made}
    for manifest in made:
        for metadata in (manifest["metadata"], manifest.get("spec", {}).get("template", {}).get("metadata", {})):
            assert not {*TRACKING["labels"]} & {*metadata.get("labels", {})}
            assert not {*TRACKING["annotations"]} & {*metadata.get("annotations", {})}
        owners = [owner["uid"] for owner in manifest["metadata"].get("ownerReferences", [])]
        assert owners == ([] if retain and manifest["kind"] == "PersistentVolumeClaim" else ["u-1"])


def test_no_claim_is_made_where_one_is_named(pipeline):
    made = shared_children(pipeline({"storage": {"claimName": "mine"}}), SITE)
    assert [manifest["kind"] for manifest in made] == ["NetworkPolicy", "NetworkPolicy"]


def selects(selector, labels):
    """Whether a label selector, as these policies use them, selects a pod with such labels."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for part in selector.get("matchExpressions", []):
        assert part["operator"] == "NotIn"
        if labels.get(part["key"]) in part["values"]:
            return False
    return True


def admits(policies, pod, client, port):
    """Whether a client with such labels may reach a pod: every pod is selected by some policy, or all may."""
    applying = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], pod)]
    if not applying:
        return True
    for rule in (rule for spec in applying for rule in spec["ingress"]):
        from_there = "from" not in rule or any(selects(peer["podSelector"], client) for peer in rule["from"])
        if from_there and ("ports" not in rule or any(item["port"] == port for item in rule["ports"])):
            return True
    return False


def test_only_the_pipelines_own_pods_reach_its_stages_and_everybody_the_kept_server(executor, pipeline):
    run = executor(pipeline({"stages": {"serve": {"port": 8080}}}))
    run.run()
    policies = policies_of(run.pipeline)
    pods = {}
    for workload in run.workloads.values():
        main = workload_children(run.pipeline, workload, SITE)[-1]
        pods[workload.name] = main["spec"]["template"]["metadata"]["labels"]
    own = next(iter(pods.values()))
    other = {**own, "cai.dev/pipeline": "other"}
    assert len(pods) > 10
    for name, labels in pods.items():
        if name == "tiny-serve":
            assert all(admits(policies, labels, client, 8080) for client in (own, other, {}))
            assert not any(admits(policies, labels, client, 22) for client in (own, other, {}))
        else:
            assert all(admits(policies, labels, own, port) for port in (5999, 29500, 40000))
            assert not any(admits(policies, labels, client, 5999) for client in (other, {}))


def test_policies_say_nothing_about_other_pods_nor_about_what_pods_reach(pipeline):
    for policy in policies_of(pipeline()):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert not selects(policy["spec"]["podSelector"], {})
        assert not selects(policy["spec"]["podSelector"], {"cai.dev/pipeline": "other", "cai.dev/node": "serve"})


def test_shared_children_go_with_the_pipeline(pipeline):
    for policy in policies_of(pipeline(metadata=METADATA)):
        assert policy["metadata"]["namespace"] == "team"
        assert policy["metadata"]["ownerReferences"][0]["uid"] == "u-1"


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("models/mine", "/artifacts/models/mine"),
        ("/models/mine/", "/artifacts/models/mine"),
        ("/artifacts/models/mine", "/artifacts/models/mine"),
        ("artifacts/models", "/artifacts/artifacts/models"),
        ("/artifactsx", "/artifacts/artifactsx"),
        ("./a//b", "/artifacts/a/b"),
        ("../../etc/passwd", "/artifacts/etc/passwd"),
        ("/artifacts/../etc", "/artifacts/etc"),
        ("/", "/artifacts"),
        ("/artifacts", "/artifacts"),
    ],
)
def test_paths_of_the_manifest_are_on_the_volume(pipeline, written, seen):
    assert places_of(pipeline()).path_of(written) == seen


def test_servers_are_reached_by_their_services_in_the_pipelines_namespace(pipeline):
    host, port = places_of(pipeline(metadata=METADATA)).address_of("tiny-serve", 1427)
    assert host.split(".")[:2] == ["tiny-serve", "team"]
    assert port == 1427
