"""Secrets of a pipeline on a node, and the search for their values in everything the cluster and the node hold."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness import node_files
from tests.harness.canary import Canaries, ProcessWatch
from tests.harness.installed import Run, jobs_image, operator_log
from tests.harness.objects import Api
from tests.harness.pipelines import merged

from cai_operator.manifests.kinds import CONFIG_MAP, DEPLOYMENT, POD, SERVICE, ObjectKind
from cai_operator.names import KIND_LABEL, NODE_LABEL

SECRET = ObjectKind("v1", "Secret", "secrets")
JUDGE = Path(__file__).with_name("keyed_judge.py")
JUDGE_PORT = 5998
LOGS = node_files.ROOT / "pod-logs"
_POD_UID = re.compile(r"/pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")


def with_secrets(document: dict[str, Any], namespace: str) -> dict[str, Any]:
    """A pipeline's manifest that names every kind of Secret it can."""
    spec = {
        "judge": {
            "url": f"http://judge.{namespace}.svc:{JUDGE_PORT}/v1",
            "model": "pocket-judge",
            "apiKeySecret": {"name": "ngc", "key": "api-key"},
        },
        "hubTokenSecret": {"name": "hub", "key": "token"},
        "template": {"imagePullSecrets": [{"name": "registry"}]},
    }
    return merged(document, {"spec": spec})


def prepare(api: Api, canaries: Canaries) -> None:
    """Make the Secrets, and a judge that wants to be shown the key."""
    values = canaries.values
    for name, key in (("ngc", "api-key"), ("hub", "token")):
        api.create(SECRET, {"metadata": {"name": name}, "stringData": {key: values[name]}})
    login = base64.b64encode(f"user:{values['registry']}".encode()).decode()
    logins = {"auths": {"registry.example": {"username": "user", "password": values["registry"], "auth": login}}}
    registry = {"metadata": {"name": "registry"}, "type": "kubernetes.io/dockerconfigjson"}
    api.create(SECRET, {**registry, "stringData": {".dockerconfigjson": json.dumps(logins)}})
    api.create(CONFIG_MAP, {"metadata": {"name": "judge"}, "data": {"judge.py": JUDGE.read_text(encoding="utf-8")}})
    labels = {"app": "judge"}
    api.create(SERVICE, {"metadata": {"name": "judge"}, "spec": {"selector": labels, "ports": [{"port": JUDGE_PORT}]}})
    digest = hashlib.sha256(values["ngc"].encode()).hexdigest()
    command = ["python", "/judge/judge.py", "--host=0.0.0.0", f"--port={JUDGE_PORT}", f"--sha256={digest}"]
    container = {
        "name": "judge",
        "image": jobs_image(),
        "command": command,
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": JUDGE_PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "judge", "mountPath": "/judge"}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "judge", "configMap": {"name": "judge"}}],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    api.create(DEPLOYMENT, {"metadata": {"name": "judge"}, "spec": spec})


@contextmanager
def watched(run: Run, canaries: Canaries) -> Iterator[ProcessWatch]:
    """Look at every process of this machine meanwhile; those of pods are called by what they are."""
    with run.cluster.client() as client:
        names = _Names(Api(client, run.api.namespace))
        with ProcessWatch(canaries, _all_processes, names.of) as watch:
            yield watch


def given(run: Run) -> dict[str, set[str]]:
    """Secret -> the pods that are told to take it into the environment of their program, by what they are."""
    found: dict[str, set[str]] = {}
    for pod in run.pods():
        labels = pod["metadata"]["labels"]
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference is not None:
                    found.setdefault(reference["name"], set()).add(f"{labels[NODE_LABEL]}/{labels[KIND_LABEL]}")
    return found


def search(run: Run, canaries: Canaries) -> None:
    """Look through all there is of a pipeline now, but for the Secrets themselves."""
    cluster, namespace = run.cluster, run.api.namespace
    listed = cluster.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").stdout.split()
    kinds = [kind for kind in listed if kind != "secrets"]
    shown = cluster.kubectl("get", ",".join(kinds), "-n", namespace, "-o", "json", "--show-managed-fields").stdout
    for item in json.loads(shown)["items"]:
        canaries.search(f"API objects: {_bucket(item['kind'])}", item["metadata"]["name"], json.dumps(item))
    canaries.search("log of the operator", "now", operator_log(cluster))
    for directory in LOGS.glob(f"{namespace}_*"):
        canaries.search_files("logs of pods", directory)
    canaries.search_files("files on the volume", run.volume)


def _bucket(kind: str) -> str:
    return kind if kind in ("CAIPipeline", "Event", "Job", "Pod", "ConfigMap") else "others"


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


class _Names:
    """What a process is: "rlData/job" for one of a pod of the pipeline."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, str] = {}

    def of(self, process: int) -> str:
        try:
            found = _POD_UID.search((Path("/proc") / str(process) / "cgroup").read_text())
        except OSError:
            return "ended"
        if found is None:
            return "no pod"
        uid = found[1].replace("_", "-")
        if uid not in self._known:
            for pod in self._api.list(POD):
                labels = pod["metadata"].get("labels", {})
                is_ours = NODE_LABEL in labels
                name = f"{labels[NODE_LABEL]}/{labels[KIND_LABEL]}" if is_ours else "another pod"
                self._known[pod["metadata"]["uid"]] = name
        return self._known.get(uid, "another pod")
