"""The pod of a workload: one container "program" under the restricted Pod Security level, and where it may run."""

from __future__ import annotations

import copy
from typing import Any

from cai_operator import names
from cai_operator.api import CAIPipeline
from cai_operator.api_base import GPU, INTERFACE_VARIABLES, Interconnect, PodTemplate
from cai_operator.manifests.metadata import stage_name, workload_labels, workload_selector
from cai_operator.manifests.quantities import canonical
from cai_operator.manifests.site import MOUNT, TEXTS, Site
from cai_operator.manifests.texts_config_map import texts_volume
from cai_operator.manifests.volume_claim import ONCE, access_mode, claim_of
from cai_operator.workloads import Kind, Resources, Workload

CONTAINER = "program"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SHM_WITH_GPUS = "16Gi"
GRACE_S = 60
"""Between SIGTERM and SIGKILL: training programs save a checkpoint first."""

SCRATCH = "/tmp"  # noqa: S108 - an empty volume of the pod's own
ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    # a uid that the image does not know has no name, and libraries that ask for one fail
    "USER": "cai",
    "LOGNAME": "cai",
    "PYTHONUNBUFFERED": "1",
    "HF_HOME": f"{SCRATCH}/huggingface",
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
    "XDG_CONFIG_HOME": f"{SCRATCH}/config",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
}
NO_GPUS = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""Images built for GPUs ask for all of a node's, and its runtime may give them to pods that requested none."""


def template_of(pipeline: CAIPipeline, workload: Workload) -> PodTemplate:
    """The spec's template with the fields of the stage's own laid over it, whole field by whole field."""
    own = pipeline.spec.stages.by_name(stage_name(workload)).template
    given: dict[str, Any] = {}
    if own is not None:
        given = {name: getattr(own, name) for name in type(own).model_fields if getattr(own, name) is not None}
    critics_queue = pipeline.spec.stages.ppo.critic.queue_name
    if critics_queue is not None and workload.node == "ppo" and workload.kind is Kind.SERVER:
        given["queue_name"] = critics_queue
    return pipeline.spec.template.model_copy(update=given)


def pod_template(
    pipeline: CAIPipeline, workload: Workload, site: Site, *, spec: dict[str, Any], container: dict[str, Any]
) -> dict[str, Any]:
    """The pod template of a workload; `spec` and `container` are what its kind adds to the pod and its container.

    A container's own environment ("env" of `container`) comes after what every program gets.
    """
    template = template_of(pipeline, workload)
    network = _interconnect(template, workload)
    metadata: dict[str, Any] = {"labels": {**(template.labels or {}), **workload_labels(pipeline, workload)}}
    if template.annotations:
        metadata["annotations"] = dict(template.annotations)
    own_environment = container.get("env", [])
    program = {
        "name": CONTAINER,
        "image": workload.image or site.images.get(pipeline.spec.engine, ""),
        "command": [_literal(part) for part in workload.command],
        **_given(imagePullPolicy=template.image_pull_policy or site.pull_policy),
        "resources": _resources(workload.resources, network),
        "volumeMounts": _mounts(template, workload),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], **({"add": ["IPC_LOCK"]} if network.ipc_lock else {})},
            "readOnlyRootFilesystem": True,
        },
        **container,
        "env": [*_environment(workload, network), *own_environment],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": _pod_security(site),
        "containers": [program],
        "volumes": _volumes(pipeline, template, workload),
        **_placement(pipeline, template, workload, site),
        **spec,
    }
    return {"metadata": metadata, "spec": pod}


def _pod_security(site: Site) -> dict[str, Any]:
    context: dict[str, Any] = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        # a volume of many files is not gone through at every start
        "fsGroupChangePolicy": "OnRootMismatch",
    }
    if site.run_as_user is not None:
        user = site.run_as_user
        context |= {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return context


def _interconnect(template: PodTemplate, workload: Workload) -> Interconnect:
    """What the template says of the network among several machines; nothing for a pod that is alone."""
    given = template.interconnect if workload.nodes > 1 else None
    return given or Interconnect()


def _resources(asked: Resources, network: Interconnect) -> dict[str, Any]:
    """No CPU limit: a program would stand still while cores are free."""
    cpu, memory = canonical(asked.cpu), canonical(asked.memory)
    devices = {GPU: str(asked.gpus)} if asked.gpus else {}
    devices |= {device.resource: canonical(str(device.count)) for device in network.devices or ()}
    return {"requests": {"cpu": cpu, "memory": memory, **devices}, "limits": {"memory": memory, **devices}}


def _environment(workload: Workload, network: Interconnect) -> list[dict[str, Any]]:
    plain = {**ENVIRONMENT, **({} if workload.resources.gpus else NO_GPUS), **workload.environment}
    if network.interface is not None:
        # NCCL takes a bare name for a prefix: eth1 would be eth10, too
        plain |= dict(zip(INTERFACE_VARIABLES, (f"={network.interface}", network.interface), strict=True))
    plain |= {variable.name: variable.value for variable in network.env or ()}
    return [
        *({"name": name, "value": _literal(value)} for name, value in plain.items()),
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
            for name, secret in workload.secrets.items()
        ),
    ]


def _literal(text: str) -> str:
    """Text in which the kubelet sees no $(VARIABLE) of its own."""
    return text.replace("$", "$$")


def _shm_size(template: PodTemplate, workload: Workload) -> str | None:
    return template.shm_size or (SHM_WITH_GPUS if workload.resources.gpus else None)


def _mounts(template: PodTemplate, workload: Workload) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "artifacts", "mountPath": MOUNT},
        {"name": "scratch", "mountPath": SCRATCH},
    ]
    if workload.texts:
        mounts.append({"name": "texts", "mountPath": TEXTS, "readOnly": True})
    if _shm_size(template, workload) is not None:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - shared memory is there
    return mounts


def _volumes(pipeline: CAIPipeline, template: PodTemplate, workload: Workload) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "artifacts", "persistentVolumeClaim": {"claimName": claim_of(pipeline)}},
        {"name": "scratch", "emptyDir": {}},
    ]
    if workload.texts:
        volumes.append(texts_volume(workload))
    shm = _shm_size(template, workload)
    if shm is not None:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": canonical(shm)}})
    return volumes


def _placement(pipeline: CAIPipeline, template: PodTemplate, workload: Workload, site: Site) -> dict[str, Any]:
    own = {"labelSelector": {"matchLabels": workload_selector(pipeline, workload)}}
    given = template.image_pull_secrets
    logins = site.pull_secrets if given is None else [secret.name for secret in given]
    spread = [{**own, **copy.deepcopy(constraint)} for constraint in template.topology_spread_constraints or ()]
    return _given(
        nodeSelector=dict(template.node_selector) if template.node_selector else None,
        tolerations=copy.deepcopy(list(template.tolerations)) if template.tolerations else None,
        affinity=_affinity(pipeline, template),
        topologySpreadConstraints=spread or None,
        priorityClassName=template.priority_class_name,
        runtimeClassName=template.runtime_class_name,
        schedulerName=template.scheduler_name,
        imagePullSecrets=[{"name": name} for name in logins] or None,
    )


def _affinity(pipeline: CAIPipeline, template: PodTemplate) -> dict[str, Any] | None:
    """The template's; and where the volume can be on one machine only, all pods of the pipeline on one machine.

    Else the scheduler would put a job beside neither its server nor its volume, and it would wait for a mount for ever.
    """
    affinity = copy.deepcopy(template.affinity or {})
    if access_mode(pipeline.spec) == ONCE:
        same_pipeline = {names.PIPELINE_LABEL: names.shared_labels(pipeline.name)[names.PIPELINE_LABEL]}
        together = {"labelSelector": {"matchLabels": same_pipeline}, "topologyKey": "kubernetes.io/hostname"}
        pods = affinity.setdefault("podAffinity", {})
        pods.setdefault("requiredDuringSchedulingIgnoredDuringExecution", []).append(together)
    return affinity or None


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
