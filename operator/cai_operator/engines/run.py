"""What an engine is told about one node of one pipeline: enough to write its commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cai_operator import names
from cai_operator.api import CAIPipeline
from cai_operator.places import Places
from cai_operator.stages import Node
from cai_operator.texts import Text


@dataclass(frozen=True)
class Run:
    """One node with its key.

    Attributes:
        pipeline: the resource.
        node: the node, its inputs settled.
        keys: the keys of this node and of every node before it, by name.
        texts: the texts it reads, by file name.
        retry: the retry that was asked for when it was last started anew, which its children's names carry.
        places: how the executor lays things out.
    """

    pipeline: CAIPipeline
    node: Node
    keys: Mapping[str, str]
    texts: Mapping[str, Text]
    retry: str | None
    places: Places

    @property
    def key(self) -> str:
        """The node's own key."""
        return self.keys[self.node.name]

    @property
    def job_name(self) -> str:
        """The name of its job."""
        return names.job_name(self.pipeline.name, self.node.name, self.key, self.retry)

    def server_name(self, role: str) -> str:
        """The name of its server of that role."""
        return names.server_name(self.pipeline.name, self.node.name, role, self.key, self.retry)

    def artifact_path(self) -> str:
        """The node's artifact directory, relative to the volume's root."""
        return names.artifact_path(self.pipeline.name, self.node.name, self.key)

    def artifact(self) -> str:
        """The node's artifact directory, as programs see it."""
        return self.places.artifact(self.artifact_path())

    def input(self, node: str, below: str = "") -> str:
        """A path below the artifact of an input, as programs see it."""
        directory = self.places.artifact(names.artifact_path(self.pipeline.name, node, self.keys[node]))
        return f"{directory}/{below}" if below else directory

    def text(self, name: str) -> str:
        """The path at which the job finds a text."""
        text = self.texts[name]
        if text.content is None and text.path is not None:
            return self.places.path_of(text.path)
        return f"{self.places.texts_of(self.job_name).rstrip('/')}/{name}"

    def laid_texts(self) -> dict[str, str]:
        """The texts to lay for the job: those whose content is known here."""
        return {name: text.content for name, text in self.texts.items() if text.content is not None}
