"""Every state a CAIPipeline can show, each made by the operator's own code from children in the form real ones have."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tests.unit.operator.child_objects import (
    CREATING,
    IMAGE,
    JOB,
    NOW,
    RUNNING,
    SERVER,
    at,
    deployment,
    ended,
    job,
    pod,
    terminated,
    unplaced,
)
from tests.unit.operator.conftest import POCKET, FakeExecutor, merged

from cai_operator import conditions
from cai_operator.api import CAIPipeline, PipelineStatus
from cai_operator.engines import EngineError
from cai_operator.observing import Children, observe
from cai_operator.summary import refused_status
from cai_operator.validation import InvalidResource, parse_pipeline
from cai_operator.workloads import JobSeen, JobState, ServerSeen

Document = dict[str, Any]

SHORT: Document = {
    stage: {"enabled": False} for stage in ("rlData", "rewardModel", "ppo", "evaluate", "serve", "report")
}
UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
NO_CLAIM = '0/1 nodes are available: persistentvolumeclaim "data" not found. not found'
NO_GPUS = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
QUOTA = 'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: cpu=2, used: cpu=3, limited: cpu=4'
SECURITY = 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile'
INVALID: Document = {"stages": {"sft": {"overrides": {"learnin-rate": 1}}}}
NO_MOUNT = 'MountVolume.SetUp failed for volume "artifacts" : mount failed: exit status 32'


@dataclass(frozen=True)
class Shown:
    """A state: its name, what happened in a few words, and the resource as the API server would have it."""

    name: str
    what: str
    document: Document


def every_state() -> list[Shown]:
    """All of them, in the order of the health table."""
    return [*_before_and_after(), *_at_work(), *_held_up(), *_failed(), *_suspended(), *_finished()]


# ---- what a state is made of -----------------------------------------------------------------------------------------


def _short(**stages: Any) -> FakeExecutor:
    return _run({"stages": merged(SHORT, stages)})


def _run(spec: Document, capacity: int | None = None) -> FakeExecutor:
    document = merged(POCKET, {"metadata": {"namespace": "lab"}, "spec": spec})
    return FakeExecutor(parse_pipeline(document), capacity=capacity, now=NOW)


def _changed(pipeline: CAIPipeline, **spec: Any) -> CAIPipeline:
    return pipeline.model_copy(update={"spec": pipeline.spec.model_copy(update=spec)})


def _until(run: FakeExecutor, node: str) -> str:
    """Let everything go well until the Job of a node is there; its name."""
    rng = random.Random(0)
    for _ in range(200):
        run.reconcile()
        found = [name for name in run.jobs if run.workloads[name].node == node]
        if found:
            return found[0]
        run.step(rng)
    raise AssertionError(f"{node} never came up")


def _with_job(raw: Document, *pods: Document, **given: Any) -> FakeExecutor:
    """The short pipeline whose sft is seen as this Job with these pods is."""
    run = _short()
    name = _until(run, "sft")
    run.jobs[name] = _as_seen(run, name, raw, *pods, **given)
    run.reconcile()
    return run


def _as_seen(run: FakeExecutor, name: str, raw: Document, *pods: Document, **given: Any) -> JobSeen:
    children = Children(jobs={JOB: raw}, pods={one["metadata"]["name"]: one for one in pods})
    seen = _look(run, children, **given).jobs[JOB]
    problem = seen.problem and seen.problem.replace(JOB, name)
    log = seen.log and seen.log.replace(JOB, name)
    return replace(seen, name=name, problem=problem, log=log)


def _with_server(raw: Document, *pods: Document) -> FakeExecutor:
    """The short pipeline whose slData waits for a server that is seen so."""
    run = _short()
    rng = random.Random(0)
    while not run.servers:
        run.reconcile()
        run.step(rng)
    [name] = run.servers
    children = Children(deployments={SERVER: raw}, pods={one["metadata"]["name"]: one for one in pods})
    seen: ServerSeen = _look(run, children).servers[SERVER]
    run.servers[name] = replace(seen, name=name, key=run.workloads[name].key, problem=_named(seen, name))
    run.reconcile()
    return run


def _named(seen: ServerSeen, name: str) -> str | None:
    return seen.problem and seen.problem.replace(SERVER, name)


def _look(run: FakeExecutor, children: Children, **given: Any) -> Any:
    nothing = {"progress": {}, "refusals": {}, "warnings": {}, "texts": {}, "now": NOW}
    return observe(run.pipeline, children, **{**nothing, **given})


def _shown(name: str, what: str, run: FakeExecutor, **metadata: Any) -> Shown:
    assert run.problems == []
    document = _document(_given(run.pipeline), run.status.document(), **metadata)
    return _with_lasting_keys(run, Shown(name, what, document))


def _with_lasting_keys(run: FakeExecutor, shown: Shown) -> Shown:
    """The same with keys made of the nodes' names: real ones change with every default of a program."""
    text = json.dumps(shown.document)
    nodes = {workload.key: workload.node for workload in run.workloads.values()}
    nodes |= {node.key: node.name for stage in run.status.stages for node in stage.parts or (stage,) if node.key}
    for key, node in nodes.items():
        lasting = hashlib.sha256(node.encode()).hexdigest()[: len(key)]
        text = text.replace(key, lasting).replace(key[:8], lasting[:8])
    return replace(shown, document=json.loads(text))


def _given(pipeline: CAIPipeline) -> Document:
    """The spec as its author wrote it, defaults left out."""
    spec: Document = pipeline.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return spec


def _document(spec: Document, status: Document | None, **metadata: Any) -> Document:
    """As the API server has it, but for the spec's defaults and the status of stages that are off."""
    head = {"name": "tiny", "namespace": "lab", "generation": 1, "creationTimestamp": at(0), **metadata}
    document = {"apiVersion": "cai.dev/v1alpha1", "kind": "CAIPipeline", "metadata": head, "spec": spec}
    if status is None:
        return document
    stages = [stage for stage in status.get("stages", []) if stage["state"] != "Disabled"]
    return {**document, "status": {**status, "stages": stages}}


def _fail(run: FakeExecutor, name: str) -> None:
    run.fail(name)
    run.jobs[name] = replace(run.jobs[name], log=f"kubectl logs -n lab job/{name}")


# ---- the states ------------------------------------------------------------------------------------------------------


def _before_and_after() -> list[Shown]:
    done = _short()
    done.run()
    going = {"deletionTimestamp": at(90), "finalizers": ["foregroundDeletion"]}
    return [
        Shown("no-status", "just applied, or no operator runs", _document(_given(done.pipeline), None)),
        _shown("changed-spec", "the spec changed after it had succeeded", done, generation=2),
        _shown("being-deleted", "deleted, its children still going", done, **going),
    ]


def _at_work() -> list[Shown]:
    pending = _run({"stages": SHORT}, capacity=0)
    pending.reconcile()
    begun = _short()
    begun.reconcile()
    progress = _with_job(job(active=1, ready=1), pod(RUNNING), progress={JOB: _line(40, 60, 120)})
    counting = _with_job(job(active=1, ready=1), pod(RUNNING), progress={JOB: _line(40)})
    again = pod(terminated(1, {"error": "the loss is NaN"}), phase="Failed")
    retrying = _with_job(job(active=1, failed=1), again, pod(CREATING, made=60, phase="Pending"))
    queued = _short()
    queue = job({"suspend": True}, {"kueue.x-k8s.io/queue-name": "team-a"})
    queued.reconcile()
    for name in list(queued.jobs):
        queued.jobs[name] = _as_seen(queued, name, queue)
    queued.reconcile()
    loading = _with_server(deployment(replicas=1), pod(RUNNING, of=SERVER))
    older = _run({})
    older.run()
    older.pipeline = _changed(older.pipeline, seed=2)
    older.reconcile()
    return [
        _shown("pending", "nothing may start yet", pending),
        _shown("starting", "its first jobs are being made", begun),
        _shown("server-loading", "a stage waits for its server", loading),
        _shown("running", "a stage tells how far it is", progress),
        _shown("running-without-total", "a stage does not know how much there is to do", counting),
        _shown("queued", "Kueue has not let it in", queued),
        _shown("retrying", "an attempt failed, the next one comes", retrying),
        _shown("older-model-served", "the spec changed, and the model of before is served meanwhile", older),
    ]


def _line(done: int, total: int | None = None, eta: float | None = None) -> Document:
    return {"done": done, "total": total, "unit": "steps", "eta_s": eta, "metrics": {"loss": 0.5}}


def _held_up() -> list[Shown]:
    def waiting(reason: str, message: str) -> FakeExecutor:
        return _with_job(job(active=1), pod({"waiting": {"reason": reason, "message": message}}, phase="Pending"))

    def unplaceable(message: str) -> FakeExecutor:
        return _with_job(job(active=1), pod(made=-60, phase="Pending", conditions=unplaced(message)))

    def warned(warning: str, *pods: Document) -> FakeExecutor:
        return _with_job(job(active=1), *pods, warnings={JOB: warning})

    pull = f'Back-off pulling image "{IMAGE}": ErrImagePull: failed to resolve reference: not found'
    crashed = terminated(1, {"error": "the model directory is empty"})
    loop = {"waiting": {"reason": "CrashLoopBackOff"}}
    killed = terminated(137)
    killed["terminated"]["reason"] = "OOMKilled"
    out_of_memory = pod(loop, of=SERVER, last=killed, restarts=2)
    thrown_out = pod(terminated(137), phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    missing_text = _run({"constitution": {"configMap": {"name": "principles"}}, "stages": SHORT})
    missing_text.run()
    cases: tuple[tuple[str, str, FakeExecutor], ...] = (
        ("ImagePullFailed", "an image is not there", waiting("ImagePullBackOff", pull)),
        ("Unschedulable", "no node has room", unplaceable(NO_GPUS)),
        ("VolumeUnbound", "the claim has no volume yet", unplaceable(UNBOUND)),
        ("VolumeMissing", "`claimName` names no claim", unplaceable(NO_CLAIM)),
        ("VolumeNotMounted", "a node cannot mount it", warned(NO_MOUNT, pod(CREATING, phase="Pending"))),
        ("SecretMissing", "a Secret is not there", waiting("CreateContainerConfigError", 'secret "ngc" not found')),
        (
            "ConfigMapMissing",
            "a ConfigMap is not there",
            waiting("CreateContainerConfigError", 'configmap "settings" not found'),
        ),
        ("TextMissing", "the constitution is not there", missing_text),
        ("QuotaExceeded", "the ResourceQuota is used up", warned(QUOTA)),
        ("Refused", "the API server refuses pods", warned(SECURITY)),
        ("ContainerFailed", "a container cannot be started", waiting("RunContainerError", "exec: no such file")),
        ("CrashLooping", "a server ends again and again", _with_server(deployment(), _looping(crashed, loop))),
        ("OutOfMemory", "a server needs more memory", _with_server(deployment(), out_of_memory)),
        ("Evicted", "a node threw its pod out", _with_job(job(active=0), thrown_out)),
        ("JobSuspended", "somebody suspended a Job", _with_job(job({"suspend": True}))),
    )
    return [_shown(_kebab(reason), what, run) for reason, what, run in cases]


def _looping(last: Document, state: Document) -> Document:
    return pod(state, of=SERVER, last=last, restarts=2)


def _failed() -> list[Shown]:
    def job_failed(reason: str, *pods: Document, **status: Any) -> FakeExecutor:
        spec = {"activeDeadlineSeconds": 3600} if reason == "DeadlineExceeded" else {}
        failed = status.pop("failed", 1)
        return _with_job(
            job(spec, failed=failed, conditions=ended("Failed", reason, "Job has failed"), **status), *pods
        )

    def dead(code: int, message: Any = "", **more: Any) -> Document:
        return pod(terminated(code, message, **more), phase="Failed")

    killed = terminated(137)
    killed["terminated"]["reason"] = "OOMKilled"
    gate = _run({"stages": {"evaluate": {"gates": {"maxHarmfulRate": 0.05}}}})
    gate.run()
    partly = _run({})
    ppo = _until(partly, "ppo")
    base = next(name for name, seen in partly.jobs.items() if partly.workloads[name].node == "evaluateBase")
    partly.status = PipelineStatus()
    _fail(partly, base)
    partly.jobs[ppo] = replace(partly.jobs[ppo], state=JobState.RUNNING, progress=_line(3, 40, 240), started=NOW)
    partly.reconcile()
    return [
        _shown(
            "input-error", "exit code 2", job_failed("PodFailurePolicy", dead(2, {"error": "no rows in data.jsonl"}))
        ),
        _shown(
            "retries-exhausted",
            "it failed as often as `retries` allows",
            job_failed("BackoffLimitExceeded", dead(1, {"error": "the loss is NaN"}), failed=4),
        ),
        _shown("deadline-exceeded", "it took longer than `deadline`", job_failed("DeadlineExceeded")),
        _shown(
            "failed-out-of-memory",
            "it needs more memory, retries are used up",
            job_failed("BackoffLimitExceeded", pod(killed, phase="Failed"), failed=4),
        ),
        _shown("stage-failed", "its Job failed and nobody says why", job_failed("")),
        _shown("partly-failed", "a stage failed while another goes on", partly),
        _shown("gate-not-met", "the model is worse than `gates` allow", gate),
        _refused("spec-invalid", "an option its program does not have", INVALID),
        _refused("engine-unavailable", "the engine has not what is asked of it", {"engine": "nemo"}),
    ]


def _refused(name: str, what: str, spec: Document) -> Shown:
    document = merged(POCKET, {"metadata": {"namespace": "lab"}, "spec": spec})
    reason, why = _refusal(document)
    status = refused_status(document, PipelineStatus(), reason, why, NOW)
    return Shown(name, what, _document(document["spec"], status.document()))


def _refusal(document: Document) -> tuple[str, str]:
    """Why no plan can be made for a pipeline: the reason and the words, as the operator has them."""
    try:
        FakeExecutor(parse_pipeline(document)).reconcile()
    except InvalidResource as problem:
        return conditions.SPEC_INVALID, str(problem)
    except EngineError as problem:
        return conditions.ENGINE_UNAVAILABLE, str(problem)
    raise AssertionError("a plan can be made")


def _suspended() -> list[Shown]:
    def suspended(run: FakeExecutor) -> FakeExecutor:
        run.pipeline = _changed(run.pipeline, suspend=True)
        run.reconcile()
        return run

    failed = _short()
    _fail(failed, _until(failed, "sft"))
    failed.reconcile()
    running = _short()
    _until(running, "sft")
    return [
        _shown("suspended", "you asked for it", suspended(running)),
        _shown("suspended-after-failure", "you asked for it, and a stage had failed", suspended(failed)),
    ]


def _finished() -> list[Shown]:
    served, trained = _run({}), _short()
    served.run()
    trained.run()
    away = _run({})
    away.run()
    [name] = away.servers
    away.servers[name] = replace(away.servers[name], ready=False)
    away.now += timedelta(seconds=60)
    away.reconcile()
    refused = _run({})
    refused.run()
    [name] = refused.servers
    children = Children(deployments={SERVER: deployment()})
    seen: ServerSeen = _look(refused, children, refusals={SERVER: "spec.template: Invalid value"}).servers[SERVER]
    refused.servers[name] = replace(
        refused.servers[name], problem=_named(seen, name), problem_reason=seen.problem_reason
    )
    refused.reconcile()
    return [
        _shown("succeeded", "all stages are done, the model is served", served),
        _shown("succeeded-without-serving", "all stages are done, serve is off", trained),
        _shown("server-away", "the served model's pod is started again", away),
        _shown("served-and-refused", "the model is served, and a change of its server is refused", refused),
    ]


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("-")
