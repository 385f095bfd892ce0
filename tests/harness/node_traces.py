"""What a node leaves on its machine, and its removal: also after a node that was killed with everything running."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.harness.node_files import BRIDGE, CGROUP, CONTAINERD_SOCKET, IPTABLES_MARK, NODE, ROOT, RUN
from tests.harness.processes import Unavailable

SETTINGS = ROOT / "settings-before.json"
"""The kernel settings we changed, as they were."""

CGROUPS = Path("/sys/fs/cgroup")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
"""The one directory a kubelet makes wherever its own root is."""

_PATIENCE_S = 30.0
_PROGRAMS = {b"containerd-shim-runc-v2", b"containerd", b"kubelet", b"kube-proxy", b"coredns", b"runc"}
_PROGRAMS |= {b"etcd", b"kube-apiserver", b"kube-controller-manager", b"kube-scheduler"}


def refuse_beside_another_kubernetes() -> None:
    """Unavailable if this machine is a node of a cluster that is not ours: we would tear its network rules down."""
    if not ROOT.exists() and "KUBE-SERVICES" in _saved_rules():
        raise Unavailable(
            "this machine is already a node of a Kubernetes cluster, and a second one would share its network rules: "
            "name a cluster to use in CAI_TEST_KUBECONFIG"
        )


def remove_traces() -> None:
    """Remove every process, mount, interface, network rule, cgroup and file of a node; nothing to do is no error."""
    _kill_everything()
    _unmount_everything()
    if _links():
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True, capture_output=True)
    if ROOT.exists():
        _remove_rules()
        _restore_settings()
    _remove_cgroups()
    for link in Path("/var/log/containers").glob("*"):
        if link.is_symlink() and link.readlink().is_relative_to(ROOT):
            link.unlink()
    for result in Path("/var/lib/cni/results").glob(f"{NODE}-*"):
        result.unlink()
    for directory in (RUN, ROOT):
        shutil.rmtree(directory, ignore_errors=True)
    for directory in (Path("/var/log/containers"), DEVICE_PLUGINS, DEVICE_PLUGINS.parent, Path("/var/lib/cni/results")):
        # if it is empty it was ours, or nobody's
        with suppress(OSError):
            if directory == DEVICE_PLUGINS:
                (directory / "kubelet.sock").unlink(missing_ok=True)
            directory.rmdir()


def traces() -> list[str]:
    """What is left of a node on this machine, in words; empty after `remove_traces`."""
    left = [f"process {pid}" for pid in _pids()] + [f"mount {path}" for path in _mounts()]
    left += [f"interface {link}" for link in _links()] + [f"cgroup {path}" for path in _cgroups()]
    left += [f"rule {line}" for line in _saved_rules().splitlines() if _is_our_rule(line)]
    return left + [f"directory {path}" for path in (ROOT, RUN, DEVICE_PLUGINS) if path.exists()]


def set_kernel(name: str, value: str) -> None:
    """Set a sysctl, remembering what it was; one this kernel does not have is left alone."""
    path = Path("/proc/sys", *name.split("."))
    if not path.exists() or path.read_text().strip() == value:
        return
    before = json.loads(SETTINGS.read_text()) if SETTINGS.exists() else {}
    before.setdefault(str(path), path.read_text().strip())
    SETTINGS.write_text(json.dumps(before))
    path.write_text(value)


def make_cgroup() -> None:
    """A cgroup for all pods: below it the kubelet makes its own."""
    for root in _cgroup_roots():
        with suppress(FileExistsError):
            (root / CGROUP).mkdir()
        if (root / CGROUP / "cpuset.cpus").exists() and root.name.startswith("cpuset"):
            for name in ("cpuset.cpus", "cpuset.mems"):
                (root / CGROUP / name).write_text((root / name).read_text())
        # else all pods together weigh as much as one process outside; theirs are the tests that take longest
        for name, weight in (("cpu.shares", 2 * 1024), ("cpu.weight", 2 * 100)):
            if (root / CGROUP / name).exists():
                (root / CGROUP / name).write_text(str(weight * (os.cpu_count() or 1)))


# ---- processes and mounts -------------------------------------------------------------------------------------------


def _pids() -> list[int]:
    """Processes in our cgroups, and programs of the node, known by our directories in their commands."""
    found: set[int] = set()
    for cgroup in _cgroups():
        with suppress(OSError):
            found |= {int(word) for word in (cgroup / "cgroup.procs").read_text().split()}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (directory / "cmdline").read_bytes().split(b"\0")
            program = words[0].rpartition(b"/")[2]
            names_us = any(os.fsencode(path) in word for word in words for path in (CONTAINERD_SOCKET, f"{ROOT}/"))
            if names_us and program in _PROGRAMS:
                found.add(int(directory.name))
    return sorted(found - {os.getpid()})


def _kill_everything() -> None:
    end = time.monotonic() + _PATIENCE_S
    while pids := _pids():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise Unavailable(f"processes of an old node do not end when killed: {pids}")
        time.sleep(0.05)


def _mounts() -> list[Path]:
    """Mount points, the last mounted first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(point) for point in reversed(points) if point.startswith((f"{ROOT}/", f"{RUN}/"))]


def _unmount_everything() -> None:
    for point in _mounts():
        # lazily: a busy one goes when its last user does
        subprocess.run(["umount", "--lazy", point], capture_output=True)


# ---- network --------------------------------------------------------------------------------------------------------


def _links() -> list[str]:
    if not shutil.which("ip"):
        return []
    shown = subprocess.run(["ip", "link", "show", "dev", BRIDGE], capture_output=True)
    return [] if shown.returncode else [BRIDGE]


def _saved_rules() -> str:
    if not shutil.which("iptables-save"):
        return ""
    done = subprocess.run(["iptables-save"], capture_output=True, text=True)
    return done.stdout


def _is_our_rule(line: str) -> bool:
    return bool(re.search(rf"KUBE-|{IPTABLES_MARK}|CNI-(HOSTPORT|DN|SN)", line))


def _remove_rules() -> None:
    for program in ("iptables", "ip6tables"):
        saved = subprocess.run([f"{program}-save"], capture_output=True, text=True).stdout
        kept = "".join(f"{line}\n" for line in saved.splitlines() if not _is_our_rule(line))
        if kept.count("\n") != saved.count("\n"):
            subprocess.run([f"{program}-restore"], input=kept, text=True, check=True, capture_output=True)


def _restore_settings() -> None:
    if SETTINGS.exists():
        for path, value in json.loads(SETTINGS.read_text()).items():
            Path(path).write_text(value)


# ---- cgroups --------------------------------------------------------------------------------------------------------


def _cgroup_roots() -> Iterator[Path]:
    """The root of the one hierarchy of cgroup v2, or of each of v1's."""
    if (CGROUPS / "cgroup.controllers").exists():
        yield CGROUPS
    else:
        seen = {path.resolve() for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists()}
        yield from sorted(seen)


def _cgroups() -> list[Path]:
    """All of ours, the innermost first."""
    found: list[Path] = []
    for root in _cgroup_roots() if CGROUPS.exists() else ():
        for path, _, _ in os.walk(root / CGROUP, topdown=False):
            found.append(Path(path))
    return found


def _remove_cgroups() -> None:
    end = time.monotonic() + _PATIENCE_S
    while cgroups := _cgroups():
        for cgroup in cgroups:
            # busy until the kernel has buried the last process
            with suppress(OSError):
                cgroup.rmdir()
        if time.monotonic() > end:
            raise Unavailable(f"cgroups of an old node cannot be removed: {cgroups[0]}")
        time.sleep(0.05)
