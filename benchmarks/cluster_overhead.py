"""What Kubernetes adds to the pocket pipeline: waits between stages, and the whole run beside `cai run`.

    python -m benchmarks.cluster_overhead [MANIFEST]

Needs root on Linux: it makes this machine a Kubernetes node (`make cluster`'s), installs the operator with the images
built from this checkout, and runs the manifest twice: applied to the cluster, and with `cai run` in one pod of the same
image. Images are there before the first pod starts. Kubernetes tells times in whole seconds, so each wait is good to
about a second. The wait is from the end of the last job a stage needs to the start of its first pod, be that its
server's or its job's; until its job begins, a server loads its model, which takes as long without Kubernetes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from tests.harness import installed
from tests.harness.cluster import RESTRICTED, Cluster, cluster
from tests.harness.installed import SLOW_POLL_S, Run, jobs_image
from tests.harness.objects import Api

from cai_operator.manifests.kinds import POD
from cai_operator.manifests.pod import CONTAINER
from cai_operator.names import KIND_LABEL, NODE_LABEL
from cai_operator.stages import active
from cai_operator.validation import parse_pipeline

POCKET = Path(__file__).parents[1] / "examples" / "pocket.yaml"
POLL_S = 0.3

Object = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """When the first program of one node of the graph began, when its job did, and when that was done."""

    began: datetime
    job_began: datetime | None
    ended: datetime | None


def main() -> None:
    """Run both and print a Markdown table."""
    manifest = Path(sys.argv[1]) if len(sys.argv) > 1 else POCKET
    document = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    with cluster() as node:
        _say("installing the operator")
        installed.install(node)
        with node.namespace(RESTRICTED) as namespace, node.client() as client:
            api = Api(client, namespace)
            _say("running the pipeline on the cluster")
            stages, on_cluster = applied(node, api, document)
        with node.namespace(RESTRICTED) as namespace, node.client() as client:
            _say("running the pipeline with cai run")
            status, alone = run_in_one_pod(Api(client, namespace), document)
    print_table(document, stages, on_cluster, status, alone)


def applied(node: Cluster, api: Api, document: Object) -> tuple[dict[str, Stage], float]:
    """Every node of the graph as its pods had it, and the seconds from apply to the end."""
    name = document["metadata"]["name"]
    run = Run(node, api, name)
    pods: dict[str, Object] = {}
    began = time.monotonic()
    node.kubectl("apply", "-n", api.namespace, "-f", "-", stdin=json.dumps(document))

    def is_done() -> bool:
        pods.update({pod["metadata"]["uid"]: pod for pod in run.pods()})
        return run.status().get("phase") == "Succeeded"

    run.until("the end of the pipeline", is_done, SLOW_POLL_S)
    took = time.monotonic() - began
    found = {}
    for stage in {pod["metadata"]["labels"][NODE_LABEL] for pod in pods.values()}:
        its = [pod for pod in pods.values() if pod["metadata"]["labels"][NODE_LABEL] == stage]
        jobs = [pod for pod in its if pod["metadata"]["labels"][KIND_LABEL] == "job"]
        found[stage] = Stage(
            min(_times(its, "startedAt")),
            min(_times(jobs, "startedAt"), default=None),
            max(_times(jobs, "finishedAt"), default=None),
        )
    run.cluster.kubectl("delete", "caip", name, "-n", api.namespace)
    return found, took


def run_in_one_pod(api: Api, document: Object) -> tuple[Object, float]:
    """The status `cai run` leaves, and the seconds from its pod's start to its end, as the kubelet tells them."""
    script = (
        'printf "%s" "$MANIFEST" > /tmp/pipeline.yaml'
        " && cai run /tmp/pipeline.yaml --workdir /tmp/run > /tmp/output 2>&1 || { tail -20 /tmp/output; exit 1; }"
        "; cat /tmp/run/status.json"
    )
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    container = {
        "name": CONTAINER,
        "image": jobs_image(),
        "command": ["sh", "-c", script],
        "env": [{"name": "MANIFEST", "value": json.dumps(document).replace("$", "$$")}],
        "resources": {"requests": {"cpu": "1", "memory": "4Gi"}},
        "securityContext": security,
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    spec: Object = {"containers": [container], "restartPolicy": "Never", "automountServiceAccountToken": False}
    spec["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    api.create(POD, {"metadata": {"name": "cai-run"}, "spec": spec})
    while (pod := api.get(POD, "cai-run") or {})["status"].get("phase") not in ("Succeeded", "Failed"):
        time.sleep(POLL_S)
    log = api.client.get(f"{POD.path(api.namespace, 'cai-run')}/log").text
    if pod["status"]["phase"] == "Failed":
        sys.exit(f"error: cai run failed in its pod:\n{log}")
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    took = datetime.fromisoformat(ended["finishedAt"]) - datetime.fromisoformat(ended["startedAt"])
    return json.loads(log), took.total_seconds()


def print_table(document: Object, stages: Mapping[str, Stage], on_cluster: float, status: Object, alone: float) -> None:
    """One row a node of the graph, and the sums."""
    local = {
        part["name"]: Stage(began, began, datetime.fromisoformat(part["finished"]))
        for stage in status["stages"]
        for part in stage["parts"] or [stage]
        if part.get("finished")
        for began in [datetime.fromisoformat(part["started"])]
    }
    print("| stage | after | wait for its first pod | until its job began | with cai run | job took | with cai run |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name, inputs in _inputs(document).items():
        row = [_since(inputs, stages, stages[name].began)]
        row += [_since(inputs, run, run[name].job_began if name in run else None) for run in (stages, local)]
        row += [_between(run[name].job_began, run[name].ended) if name in run else None for run in (stages, local)]
        rows.append(row)
        last = max(
            (before for before in inputs if stages[before].ended), key=lambda it: str(stages[it].ended), default=""
        )
        print(f"| {name} | {last} | {' | '.join(map(_seconds, row))} |")
    sums = [sum(value or 0.0 for value in column) for column in zip(*rows, strict=True)]
    print(f"| sum | | {' | '.join(map(_seconds, sums))} |")
    print(f"\non the cluster {on_cluster:.0f} s, with cai run {alone:.0f} s: ratio {on_cluster / alone:.2f}")


def _inputs(document: Object) -> dict[str, tuple[str, ...]]:
    pipeline = parse_pipeline({**document, "metadata": {"namespace": "default", **document["metadata"]}})
    return {name: node.inputs for name, node in active(pipeline.spec).items()}


def _since(inputs: Sequence[str], stages: Mapping[str, Stage], began: datetime | None) -> float | None:
    ends = [end for name in inputs if name in stages for end in [stages[name].ended] if end]
    return _between(max(ends), began) if ends else None


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None


def _times(pods: Sequence[Object], field: str) -> list[datetime]:
    containers = [one for pod in pods for one in pod["status"].get("containerStatuses", [])]
    states = [state for container in containers for state in container["state"].values()]
    return [datetime.fromisoformat(state[field]) for state in states if field in state]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
