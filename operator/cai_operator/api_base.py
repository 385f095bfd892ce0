"""What the resource is made of: the strict base model, Kubernetes' text formats, sources of models and data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
DURATION_PATTERN = r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
CONFIG_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
URL_PATTERN = r"^https?://[^\s/]+"
INTERFACE_PATTERN = r"^[^\s/:,=^]+$"
DEVICE_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
COMMUNICATION_PATTERN = r"^(NCCL|TORCH_NCCL|GLOO|TP|UCX|FI|SHARP|IBV|RDMAV)_[A-Z0-9_]+$"

GPU = "nvidia.com/gpu"
ARGO_CD = "argocd.argoproj.io/"
"""What labels and annotations begin with by which Argo CD knows, and is told about, what it deploys itself."""
APP_ARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/program"
"""By which a pod could have its only container run without AppArmor, or under another profile than the runtime's."""

INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def _number_as_text(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError(f'a fraction as text, as the API server takes it: "{value}"')
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_number_as_text),
    Field(max_length=64, pattern=QUANTITY_PATTERN),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 64, "pattern": QUANTITY_PATTERN}),
]
"""A Kubernetes quantity as text; a whole number is taken as its text, as the API server does."""

Duration = Annotated[str, Field(min_length=2, max_length=64, pattern=DURATION_PATTERN)]
"""Days, hours, minutes and seconds in that order: `90m`, `1d12h`."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME_PATTERN)]
"""The name of a Kubernetes object (RFC 1123 subdomain)."""

ConfigKey = Annotated[str, Field(min_length=1, max_length=253, pattern=CONFIG_KEY_PATTERN)]
"""A key of a ConfigMap or a Secret."""

FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
"""A path; its bound lets the API server reckon what looking at it costs."""

JudgeUrl = Annotated[str, Field(max_length=2048, pattern=URL_PATTERN)]
"""Where a judge's chat completions are asked for."""

Port = Annotated[int, Field(ge=1, le=65535)]

Share = Annotated[float, Field(gt=0, lt=1)]
"""A part of a whole that leaves something."""


class Model(BaseModel):
    """Base of the resource's objects: frozen, camelCase in documents, nothing unknown accepted."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=False
    )

    def document(self) -> dict[str, Any]:
        """The object as a document of plain JSON values with camelCase names, unset fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Pocket(Model):
    """The small world shipped with this product: no network, minutes on two CPU cores. Written `pocket: {}`."""


class HubModel(Model):
    """A model on the Hugging Face hub."""

    repo: str = Field(min_length=1, description="Repository on the hub, such as mistralai/Mistral-7B-v0.1.")
    revision: str | None = Field(
        default=None, min_length=1, description="Branch, tag or commit. Default: the main branch."
    )


class Source(Model):
    """Where something comes from: an object of which exactly one field is given."""

    def given(self) -> dict[str, Any]:
        """The document of what is given, defaults left out: what programs are told and keys hold."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class ModelSource(Source):
    """Where a model comes from: exactly one of huggingFace, path and pocket."""

    hugging_face: HubModel | None = Field(default=None, description="A model on the Hugging Face hub.")
    path: FilePath | None = Field(
        default=None,
        description="A directory in Hugging Face format, on the pipeline's volume (or this machine); for engine nemo "
        "also a .nemo file.",
    )
    pocket: Pocket | None = Field(default=None, description="The small model shipped with this product.")


class HubDataset(Model):
    """A data set on the Hugging Face hub."""

    repo: str = Field(min_length=1, description="Repository on the hub, such as Anthropic/hh-rlhf.")
    revision: str | None = Field(
        default=None, min_length=1, description="Branch, tag or commit. Default: the main branch."
    )
    data_dirs: tuple[str, ...] = Field(
        default=(), description="Directories of the repository to take. Default: all of it."
    )
    split: str | None = Field(default=None, min_length=1, description="The split to take. Default: train.")


class ConfigMapKey(Model):
    """One key of a ConfigMap in the pipeline's namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    key: ConfigKey = Field(description="The key whose value is taken.")


class ConfigMapName(Model):
    """A ConfigMap in the pipeline's namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap.")


class SecretName(Model):
    """A Secret in the pipeline's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")


class SecretKey(Model):
    """One key of a Secret in the pipeline's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: ConfigKey = Field(description="The key whose value is taken.")


class DatasetSource(Source):
    """Where a data set comes from: exactly one of huggingFace, path, configMap and pocket."""

    hugging_face: HubDataset | None = Field(default=None, description="A data set on the Hugging Face hub.")
    path: FilePath | None = Field(
        default=None, description="A JSONL file or a directory of them, on the pipeline's volume (or this machine)."
    )
    config_map: ConfigMapKey | None = Field(default=None, description="A JSONL text of at most 1 MiB in a ConfigMap.")
    pocket: Pocket | None = Field(default=None, description="The small data set shipped with this product.")


class Constitution(Source):
    """Where the constitution's texts come from: exactly one of configMap and path.

    Known files are critique_revision_instructions.json, few_shot_samples.json, judge_system_prompt.txt and
    comparison_principles.json; those not given are the built-in ones.
    """

    config_map: ConfigMapName | None = Field(
        default=None, description="A ConfigMap whose keys are any of the known files."
    )
    path: FilePath | None = Field(
        default=None, description="A directory with any of the known files, on the pipeline's volume (or this machine)."
    )


class PanelJudge(Model):
    """One of several judges that vote."""

    url: JudgeUrl = Field(description="Chat completions endpoint, such as https://host/v1/chat/completions.")
    model: str = Field(min_length=1, max_length=256, description="The model's name at that endpoint.")
    api_key_secret: SecretKey | None = Field(default=None, description="Secret holding the endpoint's API key.")


class Judge(Model):
    """Who compares candidate answers: a chat API at a url, several that vote, the trained model, the pocket judge."""

    url: JudgeUrl | None = Field(
        default=None,
        description="Chat completions endpoint, such as https://host/v1/chat/completions. Default: NVIDIA's.",
    )
    model: str | None = Field(
        default=None, min_length=1, description="The model's name at that endpoint. Default: Mixtral, at NVIDIA's."
    )
    api_key_secret: SecretKey | None = Field(default=None, description="Secret holding the endpoint's API key.")
    self_: Literal[True] | None = Field(
        default=None, alias="self", description="true: the SL-CAI model being served judges its answers."
    )
    pocket: Pocket | None = Field(default=None, description="The judge shipped with the pocket world.")
    panel: tuple[PanelJudge, ...] | None = Field(
        default=None,
        min_length=2,
        max_length=9,
        description="Several judges that vote on each pair, instead of one; evaluation asks the first of them.",
    )

    @property
    def first(self) -> Judge | PanelJudge:
        """The judge that is asked where only one is: the first of a panel, else this one."""
        return self.panel[0] if self.panel else self


class ComputeResources(Model):
    """What one pod asks for."""

    cpu: Quantity | None = Field(
        default=None,
        description="CPU cores; also the threads of a program without GPU. "
        "Default: 1, or 250m where a program mostly waits for servers; 8 with GPUs.",
    )
    memory: Quantity | None = Field(default=None, description="Memory. Default: 2Gi; 64Gi with GPUs.")


class Device(Model):
    """Devices of a network, as a device plugin offers them."""

    resource: str = Field(
        min_length=1, max_length=253, pattern=DEVICE_PATTERN, description="Name of the extended resource, as rdma/hca."
    )
    count: int = Field(default=1, ge=1, le=1024, description="How many each pod gets. Default: 1.")


class Variable(Model):
    """A variable for the libraries by which processes talk to each other."""

    name: str = Field(
        min_length=1, max_length=128, pattern=COMMUNICATION_PATTERN, description="Its name, such as NCCL_IB_HCA."
    )
    value: str = Field(max_length=4096, description="Its value.")


class Interconnect(Model):
    """How pods that work together on several machines reach each other; no other pod gets any of it."""

    interface: str | None = Field(
        default=None,
        min_length=1,
        max_length=15,
        pattern=INTERFACE_PATTERN,
        description="Network interface in the pods, such as eth0: NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME. "
        "Default: the libraries choose.",
    )
    devices: tuple[Device, ...] | None = Field(
        default=None, max_length=16, description="Devices each pod asks for, such as an RDMA adapter."
    )
    env: tuple[Variable, ...] | None = Field(
        default=None, max_length=64, description="Variables for NCCL, Gloo, UCX and libfabric, such as NCCL_IB_HCA."
    )
    ipc_lock: bool = Field(
        default=False,
        description="true: the pods have the capability IPC_LOCK. The restricted and baseline Pod Security levels "
        "refuse such pods.",
    )


class PodTemplate(Model):
    """What every pod of the pipeline, or of one stage, gets besides its program."""

    node_selector: dict[str, str] | None = Field(default=None, description="Labels a node must have.")
    tolerations: tuple[dict[str, Any], ...] | None = Field(default=None, description="Tolerations, as in a pod.")
    affinity: dict[str, Any] | None = Field(default=None, description="Affinity, as in a pod.")
    topology_spread_constraints: tuple[dict[str, Any], ...] | None = Field(
        default=None,
        description="Constraints on spreading, as in a pod; without labelSelector they are about the pods of the same "
        "job or server.",
    )
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    scheduler_name: str | None = Field(default=None, min_length=1, description="Scheduler that places the pods.")
    image_pull_secrets: tuple[SecretName, ...] | None = Field(
        default=None, max_length=64, description="Secrets for pulling images."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When images are pulled."
    )
    queue_name: ObjectName | None = Field(default=None, description="Kueue LocalQueue that admits the jobs.")
    shm_size: Quantity | None = Field(
        default=None, description="Size limit of /dev/shm. Default: 16Gi with GPUs, else 64Mi."
    )
    interconnect: Interconnect | None = Field(
        default=None, description="Network among the pods of a stage, or its critic, on several machines."
    )
    labels: dict[str, str] | None = Field(
        default=None, max_length=64, description=f"Labels added to the pods; none that begins with {ARGO_CD}."
    )
    annotations: dict[str, str] | None = Field(
        default=None, max_length=64, description=f"Annotations added to the pods; none that begins with {ARGO_CD}."
    )
