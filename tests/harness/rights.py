"""What is lost with each right of the role that is shipped: the operator runs without it, before a real API server.

Every right has a namespace of its own, with a Role of all rights but that one, and a pipeline. One operator works in
all of them; those without which it does not even begin have an operator each. Then the rights are given back, the
operator is started anew, and every pipeline gets on: so it was the right that was missing and nothing else.

`python -m tests.harness.rights` prints the table of docs/security.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.harness.control_plane import WORKLOADS, ControlPlane
from tests.harness.fault_proxy import FaultProxy, reads_of
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.outcomes import IMAGE_MISSING, Outcome, Run
from tests.harness.pipelines import short
from tests.harness.player import Player

from cai_operator.manifests.kinds import (
    CLAIM,
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    LEASE,
    NETWORK_POLICY,
    PIPELINE,
    POD,
    SERVICE,
    ObjectKind,
)
from cai_operator.names import MANAGED_BY, MANAGED_BY_LABEL, PIPELINE_LABEL, WORKLOAD_LABEL

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "operator" / "install" / "3-role.yaml"
QUOTA = ObjectKind("v1", "ResourceQuota", "resourcequotas")
NAME = "short"
ACCOUNT = "operator"
PART_OF = "app.kubernetes.io/part-of"
PRINCIPLES = '[{"critique_request": "Is it kind?", "revision_request": "Make it kind."}]'
LINE = json.dumps({"progress": {"done": 17, "total": 192, "unit": "rows", "eta_s": 31.5, "metrics": {}}})

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
    is_mended: Look = field(default=lambda place: _phase(place) == "Succeeded")
    prepare: Look = field(default=lambda place: None)
    outcome: tuple[str, Outcome] | None = None
    meanwhile: Look = field(default=lambda place: True)
    after: Look = field(default=lambda place: None)
    from_start: bool = True
    has_own: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    right: Right
    lost: str
    shown_by: str

    def markdown(self) -> str:
        group, resource, verb = self.right
        return f"| `{verb}` | `{resource}{'.' + group if group else ''}` | {self.lost} | {self.shown_by} |"


def rights_of(path: Path = ROLE) -> list[Right]:
    """(API group, resource, verb) of all rules of a file's roles, in their order."""
    return [
        (group, resource, verb)
        for rule in _rules(path)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def removal_table(plane: ControlPlane) -> list[Row]:
    """Try every right, and say what each is needed for.

    Raises:
        AssertionError: without a right nothing was lost, or with it something still was.
    """
    rights = rights_of()
    assert set(rights) == set(TRIALS), set(rights) ^ set(TRIALS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cai-rights-")))
        client = stack.enter_context(plane.client())
        places = [stack.enter_context(_place(plane, client, right)) for right in rights]
        home = places[0].api.namespace
        for place in places:
            _bind(place.api, home, without=place.right if TRIALS[place.right].from_start else None)
            TRIALS[place.right].prepare(place)
        token = plane.token(home, ACCOUNT)
        proxy = stack.enter_context(FaultProxy(plane.url, plane.ca))
        proxy.answer_where_allowed(f"{LINE}\n", reads_of("pods/log"))
        shared = [place for place in places if not TRIALS[place.right].has_own]
        names = ",".join(place.api.namespace for place in shared)
        settings = {"CAI_LEASE_NAMESPACE": home, "CAI_PROGRESS_SECONDS": "1", "CAI_IDENTITY": "tried"}
        one = stack.enter_context(
            OperatorProcess(directory / "shared", proxy.url, token, settings={**settings, "CAI_NAMESPACES": names})
        )
        for place in shared:
            place.log = one.log
            place.forbidden = lambda its=place: _forbidden(proxy, its)
        _begin_without(shared)
        _try_alone([place for place in places if TRIALS[place.right].has_own], plane, token, directory, settings)
        for place in shared:
            wait_for(lambda its=place: TRIALS[its.right].meanwhile(its), f"{place.right}: what is done meanwhile")
        for place in shared:
            wait_for(lambda its=place: TRIALS[its.right].is_broken(its), f"something to be lost without {place.right}")
        shown = {place.right: "log or `Degraded`" if place.is_told() else "nothing" for place in places}
        one.kill()
        for place in places:
            _bind(place.api, home, without=None)
            TRIALS[place.right].after(place)
        names = ",".join(place.api.namespace for place in places)
        again = stack.enter_context(
            OperatorProcess(directory / "again", proxy.url, token, settings={**settings, "CAI_NAMESPACES": names})
        )
        for place in places:
            place.log = again.log
            wait_for(lambda its=place: TRIALS[its.right].is_mended(its), f"all to be well again with {place.right}")
    return [Row(right, TRIALS[right].lost, shown[right]) for right in rights]


def _begin_without(shared: Sequence[Place]) -> None:
    """Make the pipelines once the operator has listed what it watches, and take the rights away that it had for it."""
    late = [place for place in shared if not TRIALS[place.right].from_start]
    first = next(place for place in shared if place.right == ("", "events", "create"))
    first.api.create(PIPELINE, _pipeline())
    wait_for(lambda: _phase(first), "the operator to be at work")
    home = shared[0].api.namespace
    for place in late:
        _bind(place.api, home, without=place.right)
    for place in shared:
        if place is not first:
            place.api.create(PIPELINE, _pipeline())


def _try_alone(
    places: Sequence[Place], plane: ControlPlane, token: str, directory: Path, settings: Mapping[str, str]
) -> None:
    with ExitStack() as stack:
        for number, place in enumerate(places):
            place.api.create(PIPELINE, _pipeline())
            its = place.api.namespace
            own = {**settings, "CAI_NAMESPACES": its, "CAI_LEASE_NAMESPACE": its}
            process = OperatorProcess(directory / str(number), plane.url, token, plane.ca, own)
            place.log = stack.enter_context(process).log
        for place in places:
            wait_for(
                lambda its=place: its.is_told() and TRIALS[its.right].is_broken(its), f"{place.right} to be missed"
            )


@contextmanager
def _place(plane: ControlPlane, client: httpx.Client, right: Right) -> Iterator[Place]:
    with plane.namespace() as namespace, Player(plane, namespace) as player:
        outcome = TRIALS[right].outcome
        if outcome is not None:
            player.script(*outcome)
        api = Api(client, namespace)
        api.client.post(
            CONFIG_MAP.path(namespace),
            json={
                "metadata": {"name": "principles"},
                "data": {"critique_revision_instructions.json": PRINCIPLES},
            },
        ).raise_for_status()
        yield Place(right, api, player)


def _pipeline() -> dict[str, Any]:
    return short(NAME, spec={"constitution": {"configMap": {"name": "principles"}}})


def _bind(api: Api, home: str, without: Right | None) -> None:
    """Give the operator's account of the first namespace all rights here but one."""
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{api.namespace}"
    role = {"metadata": {"name": ACCOUNT}, "rules": list(_rules(ROLE, without))}
    if api.client.get(f"{base}/roles/{ACCOUNT}").status_code == 200:
        api.client.put(f"{base}/roles/{ACCOUNT}", json=role).raise_for_status()
        return
    accounts = f"/api/v1/namespaces/{home}/serviceaccounts"
    if api.namespace == home:
        api.client.post(accounts, json={"metadata": {"name": ACCOUNT}}).raise_for_status()
    api.client.post(f"{base}/roles", json=role).raise_for_status()
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}
    binding = {"metadata": {"name": ACCOUNT}, "roleRef": reference, "subjects": [subject]}
    api.client.post(f"{base}/rolebindings", json=binding).raise_for_status()


def _rules(path: Path, without: Right | None = None) -> Iterator[dict[str, Any]]:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        for rule in document.get("rules", []):
            ((group,), (resource,)) = rule["apiGroups"], rule["resources"]
            verbs = [verb for verb in rule["verbs"] if (group, resource, verb) != without]
            if verbs:
                yield {**rule, "verbs": verbs}


def _forbidden(proxy: FaultProxy, place: Place) -> int:
    group, resource, verb = place.right
    asked = [r for r in list(proxy.requests) if r.namespace == place.api.namespace and r.status == 403]
    return len([r for r in asked if (r.group, r.full_resource, r.verb) == (group, resource, verb)])


def _phase(place: Place) -> str | None:
    found: str | None = place.api.status(NAME).get("phase")
    return found


# What shows that something is lost


def _stalls(place: Place) -> bool:
    return place.is_told() and _phase(place) != "Succeeded"


def _is_untouched(place: Place) -> bool:
    return not place.api.status(NAME) and not place.api.list(JOB)


def _stays_drifted(kind: ObjectKind) -> Look:
    return lambda place: place.is_told() and any(_part_of(one) == "me" for one in _children(place, kind))


def _is_repaired(kind: ObjectKind) -> Look:
    return lambda place: (
        _phase(place) == "Succeeded" or {_part_of(one) for one in _children(place, kind)} == {MANAGED_BY}
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
    return lambda place: _phase(place) == "Succeeded" and place.api.get(kind, "old") is None


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
    return place.forbidden() > 0 and bool(_phase(place)) and not place.api.events(NAME)


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
            lambda place: _phase(place) == "Succeeded" and place.api.events(NAME),
            outcome=runs,
            after=_end_sl_data,
        ),
    )
    for verb in ("create", "get", "update"):
        prepare = _held_by_nobody if verb == "update" else (lambda _: None)
        sentence = "the operator does not become the one that works"
        yield ("coordination.k8s.io", "leases", verb), Trial(sentence, _is_untouched, prepare=prepare, has_own=True)


TRIALS: Mapping[Right, Trial] = dict(_trials())


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    head = "| without | of | this is lost | it is told by |\n|---|---|---|---|"
    return "\n".join([head, *(row.markdown() for row in rows)])


if __name__ == "__main__":
    with ControlPlane(controllers=WORKLOADS) as its_plane:
        its_plane.install_crds(ROOT / "crds")
        print(markdown(removal_table(its_plane)))
