"""The cluster that tests of real pods run on: this machine's own node, or one that CAI_TEST_KUBECONFIG names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import node, up
from tests.harness.access import Access
from tests.harness.node_files import POD_IMAGE
from tests.harness.processes import Unavailable

VARIABLE = "CAI_TEST_KUBECONFIG"

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Labels of a namespace that takes no pod with more rights than it needs."""


class Cluster(Access):
    """A cluster whose pods run. `pod_image` names an image of one small program: see tests/cluster/pod_program."""

    pod_image = POD_IMAGE

    @property
    def is_local(self) -> bool:
        """Whether its node is this machine's own, so that images can be handed to it."""
        return up.KUBECONFIG.exists() and f"server: {self.url}\n" in up.KUBECONFIG.read_text()

    def import_image(self, archive: Path) -> None:
        """Bring the images of an OCI or docker archive to the node, under the names they have in it."""
        if not self.is_local:
            raise Unavailable(
                f"images can be handed to this machine's own node alone, and {VARIABLE} names {self.url}: "
                "unset it, and the tests make a node"
            )
        node.import_image(archive)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The cluster, for as long as the context lasts; it is shared by all test processes of this machine."""
    with tempfile.TemporaryDirectory(prefix="cai-cluster-") as directory:
        if VARIABLE in os.environ:
            yield Cluster.of_kubeconfig(Path(os.environ[VARIABLE]), Path(directory))
            return
        with up.join() as kubeconfig:
            yield Cluster.of_kubeconfig(kubeconfig, Path(directory))
