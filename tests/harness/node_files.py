"""Where the one node of this machine lives, and the configuration files of its programs, as text."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

NODE = "cai-test-node"
ROOT = Path("/var/lib") / NODE
RUN = Path("/run") / NODE
"""Sockets, and mounts of containers: whatever is mounted below ROOT or RUN is ours."""

BRIDGE = "cai-test0"
ADDRESS = "10.123.0.1"
POD_RANGE = "10.123.0.0/16"
CGROUP = NODE
IPTABLES_MARK = NODE

CNI_PROGRAMS = Path("/usr/lib/cni")
CONTAINERD_SOCKET = RUN / "containerd.sock"
VOLUMES = ROOT / "volumes"
POD_IMAGE = "cai.test/pod:1"
POD_USER = 10001
"""The user that owns every volume: a hostPath volume knows no fsGroup."""


def containerd_toml() -> str:
    """containerd for Kubernetes alone, with everything it keeps and mounts below ROOT and RUN."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""
version = 2
root = "{ROOT}/containerd"
state = "{RUN}/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[{cri}]
  sandbox_image = "{POD_IMAGE}"
  # without CAP_SYS_RESOURCE runc cannot lower it, and dies
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_tcp_service = true
  [{cri}.cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{ROOT}/cni"
  [{cri}.containerd]
    default_runtime_name = "runc"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def cni_json() -> str:
    """Pods on one bridge; hairpin mode lets a pod reach itself through its own Service."""
    addresses = {"type": "host-local", "dataDir": f"{ROOT}/cni-addresses", "ranges": [[{"subnet": POD_RANGE}]]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True}
    bridge["ipam"] = {**addresses, "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "1.0.0", "name": NODE, "plugins": plugins}, indent=2)


def kubelet_yaml(ca: Path, certificate: Path, key: Path, port: int) -> str:
    """A kubelet that keeps nothing for the system and never throws an image away: there is no registry to ask again."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "port": port,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(ca)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "clusterDNS": [ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{ROOT}/resolv.conf",
            "podLogsDir": f"{ROOT}/pod-logs",
            "volumePluginDir": f"{ROOT}/volume-plugins",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            # the statistics of the image file system are not to be had everywhere
            "localStorageCapacityIsolation": False,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        }
    )


def corefile(url: str, certificate: Path, key: Path, ca: Path, upstream: bool, ready: int) -> str:
    """Names of Services for pods; every other name is asked of the machine's own servers if `upstream`."""
    return f""".:53 {{
  bind {ADDRESS}
  errors
  ready 127.0.0.1:{ready}
  kubernetes cluster.local {{
    endpoint {url}
    tls {certificate} {key} {ca}
  }}
  {"forward . /etc/resolv.conf" if upstream else ""}
  cache 5
}}
"""
