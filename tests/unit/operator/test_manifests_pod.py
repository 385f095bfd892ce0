"""What every pod gets, whatever its program: safety, environment, volumes, and where it may run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cai_operator.manifests.children import shared_children, workload_children
from cai_operator.manifests.pod import CONTAINER
from cai_operator.manifests.site import MOUNT, TEXTS, Site
from cai_operator.names import NODE_LABEL, PIPELINE_LABEL, WORKLOAD_LABEL

SITE = Site(images={"hf": "cai-jobs:1"}, pull_policy="Never")
TEMPLATE = {
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "priorityClassName": "batch",
    "runtimeClassName": "nvidia",
    "schedulerName": "packer",
    "imagePullSecrets": [{"name": "registry"}],
    "imagePullPolicy": "Always",
    "labels": {"team": "red", PIPELINE_LABEL: "stolen"},
    "annotations": {"note": "yes"},
}


@pytest.fixture
def pods(executor, pipeline):
    """The pod templates of a whole run, by node for jobs and by node and role for servers."""

    def make(spec=None, site=SITE, **fields):
        run = executor(pipeline(spec, **fields))
        run.run()
        found = {}
        for workload in run.workloads.values():
            main = workload_children(run.pipeline, workload, site)[-1]
            program = "" if workload.kind == "job" else "." + workload.command[2].removeprefix("cai_jobs.")
            found[workload.node + program] = main["spec"]["template"]
        return found

    return make


def program(template):
    [container] = template["spec"]["containers"]
    assert container["name"] == CONTAINER == "program"
    return container


def environment(template):
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in program(template)["env"]}


def volumes(template):
    """Mount path -> the volume there, of every mount."""
    by_name = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    mounts = program(template)["volumeMounts"]
    assert {mount["name"] for mount in mounts} == set(by_name)
    return {mount["mountPath"]: by_name[mount["name"]] for mount in mounts}


def test_every_pod_is_restricted_and_has_no_token(pods):
    for template in pods({"gpusPerNode": 1, "stages": {"sft": {"nodes": 2}}}).values():
        spec, container = template["spec"], program(template)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {spec["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_the_user_is_left_to_the_cluster_where_the_site_says_so(pods):
    context = pods(site=replace(SITE, run_as_user=None))["sft"]["spec"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(context)


def test_a_program_writes_to_volumes_only(pods):
    for template in pods().values():
        mounted = volumes(template)
        assert mounted["/tmp"] == {"name": "scratch", "emptyDir": {}}
        assert mounted[MOUNT]["persistentVolumeClaim"] == {"claimName": "tiny-artifacts"}
        seen = environment(template)
        for name in ("HOME", "TMPDIR", "HF_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            assert seen[name].startswith("/tmp")
        assert "/dev/shm" not in mounted


def test_the_claim_of_the_pods_is_the_one_that_is_made_or_the_one_that_is_named(pods, pipeline):
    made = shared_children(pipeline(), SITE)[0]
    assert volumes(pods()["sft"])[MOUNT]["persistentVolumeClaim"]["claimName"] == made["metadata"]["name"]
    named = {"storage": {"claimName": "mine"}}
    assert volumes(pods(named)["sft"])[MOUNT]["persistentVolumeClaim"]["claimName"] == "mine"


def test_texts_are_there_for_programs_that_read_them(pods):
    found = pods()
    with_texts = {name for name, template in found.items() if TEXTS in volumes(template)}
    assert with_texts == {"slData", "rlData", "report"}


def test_shared_memory_for_gpus_or_as_asked(pods):
    found = pods({"gpusPerNode": 1, "stages": {"ppo": {"template": {"shmSize": "1.5Gi"}}}})
    assert volumes(found["sft"])["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert volumes(found["ppo"])["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1536Mi"}
    assert "/dev/shm" not in volumes(found["datasets"])
    asked = pods({"template": {"shmSize": "1Gi"}})
    assert all(volumes(template)["/dev/shm"]["emptyDir"]["sizeLimit"] == "1Gi" for template in asked.values())


def test_resources_leave_cpu_unlimited_and_gpus_exact(pods):
    found = pods({"gpusPerNode": 2, "stages": {"sft": {"resources": {"cpu": "0.5", "memory": "1024Mi"}}}})
    assert program(found["sft"])["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "1Gi", "nvidia.com/gpu": "2"},
    }
    assert program(found["report"])["resources"] == {
        "requests": {"cpu": "250m", "memory": "2Gi"},
        "limits": {"memory": "2Gi"},
    }
    assert environment(found["report"])["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(found["sft"])


def test_programs_that_wait_ask_for_less_and_have_one_thread(pods):
    found = pods()
    light = {name for name, template in found.items() if program(template)["resources"]["requests"]["cpu"] == "250m"}
    jobs = {"datasets", "slData", "rlData", "evaluateBase", "evaluateSlCai", "evaluateRlCai", "report"}
    assert light == jobs | {"rlData.pocket_judge"}
    assert {environment(template)["OMP_NUM_THREADS"] for template in found.values()} == {"1"}


INTERCONNECT = {
    "interface": "eth1",
    "devices": [{"resource": "rdma/hca"}, {"resource": "vpc.amazonaws.com/efa", "count": 4}],
    "env": [{"name": "NCCL_IB_HCA", "value": "mlx5_$(X)"}],
    "ipcLock": True,
}


def test_the_interconnect_is_for_pods_on_several_machines(pods):
    found = pods({"gpusPerNode": 8, "stages": {"sft": {"nodes": 2}}, "template": {"interconnect": INTERCONNECT}})
    sft = program(found["sft"])
    devices = {"nvidia.com/gpu": "8", "rdma/hca": "1", "vpc.amazonaws.com/efa": "4"}
    for kind in ("requests", "limits"):
        assert {name: sft["resources"][kind].get(name) for name in devices} == devices
    assert sft["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    seen = environment(found["sft"])
    assert (seen["NCCL_SOCKET_IFNAME"], seen["GLOO_SOCKET_IFNAME"]) == ("=eth1", "eth1")
    assert seen["NCCL_IB_HCA"] == "mlx5_$$(X)"
    assert len(seen) == len(sft["env"])
    for name, template in found.items():
        if name != "sft":
            assert program(template)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "rdma/hca" not in program(template)["resources"]["limits"]
            assert not [variable for variable in environment(template) if variable.startswith(("NCCL_", "GLOO_"))]


def test_no_capability_is_added_unless_it_is_asked_for(pods):
    given = {"interface": "eth1", "devices": [{"resource": "rdma/hca"}]}
    found = pods({"stages": {"sft": {"nodes": 2, "template": {"interconnect": given}}}})
    assert program(found["sft"])["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods_are_spread_by_the_template_each_job_by_itself(pods):
    rack = {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
    other = {**rack, "labelSelector": {"matchLabels": {"team": "red"}}}
    found = pods({"stages": {"sft": {"nodes": 2}}, "template": {"topologySpreadConstraints": [rack, other]}})
    for template in found.values():
        ours, given = template["spec"]["topologySpreadConstraints"]
        assert given == other
        selector = ours.pop("labelSelector")["matchLabels"]
        assert ours == rack
        assert set(selector) == {PIPELINE_LABEL, WORKLOAD_LABEL}
        assert selector.items() <= template["metadata"]["labels"].items()
    assert all("topologySpreadConstraints" not in template["spec"] for template in pods().values())


def test_secrets_are_references_and_nowhere_else(pods):
    key = {"name": "judge", "key": "token"}
    judge = {"url": "https://host/v1/chat/completions", "model": "m", "apiKeySecret": key}
    found = pods({"judge": judge, "hubTokenSecret": {"name": "hub", "key": "t"}})
    assert environment(found["rlData"])["NGC_API_KEY"] == {"secretKeyRef": key}
    assert environment(found["models"])["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "t"}}
    assert not {"NGC_API_KEY", "HF_TOKEN"} & set(environment(found["sft"]))


def test_kubernetes_sees_no_variables_in_text_of_the_user(pods):
    overrides = {"overrides": {"response_extract_pattern": "$(HF_TOKEN) $$ a"}}
    command = program(pods({"stages": {"slData": overrides}})["slData"])["command"]
    # a doubled dollar is Kubernetes' way to write one
    assert any(part.endswith("$$(HF_TOKEN) $$$$ a") for part in command)
    assert not any("$(" in part.replace("$$", "") for part in command)


def test_the_template_reaches_every_pod_and_overrides_nothing_of_ours(pods):
    for name, template in pods({"template": TEMPLATE}).items():
        spec, labels = template["spec"], template["metadata"]["labels"]
        assert spec["nodeSelector"] == {"zone": "a"}
        assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
        assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("batch", "nvidia")
        assert (spec["schedulerName"], spec["imagePullSecrets"]) == ("packer", [{"name": "registry"}])
        assert program(template)["imagePullPolicy"] == "Always"
        assert template["metadata"]["annotations"] == {"note": "yes"}
        assert (labels["team"], labels[PIPELINE_LABEL]) == ("red", "tiny")
        assert labels[NODE_LABEL] == name.partition(".")[0]


def test_logins_of_the_installation_are_for_templates_that_name_none(pods):
    site = replace(SITE, pull_secrets=("one", "two"))
    assert pods(site=site)["sft"]["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert pods({"template": TEMPLATE}, site=site)["sft"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert "imagePullSecrets" not in pods({"template": {"imagePullSecrets": []}}, site=site)["sft"]["spec"]


def test_a_stages_template_wins_field_by_field(pods):
    own = {"nodeSelector": {"gpu": "h200"}, "tolerations": []}
    found = pods({"template": TEMPLATE, "stages": {"sft": {"template": own}}})
    assert found["sft"]["spec"]["nodeSelector"] == {"gpu": "h200"}
    assert "tolerations" not in found["sft"]["spec"]
    assert found["sft"]["spec"]["priorityClassName"] == "batch"
    assert found["ppo"]["spec"]["nodeSelector"] == {"zone": "a"}


def test_images_from_the_stage_the_spec_or_the_site(pods):
    found = pods({"stages": {"sft": {"image": "mine:1"}}})
    assert (program(found["sft"])["image"], program(found["ppo"])["image"]) == ("mine:1", "cai-jobs:1")
    assert program(found["sft"])["imagePullPolicy"] == "Never"
    assert program(pods({"image": "all:2"})["ppo"])["image"] == "all:2"
    assert "imagePullPolicy" not in program(pods(site=Site())["sft"])


def test_pods_stay_together_where_the_volume_is_on_one_machine(pods):
    near = {"labelSelector": {"matchLabels": {PIPELINE_LABEL: "tiny"}}, "topologyKey": "kubernetes.io/hostname"}
    alone = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}}
    assert all(template["spec"]["affinity"] == alone for template in pods().values())
    for spec in (
        {"storage": {"accessMode": "ReadWriteMany"}},
        {"storage": {"claimName": "mine"}},
        {"stages": {"sft": {"nodes": 2}}},
    ):
        assert all("affinity" not in template["spec"] for template in pods(spec).values())
    assert pods({"storage": {"claimName": "mine", "accessMode": "ReadWriteOnce"}})["ppo"]["spec"]["affinity"] == alone


def test_the_templates_affinity_is_kept_beside_ours(pods):
    rack = {"labelSelector": {}, "topologyKey": "rack"}
    given = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [rack]},
    }
    for template in pods({"template": {"affinity": given}}).values():
        affinity = template["spec"]["affinity"]
        assert affinity["nodeAffinity"] == given["nodeAffinity"]
        terms = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert terms[0] == rack
        assert len(terms) == 2


def test_pods_are_labelled_as_their_workload(executor, pipeline):
    run = executor(pipeline())
    run.run()
    for workload in run.workloads.values():
        for child in workload_children(run.pipeline, workload, SITE):
            labels = child["metadata"]["labels"]
            assert labels[WORKLOAD_LABEL] == workload.name
            if "template" in child.get("spec", {}):
                assert child["spec"]["template"]["metadata"]["labels"] == labels
