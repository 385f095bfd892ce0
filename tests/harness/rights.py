"""What is lost with each right of the role that is shipped: the operator runs without it, before a real API server.

Every right has a namespace of its own, with a Role of all rights but that one, and a pipeline. One operator works in
all of them; those without which it does not even begin have an operator each. Then the rights are given back, the
operator is started anew, and every pipeline gets on: so it was the right that was missing and nothing else. What is
tried with each is in `rights_trials.py`.

`python -m tests.harness.rights` prints the table of docs/security.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.harness.control_plane import WORKLOADS, ControlPlane
from tests.harness.fault_proxy import FaultProxy, reads_of
from tests.harness.objects import Api, wait_for
from tests.harness.operator_process import OperatorProcess
from tests.harness.pipelines import short
from tests.harness.player import Player
from tests.harness.rights_trials import NAME, TRIALS, Place, Right, phase

from cai_operator.manifests.kinds import CONFIG_MAP, PIPELINE

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "operator" / "install" / "3-role.yaml"
ACCOUNT = "operator"
PRINCIPLES = '[{"critique_request": "Is it kind?", "revision_request": "Make it kind."}]'
LINE = json.dumps({"progress": {"done": 17, "total": 192, "unit": "rows", "eta_s": 31.5, "metrics": {}}})
SETTINGS: Mapping[str, str] = {
    "CAI_PROGRESS_SECONDS": "1",
    "CAI_IDENTITY": "tried",
    # what a watch does not tell is found in the end; not while we look
    "CAI_RESYNC_SECONDS": "3600",
}


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
        settings = {**SETTINGS, "CAI_LEASE_NAMESPACE": home}
        one = stack.enter_context(
            OperatorProcess(directory / "shared", proxy.url, token, settings={**settings, "CAI_NAMESPACES": names})
        )
        for place in shared:
            place.log = one.log
            place.forbidden = lambda its=place: _forbidden(proxy, its)
        _begin_without(shared)
        _try_alone([place for place in places if TRIALS[place.right].has_own], plane, token, directory)
        for place in shared:
            wait_for(lambda its=place: TRIALS[its.right].meanwhile(its), f"{place.right}: what is done meanwhile")
        for place in shared:
            wait_for(lambda its=place: TRIALS[its.right].is_broken(its), f"something to be lost without {place.right}")
        found = [place.right for place in shared if not TRIALS[place.right].is_broken(place)]
        assert found == [], "it only took longer without these"
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
    wait_for(lambda: phase(first), "the operator to be at work")
    home = shared[0].api.namespace
    for place in late:
        _bind(place.api, home, without=place.right)
    for place in shared:
        if place is not first:
            place.api.create(PIPELINE, _pipeline())


def _try_alone(places: Sequence[Place], plane: ControlPlane, token: str, directory: Path) -> None:
    with ExitStack() as stack:
        for number, place in enumerate(places):
            place.api.create(PIPELINE, _pipeline())
            its = place.api.namespace
            own = {**SETTINGS, "CAI_NAMESPACES": its, "CAI_LEASE_NAMESPACE": its}
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


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    head = "| without | of | this is lost | it is told by |\n|---|---|---|---|"
    return "\n".join([head, *(row.markdown() for row in rows)])


if __name__ == "__main__":
    with ControlPlane(controllers=WORKLOADS) as its_plane:
        its_plane.install_crds(ROOT / "crds")
        print(markdown(removal_table(its_plane)))
