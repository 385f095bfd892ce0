"""The restricted Pod Security level, control by control: what of a pod breaks it.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/ (baseline and restricted, Linux pods). The
API server's own admission is asked the same questions in tests/api/test_pod_security.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]

VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SYSCTLS = frozenset(
    {
        *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
        *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
        *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
        *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
    }
)
SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
APP_ARMOR = "container.apparmor.security.beta.kubernetes.io/"


def violations(template: Object) -> list[str]:
    """What a pod, or a pod template, breaks: "control: where it says what", none where it is restricted.

    Args:
        template: its `metadata` (for annotations) and `spec`.
    """
    return [f"{name}: {found}" for name, control in CONTROLS.items() for found in control(template)]


def containers(pod: Object) -> Iterator[tuple[str, Object]]:
    """Every container, by where it is."""
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(kind) or ():
            yield f"{kind}[{container['name']}]", container


def contexts(pod: Object) -> Iterator[tuple[str, Object]]:
    """The pod's security context and those of its containers."""
    yield "pod", pod.get("securityContext") or {}
    for where, container in containers(pod):
        yield where, container.get("securityContext") or {}


def _host_process(template: Object) -> Iterator[str]:
    for where, context in contexts(template["spec"]):
        if (context.get("windowsOptions") or {}).get("hostProcess"):
            yield f"{where} hostProcess"


def _host_namespaces(template: Object) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if template["spec"].get(name))


def _privileged(template: Object) -> Iterator[str]:
    yield from (where for where, context in contexts(template["spec"]) if context.get("privileged"))


def _capabilities(template: Object) -> Iterator[str]:
    for where, container in containers(template["spec"]):
        given = (container.get("securityContext") or {}).get("capabilities") or {}
        if "ALL" not in (given.get("drop") or ()):
            yield f"{where} does not drop ALL"
        yield from (f"{where} adds {name}" for name in given.get("add") or () if name != "NET_BIND_SERVICE")


def _volumes(template: Object) -> Iterator[str]:
    for volume in template["spec"].get("volumes") or ():
        for kind in volume.keys() - {"name"}:
            if kind not in VOLUMES:
                yield f"volume {volume['name']} is a {kind}"


def _host_ports(template: Object) -> Iterator[str]:
    for where, container in containers(template["spec"]):
        yield from (f"{where} {port['hostPort']}" for port in container.get("ports") or () if port.get("hostPort"))


def _host_probes(template: Object) -> Iterator[str]:
    for where, container in containers(template["spec"]):
        hooks = container.get("lifecycle") or {}
        looks = {name: container.get(name) or {} for name in ("livenessProbe", "readinessProbe", "startupProbe")}
        looks |= {name: hooks.get(name) or {} for name in ("postStart", "preStop")}
        for name, look in looks.items():
            if any((look.get(way) or {}).get("host") for way in ("httpGet", "tcpSocket")):
                yield f"{where} {name}"


def _app_armor(template: Object) -> Iterator[str]:
    for name, value in (template.get("metadata", {}).get("annotations") or {}).items():
        if name.startswith(APP_ARMOR) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"annotation {name}: {value}"
    for where, context in contexts(template["spec"]):
        if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
            yield f"{where} {context['appArmorProfile']['type']}"


def _selinux(template: Object) -> Iterator[str]:
    for where, context in contexts(template["spec"]):
        options = context.get("seLinuxOptions") or {}
        if options.get("type", "") not in SELINUX_TYPES or options.get("user") or options.get("role"):
            yield f"{where} {dict(options)}"


def _proc_mount(template: Object) -> Iterator[str]:
    for where, context in contexts(template["spec"]):
        if context.get("procMount", "Default") != "Default":
            yield f"{where} {context['procMount']}"


def _sysctls(template: Object) -> Iterator[str]:
    given = (template["spec"].get("securityContext") or {}).get("sysctls") or ()
    yield from (one["name"] for one in given if one["name"] not in SYSCTLS)


def _escalation(template: Object) -> Iterator[str]:
    for where, container in containers(template["spec"]):
        if (container.get("securityContext") or {}).get("allowPrivilegeEscalation") is not False:
            yield where


def _non_root(template: Object) -> Iterator[str]:
    pod = template["spec"].get("securityContext") or {}
    for where, container in containers(template["spec"]):
        own = (container.get("securityContext") or {}).get("runAsNonRoot")
        if (pod.get("runAsNonRoot") if own is None else own) is not True:
            yield where


def _user(template: Object) -> Iterator[str]:
    yield from (f"{where} runs as 0" for where, context in contexts(template["spec"]) if context.get("runAsUser") == 0)


def _seccomp(template: Object) -> Iterator[str]:
    allowed = ("RuntimeDefault", "Localhost")
    pod = (template["spec"].get("securityContext") or {}).get("seccompProfile") or {}
    if pod and pod.get("type") not in allowed:
        yield f"pod {pod.get('type')}"
    for where, container in containers(template["spec"]):
        own = (container.get("securityContext") or {}).get("seccompProfile") or {}
        if (own or pod).get("type") not in allowed:
            yield f"{where} {(own or pod).get('type')}"


CONTROLS: Mapping[str, Callable[[Object], Iterator[str]]] = {
    "HostProcess": _host_process,
    "Host Namespaces": _host_namespaces,
    "Privileged Containers": _privileged,
    "Capabilities": _capabilities,
    "Volume Types": _volumes,
    "Host Ports": _host_ports,
    "Host Probes and Lifecycle Hooks": _host_probes,
    "AppArmor": _app_armor,
    "SELinux": _selinux,
    "/proc Mount Type": _proc_mount,
    "Sysctls": _sysctls,
    "Privilege Escalation": _escalation,
    "Running as Non-root": _non_root,
    "Running as Non-root user": _user,
    "Seccomp": _seccomp,
}
"""The controls of the restricted level, by the names of the page."""
