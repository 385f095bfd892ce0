"""The CAIPipeline resource as typed objects, and the words both executors share about it.

The CustomResourceDefinition and the reference page are generated from these models: every field says what it is for,
and its default is what a reader of the tutorial would choose. What spans fields is checked in `contradictions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field

from cai_operator.api_base import (
    Constitution,
    DatasetSource,
    HubDataset,
    Judge,
    Model,
    ModelSource,
    ObjectName,
    PodTemplate,
    Quantity,
    SecretKey,
)
from cai_operator.api_stages import Gates, Server, Stage, Stages
from cai_operator.status import (
    ArtifactStatus,
    Condition,
    NodeStatus,
    Phase,
    PipelineStatus,
    Progress,
    StageStatus,
    State,
    parse_status,
)

__all__ = [
    "API_VERSION",
    "DEFAULT_CLAIM_SIZE",
    "GROUP",
    "KIND",
    "PLURAL",
    "RETRY_ANNOTATION",
    "SHORT_NAME",
    "VERSION",
    "ArtifactStatus",
    "CAIPipeline",
    "Condition",
    "Gates",
    "NodeStatus",
    "Phase",
    "PipelineStatus",
    "Progress",
    "Server",
    "Spec",
    "Stage",
    "StageStatus",
    "Stages",
    "State",
    "parse_status",
]

GROUP = "cai.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["cai.dev/v1alpha1"] = "cai.dev/v1alpha1"
KIND: Literal["CAIPipeline"] = "CAIPipeline"
PLURAL = "caipipelines"
SHORT_NAME = "caip"
DEFAULT_CLAIM_SIZE = "200Gi"
RETRY_ANNOTATION = f"{GROUP}/retry"
"""Annotation on a pipeline: a value not seen before starts its failed stages anew."""


class Metadata(Model):
    """What the control plane reads of an object's metadata; everything else in it is the API server's."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName = Field(
        description="The pipeline's name; names of children and artifact directories start with it."
    )
    namespace: ObjectName = Field(default="default", description="The namespace it lives in.")
    uid: str | None = Field(default=None, description="Set by the API server.")
    generation: int | None = Field(default=None, description="Set by the API server: counts changes of the spec.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels.")
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Annotations; cai.dev/retry asks for another try."
    )


class Storage(Model):
    """The volume artifacts live on: a claim made for the pipeline, or an existing one."""

    size: Quantity | None = Field(
        default=None,
        description=f"Size of the claim to make, such as 2Ti; it can grow later. Default: {DEFAULT_CLAIM_SIZE}.",
    )
    storage_class_name: ObjectName | None = Field(
        default=None, description="Storage class of the claim to make. Default: the cluster's."
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] | None = Field(
        default=None,
        description="ReadWriteMany lets pods run on different machines, if the storage class can do that; with "
        "ReadWriteOnce all pods of the pipeline are put on one machine. Default: ReadWriteMany where a stage has "
        "several nodes or claimName is given, else ReadWriteOnce.",
    )
    claim_name: ObjectName | None = Field(default=None, description="An existing claim to use instead of making one.")
    retain: bool = Field(
        default=True, description="Keep the claim that was made, and its data, when the pipeline is deleted."
    )


class Models(Model):
    """The models the loop starts from."""

    base: ModelSource = Field(description="The model that is trained.")
    assistant: ModelSource | None = Field(
        default=None, description="A helpful-only model: answers, criticises and revises. Default: the base model."
    )


class Datasets(Model):
    """The three data sets. Their defaults are the tutorial's, or the pocket world's where the base model is pocket."""

    red_team: DatasetSource | None = Field(
        default=None, description="Red-team prompts. Default: red-team-attempts of Anthropic/hh-rlhf."
    )
    helpfulness: DatasetSource | None = Field(
        default=None, description="Dialogues blended into supervised fine-tuning. Default: nvidia/sft_datablend_v1."
    )
    preference: DatasetSource | None = Field(
        default=None,
        description="Human preferences blended into the AI's. Default: the three helpful sets of Anthropic/hh-rlhf.",
    )


class Spec(Model):
    """What a pipeline is to do."""

    engine: Literal["nemo", "hf"] = Field(
        default="nemo", description="Programs that train and serve: NeMo-Aligner's, or Hugging Face's."
    )
    seed: int = Field(default=1234, ge=0, lt=2**31, description="Seed of everything random.")
    image: str | None = Field(
        default=None, min_length=1, description="Image of all programs. Default: the operator's setting."
    )
    gpus_per_node: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="GPUs for servers and training stages that do not say. Default: 8 for nemo, 0 for hf.",
    )
    storage: Storage = Field(default=Storage(), description="The volume artifacts live on.")
    models: Models = Field(description="The models the loop starts from.")
    datasets: Datasets = Field(default=Datasets(), description="The data sets it learns from.")
    constitution: Constitution | None = Field(
        default=None, description="The constitution's texts. Default: the built-in ones."
    )
    judge: Judge | None = Field(
        default=None,
        description="Who compares answers. Default: the pocket judge for a pocket base model, else the model itself; "
        "with nemo Mixtral at NVIDIA's, whose key has to be given.",
    )
    hub_token_secret: SecretKey | None = Field(
        default=None, description="Secret with a token for gated models and data sets of the hub."
    )
    template: PodTemplate = Field(default=PodTemplate(), description="What every pod gets besides its program.")
    stages: Stages = Field(default=Stages(), description="Settings of the single stages.")
    suspend: bool = Field(
        default=False, description="true: stop everything and give up all GPUs; false: go on from there."
    )

    @property
    def is_pocket(self) -> bool:
        """Whether the model that is trained is the pocket world's."""
        return self.models.base.pocket is not None

    @property
    def uses_several_nodes(self) -> bool:
        """Whether a stage, or its server, runs on several machines at a time."""
        stages = self.stages
        return any(each.nodes > 1 for each in (stages.sft, stages.reward_model, stages.ppo, stages.ppo.critic))

    @property
    def assistant(self) -> ModelSource:
        """The model that answers, criticises and revises."""
        return self.models.assistant or self.models.base

    @property
    def judge_or_default(self) -> Judge:
        """The judge that is used."""
        return self.judge or Judge.model_validate({"pocket": {}} if self.is_pocket else {"self": True})

    def dataset(self, name: Literal["redTeam", "helpfulness", "preference"]) -> DatasetSource:
        """The source of a data set, given or by default."""
        given = {
            "redTeam": self.datasets.red_team,
            "helpfulness": self.datasets.helpfulness,
            "preference": self.datasets.preference,
        }[name]
        if given is not None:
            return given
        return DatasetSource.model_validate({"pocket": {}}) if self.is_pocket else _TUTORIAL_DATASETS[name]

    @property
    def default_gpus(self) -> int:
        """GPUs of a training node or a server that does not say."""
        if self.gpus_per_node is not None:
            return self.gpus_per_node
        return 8 if self.engine == "nemo" else 0


class CAIPipeline(Model):
    """One Constitutional AI training run, from models and principles to a served model."""

    api_version: Literal["cai.dev/v1alpha1"] = Field(default=API_VERSION, description="Group and version of this kind.")
    kind: Literal["CAIPipeline"] = Field(default=KIND, description="This kind.")
    metadata: Metadata = Field(description="Name, namespace, annotations.")
    spec: Spec = Field(description="What the pipeline is to do.")

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.metadata.name

    @property
    def retry(self) -> str | None:
        """The value of the retry annotation, None without one."""
        return self.metadata.annotations.get(RETRY_ANNOTATION) or None

    def with_retry(self, token: str) -> CAIPipeline:
        """The same pipeline with failed stages to be started anew, once for each value of `token`."""
        annotations = {**self.metadata.annotations, RETRY_ANNOTATION: token}
        return self.model_copy(update={"metadata": self.metadata.model_copy(update={"annotations": annotations})})

    def without_serving(self) -> CAIPipeline:
        """The same pipeline with its serve stage disabled: for an executor that ends with the last job."""
        serve = self.spec.stages.serve.model_copy(update={"enabled": False})
        stages = self.spec.stages.model_copy(update={"serve": serve})
        return self.model_copy(update={"spec": self.spec.model_copy(update={"stages": stages})})


_HH_HELPFUL = ("helpful-base", "helpful-online", "helpful-rejection-sampled")
_TUTORIAL_DATASETS: Mapping[str, DatasetSource] = {
    "redTeam": DatasetSource(hugging_face=HubDataset(repo="Anthropic/hh-rlhf", data_dirs=("red-team-attempts",))),
    "helpfulness": DatasetSource(hugging_face=HubDataset(repo="nvidia/sft_datablend_v1")),
    "preference": DatasetSource(hugging_face=HubDataset(repo="Anthropic/hh-rlhf", data_dirs=_HH_HELPFUL)),
}
