"""The tests' own API server: it starts, knows who may do what, and keeps its objects over restarts."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.harness.binaries import SOURCES, version_of
from tests.harness.control_plane import ControlPlane
from tests.harness.processes import Program, StartError, wait_for

ROOT = Path(__file__).parents[2]


def test_serves_a_kubernetes_of_the_range_that_is_looked_for(control_plane: ControlPlane) -> None:
    with control_plane.client() as client:
        version = client.get("/version").json()
    assert (version["major"], int(version["minor"]) in range(33, 36)) == ("1", True)


def test_the_built_programs_are_of_the_version_their_module_names() -> None:
    wanted = re.search(r"k8s\.io/kubernetes v([\d.]+)", (SOURCES / "go.mod").read_text())
    from tests.harness.binaries import _from_cache

    assert wanted
    assert version_of(_from_cache(["kube-apiserver"])["kube-apiserver"]) == wanted[1]


def test_clients_verify_the_server(control_plane: ControlPlane) -> None:
    with (
        httpx.Client(verify=ssl.create_default_context(), trust_env=False) as stranger,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        stranger.get(control_plane.url)


def test_the_kubeconfig_is_the_admins(control_plane: ControlPlane) -> None:
    assert control_plane.kubectl("auth", "can-i", "*", "*").stdout.strip() == "yes"
    assert control_plane.kubeconfig.stat().st_mode & 0o077 == 0


def test_an_unbound_service_account_is_refused_until_bound(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    with control_plane.client(token=control_plane.token(namespace, "reader")) as client:
        assert client.get(pods).status_code == 403
        role = ["create", "rolebinding", "reader", "--clusterrole=view", f"--serviceaccount={namespace}:reader"]
        control_plane.kubectl(*role, "-n", namespace)
        wait_for("the right to list pods", lambda: client.get(pods).status_code == 200)
        assert client.get("/api/v1/nodes").status_code == 403
    listed = control_plane.kubectl(
        "get", "pods", "-n", namespace, kubeconfig=control_plane.kubeconfig_of(namespace, "reader")
    )
    assert "No resources found" in listed.stderr


@pytest.mark.parametrize("graceful", [True, False])
def test_objects_outlive_a_restart_of_the_server(control_plane: ControlPlane, namespace: str, graceful: bool) -> None:
    url = control_plane.url
    control_plane.kubectl("create", "configmap", "kept", "--from-literal=a=b", "-n", namespace)
    control_plane.stop_apiserver(graceful)
    with control_plane.client() as client, pytest.raises(httpx.ConnectError):
        client.get("/version")
    control_plane.start_apiserver()
    assert control_plane.url == url
    with control_plane.client() as client:
        assert client.get(f"/api/v1/namespaces/{namespace}/configmaps/kept").json()["data"] == {"a": "b"}


def test_children_go_with_their_owner(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    with control_plane.client() as client:
        owner = client.post(path, json={"metadata": {"name": "owner"}}).json()
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        client.post(path, json={"metadata": {"name": "child", "ownerReferences": [reference]}}).raise_for_status()
        client.delete(f"{path}/owner").raise_for_status()
        wait_for("the end of the child", lambda: client.get(f"{path}/child").status_code == 404)


def test_the_restricted_pod_security_level_is_enforced_where_a_namespace_asks(control_plane: ControlPlane) -> None:
    pod = {"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "program", "image": "none"}]}}
    with control_plane.client() as client:
        for level, status in (("restricted", 403), ("privileged", 201)):
            with control_plane.namespace({"pod-security.kubernetes.io/enforce": level}) as name:
                assert client.post(f"/api/v1/namespaces/{name}/pods", json=pod).status_code == status


def test_jobs_make_pods_where_their_controller_runs(
    control_plane_with_jobs: ControlPlane, namespace_with_jobs: str
) -> None:
    control_plane_with_jobs.kubectl("create", "job", "once", "--image=none", "-n", namespace_with_jobs)
    with control_plane_with_jobs.client() as client:
        path = f"/api/v1/namespaces/{namespace_with_jobs}/pods?labelSelector=job-name=once"
        wait_for("the Job's pod", lambda: len(client.get(path).json()["items"]) == 1)


def test_nothing_outlives_a_killed_test_process(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from tests.harness.control_plane import ControlPlane
        plane = ControlPlane(Path({str(tmp_path)!r})).__enter__()
        print(*(program.pid for program in plane._running.values()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    pids = done.stdout.split()
    assert len(pids) == 2, done.stderr
    for pid in pids:
        wait_for(f"the end of {pid}", partial(_is_gone, int(pid)))


def test_a_program_that_does_not_come_up_shows_its_log(tmp_path: Path) -> None:
    program = Program("etcd", ["sh", "-c", "echo the disk is full; exit 3"], tmp_path / "log")
    with pytest.raises(StartError) as failure:
        program.wait_until(lambda: False)
    assert str(failure.value).startswith("etcd ended with exit code 3 before it was ready.")
    assert "the disk is full" in str(failure.value)


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"
