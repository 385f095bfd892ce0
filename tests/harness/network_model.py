"""Which pod may connect to which, by the NetworkPolicies there are: a model, as the tests' node enforces none.

After https://kubernetes.io/docs/concepts/services-networking/network-policies/ and the API reference: a pod that no
policy selects for a direction is open in it; else a connection needs one rule, of any policy that selects the pod,
that names both its peer and its port. Both ends have to allow it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod, or something outside the cluster (`namespace` None), which only an ipBlock names."""

    name: str
    namespace: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str = ""


@dataclass(frozen=True)
class Network:
    """The policies of a cluster, and the labels of its namespaces (each has its name's label anyway)."""

    policies: tuple[Object, ...]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def allows(self, source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
        """Whether `source` may open a connection to a port of `target`."""
        return self._lets("Egress", source, target, target, port, protocol) and self._lets(
            "Ingress", target, source, target, port, protocol
        )

    def _lets(
        self, direction: Literal["Ingress", "Egress"], pod: Pod, peer: Pod, target: Pod, port: int, protocol: str
    ) -> bool:
        selecting = [policy for policy in self.policies if self._selects(policy, direction, pod)]
        if not selecting:
            return True
        word, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
        return any(
            _names_port(rule.get("ports"), target, port, protocol)
            and (not rule.get(peers) or any(self._is_peer(one, peer, policy) for one in rule[peers]))
            for policy in selecting
            for rule in policy["spec"].get(word) or ()
        )

    def _selects(self, policy: Object, direction: str, pod: Pod) -> bool:
        if pod.namespace is None or policy["metadata"]["namespace"] != pod.namespace:
            return False
        given = policy["spec"].get("policyTypes")
        types = given or ["Ingress", *(["Egress"] if "egress" in policy["spec"] else [])]
        return direction in types and matches(policy["spec"].get("podSelector") or {}, pod.labels)

    def _is_peer(self, wanted: Object, peer: Pod, policy: Object) -> bool:
        if "ipBlock" in wanted:
            block, address = wanted["ipBlock"], ipaddress.ip_address(peer.address or "0.0.0.0")
            excepted = any(address in ipaddress.ip_network(one) for one in block.get("except") or ())
            return bool(peer.address) and address in ipaddress.ip_network(block["cidr"]) and not excepted
        if peer.namespace is None:
            return False
        if "namespaceSelector" in wanted:
            labels = {"kubernetes.io/metadata.name": peer.namespace, **self.namespaces.get(peer.namespace, {})}
            if not matches(wanted["namespaceSelector"], labels):
                return False
        elif peer.namespace != policy["metadata"]["namespace"]:
            return False
        return matches(wanted.get("podSelector") or {}, peer.labels)


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all.

    Raises:
        KeyError: an operator there is not.
    """
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    tests = {
        "In": lambda name, values: labels.get(name) in values,
        "NotIn": lambda name, values: labels.get(name) not in values,
        "Exists": lambda name, _: name in labels,
        "DoesNotExist": lambda name, _: name not in labels,
    }
    return all(
        tests[one["operator"]](one["key"], one.get("values") or ()) for one in selector.get("matchExpressions") or ()
    )


def _names_port(ports: Iterable[Object] | None, target: Pod, port: int, protocol: str) -> bool:
    if not ports:
        return True
    for one in ports:
        if one.get("protocol", "TCP") != protocol:
            continue
        given = one.get("port")
        first = target.ports.get(given) if isinstance(given, str) else given
        if given is None or (first is not None and first <= port <= one.get("endPort", first)):
            return True
    return False
