"""The tests' own node does what a cluster's does: pods, Services by name, volumes, probes, logs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.harness import binaries
from tests.harness.availability import skipped_where_unavailable
from tests.harness.cluster import VARIABLE, Cluster
from tests.harness.pod_image import write_image
from tests.harness.processes import wait_for

ROOT = Path(__file__).parents[2]
USER = 10001
# for a machine that is busy with other tests
PATIENCE = "--timeout=600s"

Object = dict[str, Any]


def test_a_job_calls_a_deployment_by_its_name_and_writes_to_a_volume(node: Cluster, namespace: str) -> None:
    _apply(node, namespace, _claim("data"))
    _apply(node, namespace, _deployment("greeter", node.pod_image, ["serve", ":8080", "good morning"]))
    _apply(node, namespace, _service("greeter", 8080))
    _apply(node, namespace, _job("caller", node.pod_image, ["call", f"http://greeter.{namespace}.svc:8080/"]))
    _apply(node, namespace, _job("writer", node.pod_image, ["write", "/data/note", "kept"], claim="data"))
    node.kubectl("rollout", "status", "deployment/greeter", "-n", namespace, PATIENCE)
    node.kubectl("wait", "job/caller", "job/writer", "-n", namespace, "--for=condition=Complete", PATIENCE)
    assert node.kubectl("logs", "job/caller", "-n", namespace, "-c", "program").stdout.endswith("good morning")
    _apply(node, namespace, _job("reader", node.pod_image, ["read", "/data/note"], claim="data"))
    node.kubectl("wait", "job/reader", "-n", namespace, "--for=condition=Complete", PATIENCE)
    assert node.kubectl("logs", "job/reader", "-n", namespace).stdout == "kept"


def test_a_pod_reaches_itself_through_its_own_service(node: Cluster, namespace: str) -> None:
    _apply(node, namespace, _deployment("mirror", node.pod_image, ["serve", ":8080", "me"]))
    _apply(node, namespace, _service("mirror", 8080))
    node.kubectl("rollout", "status", "deployment/mirror", "-n", namespace, PATIENCE)
    words = ["exec", "deployment/mirror", "-n", namespace, "--", "/pod", "call", "http://mirror:8080/"]
    assert node.kubectl(*words).stdout == "me"


def test_a_pod_reaches_the_api_server_and_can_verify_it(node: Cluster, namespace: str) -> None:
    job = _job("asker", node.pod_image, ["call", "https://kubernetes.default.svc/livez"])
    authority = {"name": "SSL_CERT_FILE", "value": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"}
    job["spec"]["template"]["spec"]["containers"][0]["env"] = [authority]
    _apply(node, namespace, job)
    node.kubectl("wait", "job/asker", "-n", namespace, "--for=condition=Complete", PATIENCE)
    assert node.kubectl("logs", "job/asker", "-n", namespace).stdout.endswith("ok")


def test_all_of_two_cores_are_free_for_pods(node: Cluster) -> None:
    if VARIABLE in os.environ:
        pytest.skip(f"the cluster of {VARIABLE} is not ours to judge")
    shown = json.loads(node.kubectl("get", "nodes", "-o", "json").stdout)["items"][0]["status"]
    assert shown["allocatable"]["cpu"] == shown["capacity"]["cpu"] == str(os.cpu_count())


def test_the_volume_goes_with_its_claim(node: Cluster, namespace: str) -> None:
    _apply(node, namespace, _claim("brief"))
    node.kubectl("wait", "pvc/brief", "-n", namespace, "--for=jsonpath={.status.phase}=Bound", PATIENCE)
    volume = node.kubectl("get", "pvc/brief", "-n", namespace, "-o", "jsonpath={.spec.volumeName}").stdout
    node.kubectl("delete", "pvc/brief", "-n", namespace)
    wait_for("the end of the volume", lambda: node.kubectl("get", "pv", volume, check=False).returncode != 0)


def test_a_pod_of_too_many_rights_is_refused(node: Cluster, namespace: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}}
    pod["spec"] = {"containers": [{"name": "program", "image": node.pod_image}]}
    refused = node.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(pod), check=False)
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr


def test_an_imported_image_runs_under_its_name(node: Cluster, namespace: str, tmp_path: Path) -> None:
    name = f"localhost/{namespace}:new"
    write_image(tmp_path / "image.tar", name, binaries.pod_program(), ["/pod", "write", "/dev/stdout", "hello"])
    with skipped_where_unavailable():
        node.import_image(tmp_path / "image.tar")
    _apply(node, namespace, _job("speaker", name, None))
    node.kubectl("wait", "job/speaker", "-n", namespace, "--for=condition=Complete", PATIENCE)
    assert node.kubectl("logs", "job/speaker", "-n", namespace).stdout == "hello"


def _apply(node: Cluster, namespace: str, document: Object) -> None:
    node.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(document))


def _pod(image: str, words: list[str] | None, claim: str | None = None) -> Object:
    container: Object = {
        "name": "program",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    pod: Object = {"containers": [container], "terminationGracePeriodSeconds": 1}
    pod["securityContext"] = {"runAsNonRoot": True, "runAsUser": USER, "seccompProfile": {"type": "RuntimeDefault"}}
    if words is not None:
        container["args"] = words
    if claim:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        pod["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return pod


def _deployment(name: str, image: str, words: list[str]) -> Object:
    pod = _pod(image, words)
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    pod["containers"][0]["readinessProbe"] = probe
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def _service(name: str, port: int) -> Object:
    spec = {"selector": {"app": name}, "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _job(name: str, image: str, words: list[str] | None, claim: str | None = None) -> Object:
    template = {"spec": {**_pod(image, words, claim), "restartPolicy": "Never"}}
    spec = {"backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def _claim(name: str) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
