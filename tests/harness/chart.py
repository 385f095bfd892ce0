"""The chart, as a real helm renders it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tests.harness import binaries
from tests.harness.access import Access

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "cai-operator"
RELEASE, SYSTEM = "cai-operator", "cai-system"

Object = dict[str, Any]

EVERYTHING: Mapping[str, Any] = {
    "imageRegistry": "registry.example:5000/team/",
    "imagePullSecrets": [{"name": "pull"}],
    "image": {"digest": "sha256:" + "a" * 64, "pullPolicy": "Always"},
    "engines": {
        "hf": {"image": {"digest": "sha256:" + "b" * 64}},
        "nemo": {"image": {"tag": "25.02"}},
        "imagePullSecrets": [{"name": "pull"}, {"name": "second"}],
    },
    "judge": {"url": "https://judge.example/v1/chat/completions", "secret": {"name": "judge"}},
    "settings": {"runAsUser": 1234, "logFormat": "json", "progressSeconds": 0.5, "jobTtlSeconds": 2_000_000_000},
    "replicas": 2,
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
    "serviceAccount": {"name": "operator", "annotations": {"example.com/role": "operator"}},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"port": 6443}]}],
    },
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True, "namespace": "grafana", "annotations": {"grafana_folder": "AI"}},
    },
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
    "runtimeClassName": "gvisor",
    "commonLabels": {"team": "platform"},
    "commonAnnotations": {"example.com/owner": "platform"},
    "podLabels": {"sidecar": "none"},
    "podAnnotations": {"example.com/scrape": "yes"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    "extraVolumes": [{"name": "certificates", "configMap": {"name": "certificates"}}],
    "extraVolumeMounts": [{"name": "certificates", "mountPath": "/etc/ssl/team", "readOnly": True}],
    "tests": {"storageClassName": "fast", "timeoutSeconds": 600},
}
"""Values that use everything the chart has."""


def helm(
    *words: str | Path, cluster: Access | None = None, stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run helm, as the admin of a cluster if one is given; AssertionError with what it said if it fails and `check`."""
    command = [str(binaries.tool("helm")), *map(str, words)]
    environment = dict(os.environ)
    if cluster is not None:
        command.append(f"--kubeconfig={cluster.kubeconfig}")
        # a developer's own repositories and plugins stay out of it
        homes = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        environment |= {home: str(cluster.directory / home.lower()) for home in homes}
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment)
    said = f"{done.stdout}\n{done.stderr}".strip()
    assert not check or done.returncode == 0, f"helm {' '.join(map(str, words[:3]))}: {said}"
    return done


def render(
    values: Mapping[str, Any] | None = None, *flags: str, release: str = RELEASE, namespace: str = SYSTEM
) -> list[Object]:
    """All objects of the chart with these values, those of `helm test` too."""
    words = ["template", release, CHART, "--namespace", namespace, "--values", "-", *flags]
    text = helm(*words, stdin=json.dumps(values or {})).stdout
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def refusal(values: Mapping[str, Any]) -> str:
    """What helm says of values it does not take."""
    words = ["template", RELEASE, CHART, "--namespace", SYSTEM, "--values", "-"]
    done = helm(*words, stdin=json.dumps(values), check=False)
    assert done.returncode != 0, "helm took these values"
    return done.stderr


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """Those of a kind, without those of `helm test`."""
    return [one for one in objects if one["kind"] == kind and not is_test(one)]


def environment(objects: Sequence[Object]) -> dict[str, str]:
    """The variables of the operator's container; those that the pod fills in have the value "from-the-pod"."""
    (container,) = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", "from-the-pod") for one in container["env"]}


def is_test(found: Object) -> bool:
    """Whether an object is made for `helm test` only."""
    return "helm.sh/hook" in found["metadata"].get("annotations", {})


def the(objects: Sequence[Object], kind: str) -> Object:
    """The one object of a kind."""
    (found,) = of_kind(objects, kind)
    return found


NEW_FIELD = "runtimeClassName"
"""What the definition of the previous release does not know: a field of every pod template."""


def previous_release(directory: Path) -> Path:
    """The chart as an earlier release had it: nothing is released yet, so it is this one made older.

    Another version, and a definition without NEW_FIELD. The operator's image is the same, as there is no older one.
    """
    chart = directory / "previous" / CHART.name
    shutil.copytree(CHART, chart)
    head = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**head, "version": "0.0.1", "appVersion": "0.0.1"}))
    definition = chart / "files" / "crd-spec.yaml"
    older = _without(yaml.load(definition.read_text(), Loader=yaml.CSafeLoader), NEW_FIELD)
    definition.write_text(yaml.safe_dump(older))
    return chart


def _without(part: Any, name: str) -> Any:
    if isinstance(part, dict):
        return {key: _without(value, name) for key, value in part.items() if key != name}
    return [_without(each, name) for each in part] if isinstance(part, list) else part
