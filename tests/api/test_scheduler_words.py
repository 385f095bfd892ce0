"""What a real scheduler says of pods it cannot place is understood: the reason, what to change, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.harness.availability import skipped_where_unavailable
from tests.harness.control_plane import WORKLOADS, ControlPlane
from tests.harness.objects import Api, wait_for
from tests.harness.pipelines import pocket

from cai_operator.api import PipelineStatus
from cai_operator.manifests.children import places_of, shared_children
from cai_operator.manifests.job import job
from cai_operator.manifests.kinds import CLAIM, JOB, POD
from cai_operator.manifests.site import Site
from cai_operator.observing import Children, observe
from cai_operator.plan import plan
from cai_operator.validation import parse_pipeline
from cai_operator.workloads import JobSeen, Observed

MACHINE = {"cpu": "2", "memory": "8Gi", "pods": "50"}


@pytest.fixture(scope="module")
def scheduled() -> Iterator[ControlPlane]:
    """A control plane with a scheduler and one machine of two cores, on which nothing ever runs."""
    plane = ControlPlane(controllers=WORKLOADS, scheduler=True)
    with skipped_where_unavailable():
        plane.start()
    with plane, plane.client() as client:
        client.post("/api/v1/nodes", json={"metadata": {"name": "machine"}}).raise_for_status()
        merge = {"content-type": "application/merge-patch+json"}
        ready = [{"type": "Ready", "status": "True"}]
        status = {"status": {"capacity": MACHINE, "allocatable": MACHINE, "conditions": ready}}
        client.patch("/api/v1/nodes/machine/status", json=status, headers=merge).raise_for_status()
        client.patch("/api/v1/nodes/machine", json={"spec": {"taints": None}}, headers=merge).raise_for_status()
        yield plane


@pytest.mark.parametrize(
    ("spec", "keeps_volumes", "reason", "lacks_room", "words"),
    [
        (
            {"stages": {"models": {"resources": {"cpu": 4}}}},
            False,
            "Unschedulable",
            True,
            "0/1 nodes are available: 1 Insufficient cpu; wait for room, add nodes or lower "
            "spec.stages.models.resources or gpusPerNode",
        ),
        (
            {"stages": {"models": {"gpusPerNode": 1}}},
            False,
            "Unschedulable",
            True,
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Insufficient nvidia.com/gpu; wait",
        ),
        (
            {"template": {"nodeSelector": {"gpu": "yes"}}},
            False,
            "Unschedulable",
            False,
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector; check nodeSelector",
        ),
        (
            {"storage": {"size": None, "claimName": "nowhere"}},
            True,
            "VolumeMissing",
            False,
            "PersistentVolumeClaim nowhere does not exist: create it or correct spec.storage.claimName",
        ),
        ({}, True, "VolumeUnbound", False, "bound to no volume yet"),
    ],
)
def test_the_schedulers_words_are_understood(scheduled, spec, keeps_volumes, reason, lacks_room, words):
    with scheduled.namespace() as namespace, scheduled.client() as client:
        api = Api(client, namespace)
        seen = _unplaced(api, spec, keeps_volumes)
        assert (seen.problem_reason, seen.lacks_room, seen.attempts) == (reason, lacks_room, 0)
        assert words in (seen.problem or "")


def _unplaced(api: Api, spec: dict[str, Any], keeps_volumes: bool) -> JobSeen:
    """The first job of a pipeline with this spec, once the scheduler has said that it cannot place its pod."""
    pipeline = parse_pipeline(pocket("pocket", spec, namespace=api.namespace))
    now = datetime.now(UTC)
    [workload] = [
        workload
        for workload in plan(pipeline, PipelineStatus(), Observed(), now, places_of(pipeline)).apply
        if workload.node == "models"
    ]
    manifest = job(pipeline, workload, Site(images={"hf": "cai-jobs:1"}))
    if keeps_volumes:
        for child in shared_children(pipeline, Site()):
            if child["kind"] == CLAIM.kind:
                api.create(CLAIM, child)
    else:  # no volume controller is here to bind the claim
        pod = manifest["spec"]["template"]["spec"]
        pod["volumes"], pod["containers"][0]["volumeMounts"] = [], []
    api.create(JOB, manifest)

    def look() -> JobSeen:
        jobs, pods = ({item["metadata"]["name"]: item for item in api.list(kind)} for kind in (JOB, POD))
        observed = observe(
            pipeline, Children(jobs, {}, pods), progress={}, refusals={}, warnings={}, texts={}, now=datetime.now(UTC)
        )
        return observed.jobs[workload.name]

    return wait_for(look, "the scheduler's words", lambda seen: seen.problem is not None)
