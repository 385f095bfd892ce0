"""A job workload as a Job: one pod, or one on each of several nodes, which find each other by name."""

from __future__ import annotations

from typing import Any

from cai_jobs.contract.program import EXIT_INPUT
from cai_operator import names
from cai_operator.api import CAIPipeline
from cai_operator.manifests.kinds import JOB, SERVICE
from cai_operator.manifests.metadata import child, workload_labels, workload_selector
from cai_operator.manifests.pod import CONTAINER, QUEUE_LABEL, pod_template, template_of
from cai_operator.manifests.site import Site
from cai_operator.workloads import Kind, Workload

RENDEZVOUS_PORT = 29500
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


def job(pipeline: CAIPipeline, workload: Workload, site: Site) -> dict[str, Any]:
    """The Job.

    It has no `suspend` field: a queue's controller that admits it owns that one.
    """
    labels = workload_labels(pipeline, workload)
    queue = template_of(pipeline, workload).queue_name
    if queue is not None:
        labels[QUEUE_LABEL] = queue
    pod_spec: dict[str, Any] = {"restartPolicy": "Never"}
    container: dict[str, Any] = {}
    spec: dict[str, Any] = {
        # one failure takes the pods of all nodes with it, and each counts
        "backoffLimit": (workload.retries + 1) * workload.nodes - 1,
        "podFailurePolicy": {"rules": _failure_rules()},
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": site.job_ttl_s,
    }
    if workload.deadline_s is not None:
        spec["activeDeadlineSeconds"] = workload.deadline_s
    if workload.nodes > 1:
        spec |= {"completionMode": "Indexed", "completions": workload.nodes, "parallelism": workload.nodes}
        pod_spec["subdomain"] = _peers_name(workload)
        container["env"] = _rendezvous(workload)
    spec["template"] = pod_template(pipeline, workload, site, spec=pod_spec, container=container)
    return {**child(JOB, pipeline, workload.name, labels), "spec": spec}


def peers_service(pipeline: CAIPipeline, workload: Workload) -> dict[str, Any]:
    """The headless Service that gives each pod of a job on several nodes its name, before it is ready."""
    head = child(SERVICE, pipeline, _peers_name(workload), workload_labels(pipeline, workload))
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": workload_selector(pipeline, workload),
        "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": RENDEZVOUS_PORT, "protocol": "TCP"}],
    }
    return {**head, "spec": spec}


def _failure_rules() -> list[dict[str, Any]]:
    return [
        # evicted, preempted, its node gone: no fault of the program
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [EXIT_INPUT]},
        },
    ]


def _rendezvous(workload: Workload) -> list[dict[str, Any]]:
    """What `cai_jobs.launch` takes from the environment: this node's rank, and where rank 0 is."""
    index = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{INDEX_ANNOTATION}']"}}
    return [
        {"name": "PET_NODE_RANK", "valueFrom": index},
        {"name": "PET_MASTER_ADDR", "value": f"{workload.name}-0.{_peers_name(workload)}"},
        {"name": "PET_MASTER_PORT", "value": str(RENDEZVOUS_PORT)},
    ]


def _peers_name(workload: Workload) -> str:
    # a server's own name is that of the Service by which it is reached
    return workload.name if workload.kind == Kind.JOB else names.peers_name(workload.name)
