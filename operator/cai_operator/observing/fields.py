"""Which field of the spec rules what of a child: so that a sentence can say what to change."""

from __future__ import annotations

from dataclasses import dataclass

from cai_operator import names
from cai_operator.observing.objects import Raw, label, name_of, text


@dataclass(frozen=True)
class Fields:
    """The fields that shape a child's pods.

    Attributes:
        stage: its stage's name, which is its field in `spec.stages`.
        role: which of the node's servers it is; empty for a job and for the kept server.
        namespace: where it is.
    """

    stage: str
    role: str = ""
    namespace: str = "default"

    @property
    def base(self) -> str:
        """The field all of its own settings are in."""
        if self.role == "critic":
            return f"spec.stages.{self.stage}.critic"
        return f"spec.stages.{self.stage}" + (".server" if self.role else "")

    @property
    def memory(self) -> str:
        """The field of its memory."""
        return f"{self.base}.resources.memory"

    @property
    def size(self) -> str:
        """The fields of all it asks for."""
        gpus = "gpus" if self.role in ("server", "judge") else "gpusPerNode"
        return f"{self.base}.resources or {gpus}"

    @property
    def image(self) -> str:
        """The fields its image comes from."""
        return f"spec.stages.{self.stage}.image or spec.image"

    @property
    def retries(self) -> str:
        """The field of how often it is tried."""
        return f"spec.stages.{self.stage}.retries"

    @property
    def deadline(self) -> str:
        """The field of its deadline."""
        return f"spec.stages.{self.stage}.deadline"


def fields_of(child: Raw) -> Fields:
    """The fields of a Job or Deployment, by its labels and its name."""
    name, key = name_of(child), label(child, names.KEY_LABEL)
    role = next((role for role in names.ROLES if key and f"-{role}-{key[:8]}" in name), "")
    return Fields(label(child, names.STAGE_LABEL), role, text(child, "metadata", "namespace") or "default")
