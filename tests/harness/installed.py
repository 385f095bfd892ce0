"""The operator on a node as a user installs it: our images, the chart by helm, the CPU image named."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from images.build import FLAVOURS
from tests.harness import images, node_files
from tests.harness.chart import CHART, RELEASE, SYSTEM, helm
from tests.harness.cluster import Cluster
from tests.harness.objects import Api, wait_for

from cai_operator.manifests.kinds import CLAIM, POD
from cai_operator.names import KIND_LABEL, NODE_LABEL, PIPELINE_LABEL, claim_name
from cai_operator.observing.endings import rank_of

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests" / "cluster" / "small.yaml"
DEPLOYMENT = RELEASE
HELM_PATIENCE = "--timeout=10m"
ENDS = ("Succeeded", "Failed")
CHECKPOINT = re.compile(r"(?:checkpoint-|step_)(\d+)")
POLL_S, SLOW_POLL_S = 0.2, 1.0
PATIENCE_S = 1800.0
"""How long a pipeline may take that shares two cores with other tests; it measures nothing."""


def install(cluster: Cluster, chart: Path = CHART) -> None:
    """Bring the images to the node and install a chart, as its README says; it stays, as the node goes.

    Unavailable with a sentence where images cannot be built or handed over.
    """
    ours = images.build("operator", "jobs-cpu")
    for image in ours.values():
        cluster.import_image(image.archive)
    cluster.kubectl("apply", "-f", str(ROOT / "operator" / "install" / "1-namespace.yaml"))
    upgrade(cluster, chart)


def upgrade(cluster: Cluster, chart: Path = CHART) -> None:
    """Bring the release to this chart; install it where there is none. Return once its operator is ready."""
    tag = jobs_image().rpartition(":")[2]
    words = ["--namespace", SYSTEM, "--set", f"engines.hf.image.tag={tag}", "--wait", HELM_PATIENCE]
    helm("upgrade", "--install", RELEASE, chart, *words, cluster=cluster)


def rollback(cluster: Cluster) -> None:
    """Take the release back to the revision before; return once its operator is ready."""
    helm("rollback", RELEASE, "--namespace", SYSTEM, "--wait", HELM_PATIENCE, cluster=cluster)


def jobs_image() -> str:
    """The image of the programs, as a pod names it."""
    return FLAVOURS["jobs-cpu"].tag


def operator_log(cluster: Cluster) -> str:
    """What the operator has logged since it was last started, for the message of a failed test."""
    return cluster.kubectl("logs", f"deployment/{DEPLOYMENT}", "-n", SYSTEM, "--tail=200", check=False).stdout


class Run:
    """One pipeline on a node of this machine: its objects, its pods' processes, its volume."""

    def __init__(self, cluster: Cluster, api: Api, name: str) -> None:
        self.cluster, self.api, self.name = cluster, api, name

    def until(self, what: str, look: Callable[[], T | None], poll_s: float = POLL_S) -> T:
        """Wait until `look` sees something, and return it.

        Raises:
            AssertionError: it did not come, or the pipeline ended before; the operator's log is printed.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            phase = self.status().get("phase")
            found = look()  # after the phase: what comes with the end counts
            if found:
                return found
            if phase in ENDS or time.monotonic() > end:
                print(operator_log(self.cluster))
                message = self.status().get("message")
                raise AssertionError(f"waited in vain for {what}: {self.name} is {phase}: {message}")
            time.sleep(poll_s)

    def until_phase(self, phase: str) -> None:
        """Wait until the pipeline's phase is this one; AssertionError if it ends in another."""
        self.until(f"phase {phase}", lambda: self.status().get("phase") == phase, SLOW_POLL_S)

    def status(self) -> dict[str, Any]:
        """The pipeline's status."""
        return self.api.status(self.name)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The status of every node of its graph, by name."""
        stages = self.status().get("stages", [])
        return {node["name"]: node for stage in stages for node in stage.get("parts") or [stage]}

    def pods(self, node: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """Its pods: all, or those of a node of the graph, of kind "job" or "server"."""
        labels = {PIPELINE_LABEL: self.name, NODE_LABEL: node, KIND_LABEL: kind}
        return self.api.list(POD, **{name: value for name, value in labels.items() if value})

    def running(self, node: str, kind: str) -> dict[str, Any] | None:
        """The pod of a node whose program runs now, None where there is none."""
        for pod in self.pods(node, kind):
            states = [one["state"] for one in pod["status"].get("containerStatuses", [])]
            if "deletionTimestamp" not in pod["metadata"] and states and "running" in states[0]:
                return pod
        return None

    def kill_program(self, node: str, kind: str) -> None:
        """SIGKILL the program in the running pod of a node."""
        pod = self.until(f"the {kind} of {node} to run", lambda: self.running(node, kind))
        os.kill(process_of(pod), signal.SIGKILL)

    def kill_rank(self, node: str, kind: str, rank: int) -> None:
        """SIGKILL everything in the pod of one rank of a node of the graph that has several machines."""
        (pod,) = (pod for pod in self.pods(node, kind) if rank_of(pod) == rank)
        os.kill(process_of(pod), signal.SIGKILL)

    def kill_pod(self, node: str, kind: str) -> None:
        """Delete the running pod of a node without any grace."""
        pod = self.until(f"the {kind} of {node} to run", lambda: self.running(node, kind))
        force_delete(self.cluster, self.api.namespace, pod["metadata"]["name"])

    @cached_property
    def volume(self) -> Path:
        """Where the node keeps the pipeline's volume, once it has one; the path outlives the pipeline."""
        name = claim_name(self.name)
        claim = wait_for(lambda: self.api.get(CLAIM, name), f"{name} to be bound", _is_bound)
        assert claim is not None
        with self.cluster.client() as client:
            volume = client.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}").raise_for_status().json()
        return Path(volume["spec"]["hostPath"]["path"])

    def artifact(self, node: str) -> Path:
        """The published artifact of a node that succeeded."""
        return self.volume / str(self.nodes()[node]["artifact"]["path"])

    def rows(self) -> dict[str, str]:
        """Every file of the data that was generated, and the weights of every model that was trained: sha256 by path.

        Not what tells of the run itself: summaries, manifests, the pace of training.
        """
        found = {}
        for node in self.nodes().values():
            if node.get("artifact") is None:
                continue
            root = self.volume / str(node["artifact"]["path"])
            for path in root.rglob("*"):
                about_the_run = path.name in ("manifest.json", "metrics.jsonl") or "summary" in path.name
                if path.suffix in (".json", ".jsonl", ".safetensors") and not about_the_run:
                    name = f"{node['name']}/{path.relative_to(root)}"
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def journalled(self, node: str) -> int:
        """How many lines the journals of a generator at work hold; the first is about the journal itself."""
        return max((len(path.read_bytes().splitlines()) for path in self._working_files(node, "*journal*")), default=0)

    def trained(self, node: str) -> int:
        """The newest step from which training can go on, 0 where there is none; of PPO both programs have saved it."""
        steps: dict[Path, set[int]] = {}
        for path in self._working_files(node, "*"):
            if found := CHECKPOINT.fullmatch(path.name):
                steps.setdefault(path.parent, set()).add(int(found[1]))
        return max(set.intersection(*steps.values()), default=0) if steps else 0

    def _working_files(self, node: str, pattern: str) -> list[Path]:
        try:
            partials = (self.volume / self.name / node).glob("*.partial")
            return [path for partial in partials for path in partial.rglob(pattern)]
        except FileNotFoundError:  # it went on while we looked
            return []


def _is_bound(claim: dict[str, Any] | None) -> bool:
    return claim is not None and claim.get("status", {}).get("phase") == "Bound"


def force_delete(cluster: Cluster, namespace: str, pod: str) -> None:
    """Take a pod off the API server at once; its process is killed without a chance to save anything."""
    cluster.kubectl("delete", "pod", pod, "-n", namespace, "--grace-period=0", "--force")


def process_of(pod: dict[str, Any]) -> int:
    """The process id of a pod's program on this machine, which is the pod's node."""
    container = pod["status"]["containerStatuses"][0]["containerID"].partition("://")[2]
    command = ["ctr", f"--address={node_files.CONTAINERD_SOCKET}", "--namespace=k8s.io", "tasks", "ls"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        name, pid, *_ = line.split()
        if name == container:
            return int(pid)
    raise AssertionError(f"containerd knows no running container {container}")


Start = Callable[[Path, str], Run]
"""Applies a pipeline's manifest in a namespace."""
