"""Whether an object on the API server lacks something of the manifest it was made from.

The API server adds defaults, controllers add labels, queues add node selectors: what is there besides is no difference,
but in what selects pods and lets others in, where more would mean something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cai_operator.manifests.kinds import CLAIM, NETWORK_POLICY, SERVICE
from cai_operator.manifests.quantities import value

_QUANTITIES = frozenset({"limits", "requests"})
_EXACT = {SERVICE.kind: ("selector",), NETWORK_POLICY.kind: ("podSelector", "policyTypes", "ingress")}
_PASSED_OVER = frozenset({"apiVersion", "kind", "metadata", "status"})


def differs(wanted: Mapping[str, Any], observed: Mapping[str, Any]) -> bool:
    """Whether `observed`, as the API server gives it, lacks something that `wanted`, as this operator builds it, has.

    Labels, annotations, owners and everything but the status count. Quantities are the same if their values are; a
    claim may be larger than wanted, as no claim can shrink.
    """
    metadata, found = wanted["metadata"], observed.get("metadata", {})
    if not _covers(metadata.get("labels", {}), found.get("labels")):
        return True
    if not _covers(metadata.get("annotations", {}), found.get("annotations")):
        return True
    if not _covers(metadata.get("ownerReferences", []), found.get("ownerReferences")):
        return True
    for field in _EXACT.get(wanted["kind"], ()):
        if wanted["spec"].get(field) != observed.get("spec", {}).get(field):
            return True
    if wanted["kind"] == CLAIM.kind and _is_larger_claim(wanted, observed):
        observed = {**observed, "spec": {**observed["spec"], "resources": wanted["spec"]["resources"]}}
    return any(not _covers(part, observed.get(name)) for name, part in wanted.items() if name not in _PASSED_OVER)


def _covers(wanted: Any, observed: Any, field: str = "") -> bool:
    if observed is None:
        return wanted in ("", {}, [])  # the API server leaves out what is empty
    if isinstance(wanted, Mapping):
        if not isinstance(observed, Mapping):
            return False
        if field in _QUANTITIES:
            return all(name in observed and _same_quantity(part, observed[name]) for name, part in wanted.items())
        return all(_covers(part, observed.get(name), name) for name, part in wanted.items())
    if isinstance(wanted, list):
        return isinstance(observed, list) and _covers_list(wanted, observed)
    if field == "sizeLimit":
        return _same_quantity(wanted, observed)
    return bool(wanted == observed) and isinstance(wanted, bool) == isinstance(observed, bool)


def _covers_list(wanted: Sequence[Any], observed: Sequence[Any]) -> bool:
    if not all(isinstance(item, Mapping) for item in wanted):
        return list(wanted) == list(observed)
    if wanted and all("name" in item for item in wanted):
        by_name = {item.get("name"): item for item in observed}
        return all(_covers(item, by_name.get(item["name"], False)) for item in wanted)
    # without names: each finds its like behind that of the one before
    rest = iter(observed)
    return all(any(_covers(item, other) for other in rest) for item in wanted)


def _same_quantity(wanted: Any, observed: Any) -> bool:
    try:
        return value(wanted) == value(observed)
    except ValueError:
        return bool(wanted == observed)


def _is_larger_claim(wanted: Mapping[str, Any], observed: Mapping[str, Any]) -> bool:
    try:
        asked, found = (item["spec"]["resources"]["requests"]["storage"] for item in (wanted, observed))
        return value(found) > value(asked)
    except (KeyError, ValueError):
        return False
