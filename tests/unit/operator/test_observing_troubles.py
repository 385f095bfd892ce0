"""What keeps pods from starting and objects from being made, and the sentence and reason that come of it."""

from __future__ import annotations

import pytest
from tests.unit.operator.child_objects import (
    IMAGE,
    JOB,
    RUNNING,
    SERVER,
    deployment,
    ended,
    job,
    pod,
    unplaced,
    waiting,
)

from cai_operator.observing import Children
from cai_operator.workloads import JobState

# what keeps pods from starting


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (waiting("InvalidImageName", "couldn't parse"), "ImagePullFailed", "is no valid image name: correct spec."),
        (waiting("ErrImageNeverPull", "policy"), "ImagePullFailed", "imagePullPolicy is Never"),
        (
            waiting("CreateContainerConfigError", 'secret "ngc" not found'),
            "SecretMissing",
            "Secret ngc does not exist in namespace lab: create it",
        ),
        (
            waiting("CreateContainerConfigError", "couldn't find key api-key in Secret lab/ngc"),
            "SecretMissing",
            "Secret ngc in namespace lab has no key api-key: add it",
        ),
        (
            waiting("CreateContainerConfigError", 'configmap "words" not found'),
            "ConfigMapMissing",
            "ConfigMap words does not exist in namespace lab",
        ),
        (
            waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
            "ContainerFailed",
            "cannot be set up: container has runAsNonRoot",
        ),
        (waiting("RunContainerError", "no such file"), "ContainerFailed", "cannot be started: no such file"),
    ],
)
def test_a_container_that_cannot_start_names_what_to_do(see_job, state, reason, words):
    seen = see_job(job(active=1), pod(state, phase="Pending"))
    assert (seen.state, seen.problem_reason) == (JobState.PENDING, reason)
    assert words in seen.problem


def test_an_image_that_cannot_be_pulled_is_told_in_one_way_while_it_is_tried(see_job):
    cause = 'failed to resolve reference "registry.example/cai-jobs:1": not found'
    first = see_job(job(active=1), pod(waiting("ErrImagePull", cause), phase="Pending"))
    back_off = f'Back-off pulling image "{IMAGE}": ErrImagePull: {cause}'
    second = see_job(job(active=1), pod(waiting("ImagePullBackOff", back_off), phase="Pending"))
    assert first == second
    assert first.problem_reason == "ImagePullFailed"
    assert first.problem.startswith(f"image {IMAGE} cannot be pulled: {cause}; correct spec.stages.sft.image")


@pytest.mark.parametrize(
    ("message", "reason", "lacks_room", "words"),
    [
        (
            "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 "
            "nodes are available: 2 No preemption victims found for incoming pod.",
            "Unschedulable",
            True,
            "2 Insufficient nvidia.com/gpu; wait for room, add nodes or lower spec.stages.sft.resources or gpusPerNode",
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: not helpful",
            "Unschedulable",
            False,
            "check nodeSelector, tolerations and affinity in spec.template and spec.stages.sft.template",
        ),
        (
            '0/1 nodes are available: persistentvolumeclaim "mine" not found. not found',
            "VolumeMissing",
            False,
            "PersistentVolumeClaim mine does not exist: create it or correct spec.storage.claimName",
        ),
        (
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
            "VolumeUnbound",
            False,
            "kubectl describe pvc -n lab; check spec.storage.storageClassName and size",
        ),
    ],
)
def test_a_pod_no_node_takes_names_why(see_job, message, reason, lacks_room, words):
    seen = see_job(job(active=1), pod(made=-60, phase="Pending", conditions=unplaced(message)))
    assert (seen.state, seen.problem_reason, seen.lacks_room) == (JobState.PENDING, reason, lacks_room)
    assert words in seen.problem
    assert "preemption" not in seen.problem


def test_a_claim_gets_a_moment_to_find_its_volume(see_job):
    unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
    made = pod(made=-2, phase="Pending", conditions=unplaced(unbound))
    assert see_job(job(active=1), made).problem is None
    assert see_job(job(active=1), pod(made=-20, phase="Pending", conditions=unplaced(unbound))).problem is not None


def test_a_queue_is_named(see_job):
    queued = job({"suspend": True}, {"kueue.x-k8s.io/queue-name": "team-a"})
    seen = see_job(queued)
    assert (seen.state, seen.problem_reason) == (JobState.PENDING, "Queued")
    assert seen.problem == "waits for Kueue to admit it to queue team-a"
    assert see_job(job({"suspend": True})).problem_reason == "JobSuspended"


def test_a_quota_that_stops_pods_is_known_from_the_warning(see_job):
    text = 'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: cpu=2, used: cpu=3, limited: cpu=4'
    seen = see_job(job(), warnings={JOB: text})
    assert seen.problem_reason == "QuotaExceeded"
    assert "exceeded quota: gpus" in seen.problem
    assert "spec.stages.sft.resources" in seen.problem
    assert see_job(job(active=1), pod(RUNNING), warnings={JOB: text}).problem is None


def test_pod_security_is_known_from_the_warning(see_job):
    text = 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile'
    seen = see_job(job(), warnings={JOB: text})
    assert seen.problem_reason == "Refused"
    assert f"Pod Security level refuses the pods of Job {JOB}: " in seen.problem


# refusals


def test_a_refused_workload_shows_as_a_child_that_does_not_come_up(see):
    over = 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1'
    refusals = {
        JOB: over,
        SERVER: "spec.x: Invalid value",
    }
    observed = see(Children(), refusals=refusals)
    assert (observed.jobs[JOB].state, observed.jobs[JOB].problem_reason) == (JobState.PENDING, "QuotaExceeded")
    assert observed.servers[SERVER].problem_reason == "Refused"
    assert observed.servers[SERVER].problem == f"the API server refuses Deployment {SERVER}: spec.x: Invalid value"
    assert not observed.servers[SERVER].ready


def test_a_refusal_in_a_namespace_that_is_going_is_no_news(see):
    gone = "unable to create new content in namespace lab because it is being terminated"
    assert see(Children(), refusals={JOB: gone}).jobs == {}


def test_the_first_moments_of_a_namespace_are_no_trouble(see):
    early = 'pods "x-" is forbidden: error looking up service account lab/default: serviceaccount "default" not found'
    assert see(Children(), refusals={JOB: early}).jobs == {}
    named = see(Children(), refusals={JOB: early.replace("default", "trainer")}).jobs[JOB]
    assert named.problem_reason == "Refused"
    assert 'serviceaccount "trainer" not found' in named.problem


def test_a_refused_change_is_trouble_of_what_stands(see):
    refusals = {
        JOB: "field is immutable",
        SERVER: "spec.x: Invalid value",
    }
    observed = see(Children(jobs={JOB: job()}, deployments={SERVER: deployment()}), refusals=refusals)
    assert observed.jobs[JOB].problem == f"the API server refuses Job {JOB}: field is immutable"
    assert observed.servers[SERVER].problem == f"the API server refuses Deployment {SERVER}: spec.x: Invalid value"
    complete = job(succeeded=1, conditions=ended("Complete"))
    succeeded = see(Children(jobs={JOB: complete}), refusals=refusals)
    assert succeeded.jobs[JOB].problem is None
