"""Our reading of the restricted Pod Security level agrees with the API server's admission, control by control."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.control_plane import ControlPlane
from tests.harness.pipelines import merged
from tests.harness.pod_security import CONTROLS, violations

Object = dict[str, Any]

RESTRICTED: Object = {
    "metadata": {"name": "pod"},
    "spec": {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "program",
                "image": "none",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}


def _pod(**spec: Any) -> Object:
    return merged(RESTRICTED, {"spec": spec})


def _security(**context: Any) -> Object:
    return _pod(securityContext=context)


def _container(**fields: Any) -> Object:
    pod = copy.deepcopy(RESTRICTED)
    pod["spec"]["containers"] = [merged(pod["spec"]["containers"][0], fields)]
    return pod


def _own(**context: Any) -> Object:
    return _container(securityContext=context)


def _init(**context: Any) -> Object:
    pod = _pod()
    first = merged(pod["spec"]["containers"][0], {"name": "first", "securityContext": context})
    return merged(pod, {"spec": {"initContainers": [first]}})


ANNOTATION = "container.apparmor.security.beta.kubernetes.io/program"
BREAKING = [
    ("Host Namespaces", _pod(hostNetwork=True)),
    ("Host Namespaces", _pod(hostPID=True)),
    ("Host Namespaces", _pod(hostIPC=True)),
    ("Privileged Containers", _own(privileged=True, allowPrivilegeEscalation=None)),
    ("Capabilities", _own(capabilities={"drop": ["ALL"], "add": ["IPC_LOCK"]})),
    ("Capabilities", _own(capabilities={"drop": ["NET_RAW"]})),
    ("Capabilities", _own(capabilities=None)),
    ("Capabilities", _init(capabilities={"drop": ["ALL"], "add": ["CHOWN"]})),
    ("Volume Types", _pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}])),
    ("Volume Types", _pod(volumes=[{"name": "v", "nfs": {"server": "s", "path": "/"}}])),
    ("Host Ports", _container(ports=[{"containerPort": 80, "hostPort": 80}])),
    ("Host Probes and Lifecycle Hooks", _container(livenessProbe={"tcpSocket": {"port": 80, "host": "10.0.0.1"}})),
    ("Host Probes and Lifecycle Hooks", _container(lifecycle={"preStop": {"httpGet": {"port": 80, "host": "h"}}})),
    ("AppArmor", merged(RESTRICTED, {"metadata": {"annotations": {ANNOTATION: "unconfined"}}})),
    ("AppArmor", _own(appArmorProfile={"type": "Unconfined"})),
    ("SELinux", _security(seLinuxOptions={"type": "spc_t"})),
    ("SELinux", _own(seLinuxOptions={"user": "root"})),
    ("/proc Mount Type", merged(_own(procMount="Unmasked"), {"spec": {"hostUsers": False}})),
    ("Sysctls", _security(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    ("Privilege Escalation", _own(allowPrivilegeEscalation=None)),
    ("Privilege Escalation", _init(allowPrivilegeEscalation=True)),
    ("Running as Non-root", _security(runAsNonRoot=None)),
    ("Running as Non-root", _own(runAsNonRoot=False)),
    ("Running as Non-root user", _security(runAsUser=0)),
    ("Running as Non-root user", _own(runAsUser=0)),
    ("Seccomp", _security(seccompProfile=None)),
    ("Seccomp", _own(seccompProfile={"type": "Unconfined"})),
]
# needs a Windows pod, of which all else says nothing
UNASKED = {"HostProcess"}
KEEPING = [
    RESTRICTED,
    _own(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
    _own(runAsNonRoot=True, runAsUser=10001),
    merged(_security(runAsNonRoot=None), _own(runAsNonRoot=True)),
    _security(sysctls=[{"name": "net.ipv4.tcp_syncookies", "value": "1"}]),
    _security(seLinuxOptions={"level": "s0:c1"}),
    _pod(volumes=[{"name": "v", "emptyDir": {}}, {"name": "c", "persistentVolumeClaim": {"claimName": "c"}}]),
    merged(RESTRICTED, {"metadata": {"annotations": {ANNOTATION: "runtime/default"}}}),
]


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as name:
        yield name


def _refusal(plane: ControlPlane, namespace: str, pod: Object) -> str:
    """What the API server's admission has against a pod; nothing where it takes it."""
    with plane.client() as client:
        answer = client.post(f"/api/v1/namespaces/{namespace}/pods", params={"dryRun": "All"}, json=pod)
    assert answer.status_code in (201, 403), answer.text
    return "" if answer.status_code == 201 else str(answer.json()["message"])


def test_every_control_is_tried() -> None:
    assert {control for control, _ in BREAKING} | UNASKED == set(CONTROLS)


@pytest.mark.parametrize(("control", "pod"), BREAKING, ids=lambda value: value if isinstance(value, str) else "")
def test_what_breaks_it_is_found_here_and_refused_there(
    control_plane: ControlPlane, restricted: str, control: str, pod: Object
) -> None:
    broken = {found.partition(":")[0] for found in violations(pod)}
    # a privileged container cannot be kept from escalation
    assert broken - {control} == ({"Privilege Escalation"} if control == "Privileged Containers" else set())
    assert control in broken
    assert "violates PodSecurity" in _refusal(control_plane, restricted, pod)


@pytest.mark.parametrize("pod", KEEPING)
def test_what_keeps_it_is_taken_by_both(control_plane: ControlPlane, restricted: str, pod: Object) -> None:
    assert violations(pod) == []
    assert _refusal(control_plane, restricted, pod) == ""
