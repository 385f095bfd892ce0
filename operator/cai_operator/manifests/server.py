"""A server workload as a Deployment and the Service by whose name jobs and users reach it."""

from __future__ import annotations

from typing import Any

from cai_operator.api import CAIPipeline
from cai_operator.manifests.job import INDEX_ANNOTATION, job
from cai_operator.manifests.kinds import DEPLOYMENT, SERVICE
from cai_operator.manifests.metadata import child, workload_labels, workload_selector
from cai_operator.manifests.pod import QUEUE_LABEL, pod_template, template_of
from cai_operator.manifests.site import Site
from cai_operator.workloads import Probe, Workload

PORT_NAME = "http"
LOADING_S = 3600
"""How long a server may take to load its model before it is started again."""


def server(pipeline: CAIPipeline, workload: Workload, site: Site) -> dict[str, Any]:
    """The Deployment. The old pod goes before the new one comes: there may be GPUs for one only."""
    probe = _probe_of(workload)
    labels = workload_labels(pipeline, workload)
    container = {"ports": [{"name": PORT_NAME, "containerPort": probe.port, "protocol": "TCP"}], **_probes(probe)}
    template = pod_template(pipeline, workload, site, spec={}, container=container)
    queue = template_of(pipeline, workload).queue_name
    if queue is not None:
        labels[QUEUE_LABEL] = queue
        template["metadata"]["labels"][QUEUE_LABEL] = queue
    spec = {
        "replicas": workload.replicas,
        "strategy": {"type": "Recreate"},
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": LOADING_S,
        "selector": {"matchLabels": workload_selector(pipeline, workload)},
        "template": template,
    }
    return {**child(DEPLOYMENT, pipeline, workload.name, labels), "spec": spec}


def server_group(pipeline: CAIPipeline, workload: Workload, site: Site) -> dict[str, Any]:
    """A server on several machines: a Job of one pod on each, which one failure restarts together.

    Only the first machine listens, so nothing but the readiness of its pod may hang on the port: the others' pods would
    be restarted for not listening.
    """
    probe = _probe_of(workload)
    manifest = job(pipeline, workload, site)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["ports"] = [{"name": PORT_NAME, "containerPort": probe.port, "protocol": "TCP"}]
    container["readinessProbe"] = _probes(probe)["readinessProbe"]
    return manifest


def server_service(pipeline: CAIPipeline, workload: Workload) -> dict[str, Any]:
    """The Service, of the same name as the workload.

    Where it is headless, its name stands for every ready pod; on several machines it leads to the first.
    """
    port = _probe_of(workload).port
    head = child(SERVICE, pipeline, workload.name, workload_labels(pipeline, workload))
    first = {INDEX_ANNOTATION: "0"} if workload.nodes > 1 else {}
    spec: dict[str, Any] = {
        **({"clusterIP": "None"} if workload.headless else {}),
        "selector": {**workload_selector(pipeline, workload), **first},
        "ports": [{"name": PORT_NAME, "port": port, "targetPort": port, "protocol": "TCP"}],
    }
    return {**head, "spec": spec}


def _probe_of(workload: Workload) -> Probe:
    if workload.probe is None:
        raise ValueError(f"{workload.name} is a server without a probe")
    return workload.probe


def _probes(probe: Probe) -> dict[str, Any]:
    """Looked at every second while it loads; later a busy server is given time before it is called not ready.

    It is started again only where nobody accepts connections for minutes: a long training step is no reason.
    """
    connects = {"tcpSocket": {"port": probe.port}}
    ready = {"httpGet": {"path": probe.path, "port": probe.port}} if probe.path is not None else connects
    probes = {
        "startupProbe": {**ready, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": LOADING_S},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 6},
    }
    if probe.is_life:
        probes["livenessProbe"] = {**connects, "periodSeconds": 30, "timeoutSeconds": 10, "failureThreshold": 10}
    return probes
