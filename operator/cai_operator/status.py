"""The resource's status as typed objects: what `cai status` prints and the operator writes."""

from __future__ import annotations

import copy
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from cai_operator.api_base import Model
from cai_operator.problems import drop


class State(StrEnum):
    """Where a stage, or one of its nodes, stands. Succeeded and Failed last as long as the key does."""

    DISABLED = "Disabled"
    WAITING = "Waiting"
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Phase(StrEnum):
    """One word for the whole pipeline. Succeeded and Failed are terminal until the spec changes or a retry is asked."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class StatusModel(Model):
    """Base of status objects: what a newer version wrote and this one does not know is dropped, not refused."""

    model_config = ConfigDict(extra="ignore")

    def document(self) -> dict[str, Any]:
        """The object as plain JSON values, nulls left out at every depth: a merge patch takes them for removals."""
        document: dict[str, Any] = _without_nulls(super().document())
        return document


class Condition(StatusModel):
    """One condition, in the form Kubernetes tools know."""

    type: str = Field(description="Ready, Progressing, Degraded or Suspended.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(description="Why, as one CamelCase word.")
    message: str = Field(default="", description="Why, as a sentence.")
    last_transition_time: datetime = Field(description="When `status` last changed.")
    observed_generation: int | None = Field(
        default=None, description="The generation of the spec this was derived from."
    )


class Progress(StatusModel):
    """How far the running program is, by its newest progress line."""

    done: int = Field(default=0, description="Units done.")
    total: int | None = Field(default=None, description="Units in all, where known.")
    unit: str = Field(default="", description="What is counted.")
    eta_seconds: float | None = Field(default=None, description="Seconds until done, at the pace so far.")
    metrics: dict[str, Any] = Field(default_factory=dict, description="The newest figures beside it.")


class ArtifactStatus(StatusModel):
    """The artifact a node published."""

    path: str = Field(description="Its directory, relative to the root of the volume.")
    digest: str | None = Field(default=None, description="sha256 over the list of its files.")
    files: int | None = Field(default=None, description="How many files it holds.")
    size_bytes: int | None = Field(default=None, description="Their size together, in bytes.")


class NodeStatus(StatusModel):
    """One node of the stage graph: one job with the servers it needs, or the kept server."""

    name: str = Field(description="The node's name.")
    state: State = Field(default=State.WAITING, description="Where it stands.")
    key: str | None = Field(
        default=None, description="Key of what it makes: changes when anything that shapes its result does."
    )
    attempts: int = Field(default=0, description="How often its program was started for this key.")
    started: datetime | None = Field(default=None, description="When its program was last started.")
    finished: datetime | None = Field(default=None, description="When its program ended.")
    progress: Progress | None = Field(default=None, description="How far the running program is.")
    message: str = Field(default="", description="What it waits for, or why it failed.")
    reason: str = Field(
        default="", description="The same as one CamelCase word, such as ImagePullFailed; empty where all is well."
    )
    metrics: dict[str, Any] = Field(default_factory=dict, description="The figures of the finished program.")
    artifact: ArtifactStatus | None = Field(default=None, description="What it published.")
    log: str | None = Field(default=None, description="Where the program's log is.")
    retry: str | None = Field(default=None, description="The cai.dev/retry value under which it was last started anew.")


class StageStatus(NodeStatus):
    """One stage; a stage of several nodes lists them in `parts` and sums them up in its own fields."""

    parts: tuple[NodeStatus, ...] = Field(default=(), description="The stage's nodes, where it has several.")


class PipelineStatus(StatusModel):
    """The status of a CAIPipeline."""

    observed_generation: int | None = Field(
        default=None, description="The generation of the spec this was derived from."
    )
    retry: str | None = Field(
        default=None, description="The cai.dev/retry value that was last acted on: what had failed by then ran anew."
    )
    phase: Phase = Field(default=Phase.PENDING, description="One word for the whole pipeline.")
    message: str = Field(default="", description="One sentence for the whole pipeline.")
    progress: str = Field(default="", description="Stages done of stages enabled, such as 4/9.")
    activity: str = Field(default="", description="What is being worked on now, such as sft 40/60, 2 min left.")
    conditions: tuple[Condition, ...] = Field(default=(), description="Ready, Progressing, Degraded and Suspended.")
    stages: tuple[StageStatus, ...] = Field(default=(), description="Every stage, in the order of the graph.")
    endpoint: str | None = Field(default=None, description="URL of the served model, once it is ready.")
    report: str | None = Field(default=None, description="Path of the report page, relative to the root of the volume.")

    def stage(self, name: str) -> StageStatus | None:
        """The stage of that name, or None where the status does not have it."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def node(self, name: str) -> NodeStatus | None:
        """The node of that name, be it a stage of its own or one of a stage's parts, or None."""
        for stage in self.stages:
            for node in stage.parts or (stage,):
                if node.name == name:
                    return node
        return None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def parse_status(document: dict[str, Any] | None) -> PipelineStatus:
    """The status of a document, empty where there is none or it makes no sense at all.

    An older or a newer version of this operator may have written it. What this one does not understand is dropped by
    itself: a field, and where a required field is missing the object that lacks it. The rest counts.
    """
    given: Any = document or {}
    while isinstance(given, dict):
        try:
            return PipelineStatus.model_validate(given)
        except ValidationError as invalid:
            if given is document:
                given = copy.deepcopy(document)
            error = invalid.errors(include_url=False)[0]
            if not drop(given, error["loc"][:-1] if error["type"] == "missing" else error["loc"]):
                break
    return PipelineStatus()
