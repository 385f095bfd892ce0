"""What is tried without each right of the operator's role, and what shows that something is lost; see `rights.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.harness.objects import Api, wait_for
from tests.harness.outcomes import IMAGE_MISSING, Outcome, Run
from tests.harness.player import Player

from cai_operator.manifests.kinds import (
    CLAIM,
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    LEASE,
    NETWORK_POLICY,
    POD,
    SERVICE,
    ObjectKind,
)
from cai_operator.names import MANAGED_BY, MANAGED_BY_LABEL, PIPELINE_LABEL, WORKLOAD_LABEL

QUOTA = ObjectKind("v1", "ResourceQuota", "resourcequotas")
NAME = "short"
PART_OF = "app.kubernetes.io/part-of"

Right = tuple[str, str, str]
Look = Callable[["Place"], Any]


@dataclass
class Place:
    """One right's namespace: its objects, who plays its pods, and what its operator said and was refused."""

    right: Right
    api: Api
    player: Player
    log: Callable[[], str] = lambda: ""
    forbidden: Callable[[], int] = lambda: 0

    @property
    def words(self) -> str:
        """What the API server says where the right is missing."""
        group, resource, verb = self.right
        return f'cannot {verb} resource "{resource}" in API group "{group}" in the namespace "{self.api.namespace}"'

    def is_told(self) -> bool:
        """Whether somebody who looks finds the missing right named: in the operator's log, or in the pipeline."""
        return self.words in self.log() or self.words in str(self.api.condition(NAME, "Degraded").get("message"))


@dataclass(frozen=True)
class Trial:
    """What is tried without a right.

    Attributes:
        lost: what is lost, as a sentence.
        is_broken: whether it shows; looked at until it does.
        is_mended: whether all is well, once the right is there again.
        prepare: what is done in the namespace first.
        outcome: what becomes of a node's first pod, if it does not just succeed.
        meanwhile: what is done while the operator lacks the right; looked at until it is done.
        after: what is done once the right is there again.
        from_start: whether the operator lacks it when it begins.
        has_own: whether it is tried by an operator of its own.
    """

    lost: str
    is_broken: Look
    is_mended: Look = field(default=lambda place: phase(place) == "Succeeded")
    prepare: Look = field(default=lambda place: None)
    outcome: tuple[str, Outcome] | None = None
    meanwhile: Look = field(default=lambda place: True)
    after: Look = field(default=lambda place: None)
    from_start: bool = True
    has_own: bool = False


def phase(place: Place) -> str | None:
    """The phase of the place's pipeline, None before it has one."""
    found: str | None = place.api.status(NAME).get("phase")
    return found


# What shows that something is lost


def _stalls(place: Place) -> bool:
    return place.is_told() and phase(place) != "Succeeded"


def _is_untouched(place: Place) -> bool:
    return not place.api.status(NAME) and not place.api.list(JOB)


def _stays_drifted(kind: ObjectKind) -> Look:
    return lambda place: place.is_told() and any(_part_of(one) == "me" for one in _children(place, kind))


def _is_repaired(kind: ObjectKind) -> Look:
    return lambda place: (
        phase(place) == "Succeeded" or {_part_of(one) for one in _children(place, kind)} == {MANAGED_BY}
    )


def _drift(kind: ObjectKind) -> Look:
    """Change a child by hand while slData runs, when the operator looks every second."""

    def change(place: Place) -> bool:
        if not place.player.running("slData") or not _children(place, kind):
            return False
        for child in _children(place, kind):
            place.api.patch(kind, child["metadata"]["name"], {"metadata": {"labels": {PART_OF: "me"}}})
        return True

    return change


def _children(place: Place, kind: ObjectKind) -> list[dict[str, Any]]:
    return place.api.list(kind, **{PIPELINE_LABEL: NAME})


def _part_of(child: Mapping[str, Any]) -> str:
    return str(child["metadata"]["labels"].get(PART_OF))


def _left_over(kind: ObjectKind) -> Look:
    """Something that an earlier version of the operator made, and that nobody wants any more."""
    labels = {PIPELINE_LABEL: NAME, MANAGED_BY_LABEL: MANAGED_BY, PART_OF: MANAGED_BY}
    pod = {"metadata": {"labels": {"app": "old"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    job_pod = {"spec": {**pod["spec"], "restartPolicy": "Never"}}
    specs: Mapping[ObjectKind, dict[str, Any]] = {
        JOB: {"spec": {"suspend": True, "template": job_pod}},
        DEPLOYMENT: {"spec": {"replicas": 0, "selector": {"matchLabels": {"app": "old"}}, "template": pod}},
        SERVICE: {"spec": {"ports": [{"port": 1}]}},
        CONFIG_MAP: {"data": {}},
        NETWORK_POLICY: {"spec": {"podSelector": {"matchLabels": {"app": "old"}}, "policyTypes": ["Ingress"]}},
    }
    if kind in (JOB, DEPLOYMENT):
        labels[WORKLOAD_LABEL] = "old"
    metadata = {"name": "old", "labels": labels}
    return lambda place: place.api.create(kind, {"metadata": metadata, **specs[kind]})


def _is_left(kind: ObjectKind) -> Look:
    return lambda place: _stalls(place) and place.api.get(kind, "old") is not None


def _is_cleared(kind: ObjectKind) -> Look:
    return lambda place: phase(place) == "Succeeded" and place.api.get(kind, "old") is None


def _no_room(place: Place) -> None:
    place.api.create(QUOTA, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    wait_for(lambda: (place.api.get(QUOTA, "none") or {}).get("status", {}).get("hard"), "the quota to be in force")


def _names_the_reason(place: Place) -> bool:
    return place.api.condition(NAME, "Degraded").get("status") == "True"


def _ends_in_vain(place: Place) -> bool:
    ended = [job for job in _children(place, JOB) if job.get("status", {}).get("succeeded")]
    return place.is_told() and bool(ended) and place.api.node(NAME, "sft").get("state") != "Succeeded"


def _is_ready_in_vain(place: Place) -> bool:
    ready = [one for one in _children(place, DEPLOYMENT) if one.get("status", {}).get("readyReplicas")]
    return place.is_told() and bool(ready) and not place.player.jobs.get("slData")


def _pods_fail_in_vain(place: Place) -> bool:
    pods = place.api.list(POD, **{PIPELINE_LABEL: NAME})
    waits = [pod for pod in pods if any("waiting" in c["state"] for c in pod["status"].get("containerStatuses", ()))]
    return place.is_told() and bool(waits) and not _names_the_reason(place)


def _says_nothing(place: Place) -> bool:
    return place.forbidden() > 0 and bool(phase(place)) and not place.api.events(NAME)


def _shows_no_progress(place: Place) -> bool:
    node = place.api.node(NAME, "slData")
    return place.forbidden() > 1 and node.get("state") == "Running" and "progress" not in node


def _held_by_nobody(place: Place) -> None:
    lease = {"metadata": {"name": "cai-operator"}, "spec": {"holderIdentity": "", "leaseDurationSeconds": 15}}
    place.api.create(LEASE, lease)


def _end_sl_data(place: Place) -> None:
    place.player.end("slData")


def _trials() -> Iterator[tuple[Right, Trial]]:
    cai, none = "cai.dev", "nothing is looked at: the operator cannot begin"
    runs = ("slData", Run())
    yield (cai, "caipipelines", "list"), Trial(none, _is_untouched, has_own=True)
    yield (cai, "caipipelines", "watch"), Trial("a new or changed pipeline is not noticed", _is_untouched)
    yield (cai, "caipipelines", "get"), Trial("nothing is made: the pipeline is read once more before it is", _stalls)
    yield (cai, "caipipelines/status", "patch"), Trial("no status is written, and nothing goes on from it", _stalls)
    for kind, what in (
        (JOB, "no program runs"),
        (DEPLOYMENT, "no server comes up, and what needs one waits"),
        (SERVICE, "servers have no address, and what needs one waits"),
        (CONFIG_MAP, "programs have no texts, and do not start"),
        (CLAIM, "there is no volume, and nothing starts"),
        (NETWORK_POLICY, "there is no NetworkPolicy, and without it nothing starts"),
    ):
        group = kind.api_version.rpartition("/")[0]
        yield (group, kind.plural, "create"), Trial(what, _stalls)
        yield (group, kind.plural, "patch"), Trial(f"{what}: apply is a patch", _stalls)
        if kind != JOB:
            sentence = "nothing is made where a name may be taken: somebody's object would be taken over"
            yield (group, kind.plural, "list"), Trial(sentence, _stalls, from_start=False)
        if kind not in (JOB, DEPLOYMENT):
            yield (
                (group, kind.plural, "watch"),
                Trial(
                    "what is changed or deleted by hand is not mended",
                    _stays_drifted(kind),
                    outcome=runs,
                    meanwhile=_drift(kind),
                    after=_end_sl_data,
                ),
            )
        if kind != CLAIM:
            sentence = "what is not wanted any more stays, and the pipeline with it"
            yield (
                (group, kind.plural, "delete"),
                Trial(sentence, _is_left(kind), _is_cleared(kind), prepare=_left_over(kind)),
            )
    yield ("batch", "jobs", "list"), Trial(none, _is_untouched, has_own=True)
    yield ("batch", "jobs", "watch"), Trial("that a program has ended is not noticed", _ends_in_vain)
    yield ("apps", "deployments", "watch"), Trial("that a server is ready is not noticed", _is_ready_in_vain)
    yield ("", "configmaps", "get"), Trial("a constitution of one's own is not read, and nothing starts", _stalls)
    yield ("", "pods", "list"), Trial(none, _is_untouched, has_own=True)
    yield (
        ("", "pods", "watch"),
        Trial(
            "why a pod does not start is not shown",
            _pods_fail_in_vain,
            _names_the_reason,
            outcome=("models", IMAGE_MISSING),
        ),
    )
    yield (
        ("", "pods/log", "get"),
        Trial("there is no progress and no time left", _shows_no_progress, outcome=runs, after=_end_sl_data),
    )
    yield (
        ("", "events", "list"),
        Trial("why a Job has no pods, a quota for one, is not shown", _stalls, _names_the_reason, prepare=_no_room),
    )
    yield (
        ("", "events", "create"),
        Trial(
            "nothing is told by events",
            _says_nothing,
            lambda place: phase(place) == "Succeeded" and place.api.events(NAME),
            outcome=runs,
            after=_end_sl_data,
        ),
    )
    for verb in ("create", "get", "update"):
        prepare = _held_by_nobody if verb == "update" else (lambda _: None)
        sentence = "the operator does not become the one that works"
        yield ("coordination.k8s.io", "leases", verb), Trial(sentence, _is_untouched, prepare=prepare, has_own=True)


TRIALS: Mapping[Right, Trial] = dict(_trials())
