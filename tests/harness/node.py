"""A whole Kubernetes node on this machine, from programs alone: pods run, Services answer by name, claims get volumes.

Needs root, and Debian's containerd, runc, CNI plugins and iptables, which it installs. One machine holds one such node;
`tests.harness.up` sees to that. Everything it changes on the machine is undone by `node_traces.remove_traces`.

Not here: NetworkPolicies are stored and not enforced, GPUs are none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from tests.harness import binaries, node_files
from tests.harness.certificates import Pair
from tests.harness.control_plane import ALL, SERVICE_RANGE, ControlPlane
from tests.harness.node_files import ADDRESS, BRIDGE, CNI_PROGRAMS, NODE, POD_IMAGE, POD_RANGE, POD_USER, ROOT, RUN
from tests.harness.node_traces import make_cgroup, refuse_beside_another_kubernetes, remove_traces, set_kernel
from tests.harness.pod_image import write_image
from tests.harness.processes import Program, Unavailable, free_port, wait_for
from tests.harness.volumes import Provisioner

LOGS = Path("/var/log") / NODE

# what must be on PATH, and the Debian package that brings it
COMMANDS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "ethtool": "ethtool",
    "socat": "socat",
    "ip": "iproute2",
    "umount": "mount",
}


def refuse_where_impossible() -> None:
    """Unavailable with a sentence where no node can be: not Linux, not root, or a node already."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable(
            "a Kubernetes node on this machine takes Linux and root (containers, a network bridge, mounts): "
            "run as root, or name a cluster to use in CAI_TEST_KUBECONFIG"
        )
    refuse_beside_another_kubernetes()


def prepare() -> None:
    """Find, build and install whatever a node takes, so that its start is short; says on stderr what takes long."""
    refuse_where_impossible()
    _install_packages()
    binaries.find_or_build()
    binaries.pod_program()


def import_image(archive: Path) -> None:
    """Bring the images of an OCI or docker archive to the node, under the names they have in it."""
    done = _ctr("images", "import", archive)
    if done.returncode:
        raise RuntimeError(f"{archive} could not be imported: {done.stderr.strip()}")


class Node:
    """The control plane and everything that makes this machine its only node. Start it from the main thread."""

    def __init__(self) -> None:
        self.control_plane = ControlPlane(
            ROOT / "control-plane",
            controllers=ALL,
            scheduler=True,
            address=ADDRESS,
            logs=LOGS,
            apiserver_flags=[
                f"--kubelet-certificate-authority={ROOT}/control-plane/certificates/ca.crt",
                # the machine's name servers do not know the node
                "--kubelet-preferred-address-types=InternalIP",
            ],
            # a machine busy with training must not lose its node for a late heartbeat
            controller_flags=["--node-monitor-grace-period=3m"],
        )
        self._programs: dict[str, Program] = {}
        self._provisioner: Provisioner | None = None

    def start(self) -> None:
        """Remove what an earlier node left and bring everything up; returns once a pod could run."""
        prepare()
        paths, pod = binaries.find_or_build(), binaries.pod_program()
        remove_traces()
        shutil.rmtree(LOGS, ignore_errors=True)
        for directory in (ROOT, RUN, LOGS, ROOT / "control-plane", ROOT / "cni"):
            directory.mkdir(parents=True, exist_ok=True)
        _make_network()
        make_cgroup()
        self._start_containerd()
        self.control_plane.start()
        self._import_pod_image(pod)
        self._start_coredns(paths["coredns"])
        self._start_kubelet(paths["kubelet"])
        ready = self._start_kube_proxy(paths["kube-proxy"])
        self._provisioner = Provisioner(self.control_plane.client(), node_files.VOLUMES, POD_USER)
        self._provisioner.start()
        self._wait_until_schedulable()
        # it waits for the kubelet's node itself
        self._programs["kube-proxy"].wait_until(lambda: _is_well(ready))

    def close(self) -> None:
        """Kill everything and leave the machine as it was."""
        if self._provisioner:
            self._provisioner.stop()
        for program in reversed(self._programs.values()):
            program.kill()
        self.control_plane.close()
        remove_traces()

    def failed(self) -> str | None:
        """The name and last words of a program that ended though nobody stopped it."""
        for program in self._programs.values():
            if not program.running:
                return f"{program.name} ended.\n{program.last_lines()}"
        return self.control_plane.failed()

    def _start_containerd(self) -> None:
        config = _write("containerd.toml", node_files.containerd_toml())
        _write("cni/10-bridge.conflist", node_files.cni_json())
        self._launch("containerd", ["containerd", f"--config={config}"])

    def _import_pod_image(self, program: Path) -> None:
        self._programs["containerd"].wait_until(lambda: _ctr("version").returncode == 0)
        archive = ROOT / "pod.tar"
        write_image(archive, POD_IMAGE, program, ["/pod"])
        import_image(archive)
        archive.unlink()

    def _start_coredns(self, program: Path) -> None:
        port = free_port()
        pair = self._client("coredns", "system:coredns", "system:masters")
        upstream = "nameserver" in Path("/etc/resolv.conf").read_text()
        text = node_files.corefile(
            self.control_plane.url, pair.certificate, pair.key, self.control_plane.ca, upstream, port
        )
        self._launch("coredns", [program, "-conf", _write("Corefile", text)])
        self._programs["coredns"].wait_until(lambda: _is_well(f"http://127.0.0.1:{port}/ready"))

    def _start_kubelet(self, program: Path) -> None:
        certificates = self.control_plane.authority
        server = certificates.server("kubelet-server", f"/CN={NODE}", [f"IP:{ADDRESS}", f"DNS:{NODE}"])
        _write("resolv.conf", f"nameserver {ADDRESS}\n")
        text = node_files.kubelet_yaml(self.control_plane.ca, server.certificate, server.key, free_port(ADDRESS))
        config, login = _write("kubelet.yaml", text), self._kubeconfig("kubelet", f"system:node:{NODE}")
        words: list[str | Path] = [program, f"--config={config}", f"--kubeconfig={login}"]
        words += [f"--root-dir={ROOT}/kubelet", f"--hostname-override={NODE}", f"--node-ip={ADDRESS}"]
        self._launch("kubelet", words)

    def _start_kube_proxy(self, program: Path) -> str:
        """Answer where it says that it is well."""
        port = free_port()
        words: list[str | Path] = [program, f"--kubeconfig={self._kubeconfig('kube-proxy', 'system:kube-proxy')}"]
        words += ["--proxy-mode=iptables", f"--cluster-cidr={POD_RANGE}", f"--hostname-override={NODE}"]
        # pods of one bridge answer each other directly: only what seems to come from the node comes back through it
        words += ["--masquerade-all=true"]
        words += ["--conntrack-max-per-core=0", "--oom-score-adj=0", "--iptables-localhost-nodeports=false"]
        words += [f"--healthz-bind-address=127.0.0.1:{port}", f"--metrics-bind-address=127.0.0.1:{free_port()}"]
        self._launch("kube-proxy", words)
        return f"http://127.0.0.1:{port}/healthz"

    def _wait_until_schedulable(self) -> None:
        with self.control_plane.client() as client:

            def schedulable() -> bool:
                answer = client.get(f"/api/v1/nodes/{NODE}")
                if answer.status_code != 200:
                    return False
                node = answer.json()
                conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", ())}
                return conditions.get("Ready") == "True" and not node["spec"].get("taints")

            self._programs["kubelet"].wait_until(schedulable)
            path = "/api/v1/namespaces/default/endpoints/kubernetes"
            wait_for("the address of the API server for pods", lambda: client.get(path).status_code == 200)

    def _kubeconfig(self, name: str, user: str) -> Path:
        group = "system:nodes" if name == "kubelet" else None
        pair = self._client(name, user, group)
        return self.control_plane.write_kubeconfig(ROOT / f"{name}.kubeconfig", certificate=pair)

    def _client(self, name: str, user: str, group: str | None) -> Pair:
        return self.control_plane.authority.client(f"{name}-client", user, group)

    def _launch(self, name: str, command: Sequence[str | Path]) -> None:
        self._programs[name] = Program(name, command, LOGS / f"{name}.log", directory=ROOT)


def _install_packages() -> None:
    missing = {package for command, package in COMMANDS.items() if not shutil.which(command)}
    if not (CNI_PROGRAMS / "bridge").exists():
        missing.add("containernetworking-plugins")
    if missing:
        binaries.install(*sorted(missing))


def _make_network() -> None:
    set_kernel("net.ipv4.ip_forward", "1")
    for words in (
        ["link", "add", BRIDGE, "type", "bridge"],
        ["address", "add", f"{ADDRESS}/{POD_RANGE.partition('/')[2]}", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
        # kube-proxy rewrites these addresses, but only of packets that have a way to go
        ["route", "replace", SERVICE_RANGE, "dev", BRIDGE],
    ):
        _must(["ip", *words])
    leaving = ["POSTROUTING", "-s", POD_RANGE, "!", "-d", POD_RANGE]
    mark = ["-m", "comment", "--comment", node_files.IPTABLES_MARK]
    _must(["iptables", "-t", "nat", "-A", *leaving, *mark, "-j", "MASQUERADE"])


def _must(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"this machine does not let us make the node's network: {' '.join(command)}: {done.stderr}")


def _ctr(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["ctr", f"--address={node_files.CONTAINERD_SOCKET}", "--namespace=k8s.io", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def _write(name: str, text: str) -> Path:
    path = ROOT / name
    path.write_text(text)
    return path


def _is_well(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    return False
