"""Who may connect to whom: two pipelines of one namespace, one of another, somebody else's pods, the operator's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.harness.network_model import Network, Pod, matches
from tests.harness.pipelines import merged
from tests.unit.security.pods import EXAMPLES, INSTALL, Object, documents, rendered, templates

OUTSIDE = Pod("outside", None, address="203.0.113.7")
STRANGER = Pod("stranger", "lab", {"app": "web"})
ELSEWHERE = Pod("elsewhere", "shop", {"app": "web"})
PRETENDER = Pod("pretender", "shop", {"cai.dev/pipeline": "one", "cai.dev/node": "rlData"})
SERVE, CRITIC, MODEL, JUDGE = 1427, 5567, 5999, 5998
RENDEZVOUS = 29500

HF = merged(
    documents(next(path for path in EXAMPLES if path.stem == "pocket"))[0],
    {"metadata": {"namespace": "lab"}, "spec": {"stages": {"sft": {"nodes": 2}}}},
)
NEMO = merged(
    documents(next(path for path in EXAMPLES if path.stem.startswith("llama")))[0], {"metadata": {"namespace": "lab"}}
)


def _named(document: Object, name: str, namespace: str = "lab") -> list[Object]:
    return rendered(merged(document, {"metadata": {"name": name, "namespace": namespace}}))


ONE, TWO, THREE = _named(HF, "one"), _named(NEMO, "two"), _named(HF, "one", "shop")
EVERYTHING = [*ONE, *TWO, *THREE]
NETWORK = Network(tuple(manifest for manifest in EVERYTHING if manifest["kind"] == "NetworkPolicy"))


def pods_of(manifests: list[Object]) -> list[Pod]:
    """The pods that Jobs and Deployments would make."""
    found = []
    for manifest in manifests:
        for name, template in templates([manifest]):
            (container,) = template["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
            found.append(Pod(name, manifest["metadata"]["namespace"], template["metadata"]["labels"], ports))
    return found


def is_kept(pod: Pod) -> bool:
    return pod.labels["cai.dev/node"] == "serve"


POD_SETS = {"one": pods_of(ONE), "two": pods_of(TWO), "three": pods_of(THREE)}
PODS = [pod for pods in POD_SETS.values() for pod in pods]


def test_every_pod_of_a_pipeline_is_selected_by_one_policy() -> None:
    assert len(PODS) > 50
    for pod in PODS:
        ours = [policy for policy in NETWORK.policies if policy["metadata"]["namespace"] == pod.namespace]
        assert len([policy for policy in ours if matches(policy["spec"]["podSelector"], pod.labels)]) == 1, pod.name


@pytest.mark.parametrize("name", POD_SETS)
def test_a_pipelines_own_pods_reach_each_other_on_every_port(name: str) -> None:
    for source in POD_SETS[name]:
        for target in POD_SETS[name]:
            open_to_it = {SERVE} if is_kept(target) else {SERVE, CRITIC, MODEL, JUDGE, RENDEZVOUS, 22}
            for port in (SERVE, CRITIC, MODEL, JUDGE, RENDEZVOUS, 22):
                assert NETWORK.allows(source, target, port) == (port in open_to_it), (source.name, target.name, port)


def test_nobody_else_reaches_them() -> None:
    strangers = (OUTSIDE, STRANGER, ELSEWHERE, PRETENDER)
    for name, targets in POD_SETS.items():
        sources = [*strangers, *(pod for other, pods in POD_SETS.items() if other != name for pod in pods)]
        # its labels are those of its own namespace's pipeline, of which it is then one
        sources = [pod for pod in sources if not (pod is PRETENDER and name == "three")]
        for source in sources:
            for target in targets:
                for port in (SERVE, CRITIC, MODEL, JUDGE, RENDEZVOUS, 22):
                    is_open = is_kept(target) and port == SERVE
                    assert NETWORK.allows(source, target, port) == is_open, (source, target.name, port)


def test_labels_are_what_it_goes_by_within_a_namespace() -> None:
    """Whoever may make pods beside a pipeline may label them as its own: docs/security.md says so."""
    (model,) = (pod for pod in POD_SETS["three"] if "sl-data-server" in pod.name)
    assert NETWORK.allows(PRETENDER, model, MODEL)


def test_programs_reach_whatever_they_like() -> None:
    """The hub, the judge, the volume's server: where they are is the cluster's knowledge. docs/security.md says so."""
    assert {tuple(policy["spec"]["policyTypes"]) for policy in NETWORK.policies} == {("Ingress",)}
    for pod in PODS:
        assert NETWORK.allows(pod, OUTSIDE, 443)
        assert NETWORK.allows(pod, ELSEWHERE, 80)


def test_a_policy_of_the_cluster_that_narrows_it_still_lets_a_pipeline_run() -> None:
    """What docs/security.md proposes: DNS, the pipeline's own pods, and https to the outside."""
    page = (INSTALL.parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
    proposed = _manifest_in(page, "kind: NetworkPolicy")
    network = Network((*NETWORK.policies, merged(proposed, {"metadata": {"namespace": "lab"}})))
    dns = Pod("dns", "kube-system", {"k8s-app": "kube-dns"}, address="10.0.0.10")
    metadata = Pod("metadata", None, address="169.254.169.254")
    for name in ("one", "two"):
        for pod in POD_SETS[name]:
            assert network.allows(pod, dns, 53, "UDP")
            assert network.allows(pod, OUTSIDE, 443)
            assert not network.allows(pod, metadata, 80)
            assert not network.allows(pod, ELSEWHERE, 80)
            assert all(network.allows(pod, other, SERVE) for other in POD_SETS[name])
    assert not any(network.allows(a, b, MODEL) for a in POD_SETS["one"] for b in POD_SETS["two"] if not is_kept(b))


def test_nothing_is_said_about_the_operators_pod() -> None:
    """It listens for the kubelet's probe and for Prometheus; the chart's policy opens these alone: docs/security.md."""
    manifests = [document for path in INSTALL.glob("*.yaml") for document in documents(path)]
    assert not [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    (deployment,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == ["health", "metrics"]


def _manifest_in(page: str, line: str) -> Object:
    import yaml

    blocks = page.split("```yaml\n")[1:]
    (block,) = (text.split("```")[0] for text in blocks if line in text.split("```")[0])
    manifest: Object = yaml.safe_load(block)
    return manifest


# The model itself, by the examples of the Kubernetes documentation

DB = Pod("db", "default", {"role": "db"}, {"redis": 6379}, "172.17.1.9")
FRONTEND = Pod("frontend", "default", {"role": "frontend"})
PROJECT = Pod("pod", "project", {})
DOCUMENTED: Mapping[str, Any] = {
    "metadata": {"namespace": "default"},
    "spec": {
        "podSelector": {"matchLabels": {"role": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [
                    {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                    {"namespaceSelector": {"matchLabels": {"project": "myproject"}}},
                    {"podSelector": {"matchLabels": {"role": "frontend"}}},
                ],
                "ports": [{"protocol": "TCP", "port": 6379}],
            }
        ],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "ports": [{"protocol": "TCP", "port": 5978}]}],
    },
}


@pytest.mark.parametrize(
    ("source", "target", "port", "protocol", "expected"),
    [
        (FRONTEND, DB, 6379, "TCP", True),
        (FRONTEND, DB, 6380, "TCP", False),
        (FRONTEND, DB, 6379, "UDP", False),
        (Pod("other", "default", {}), DB, 6379, "TCP", False),
        (Pod("frontend", "project", {"role": "frontend"}), DB, 6379, "TCP", True),
        (Pod("frontend", "elsewhere", {"role": "frontend"}), DB, 6379, "TCP", False),
        (PROJECT, DB, 6379, "TCP", True),
        (Pod("x", None, address="172.17.2.1"), DB, 6379, "TCP", True),
        (Pod("x", None, address="172.17.1.1"), DB, 6379, "TCP", False),
        (DB, Pod("x", None, address="10.0.0.7"), 5978, "TCP", True),
        (DB, Pod("x", None, address="10.0.1.7"), 5978, "TCP", False),
        (DB, FRONTEND, 80, "TCP", False),
        (FRONTEND, PROJECT, 80, "TCP", True),
    ],
)
def test_the_model_on_the_documented_example(
    source: Pod, target: Pod, port: int, protocol: str, expected: bool
) -> None:
    network = Network((DOCUMENTED,), {"project": {"project": "myproject"}})
    assert network.allows(source, target, port, protocol) == expected


@pytest.mark.parametrize(
    ("spec", "port", "expected"),
    [
        ({"podSelector": {}, "ingress": [{}]}, 1, True),
        ({"podSelector": {}, "policyTypes": ["Ingress"]}, 1, False),
        ({"podSelector": {"matchLabels": {"role": "db"}}, "policyTypes": ["Egress"]}, 1, True),
        ({"podSelector": {}, "ingress": [{"ports": [{"port": "redis"}]}]}, 6379, True),
        ({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]}, 6379, False),
        ({"podSelector": {}, "ingress": [{"ports": [{"port": 6000, "endPort": 6500}]}]}, 6379, True),
        ({"podSelector": {}, "ingress": [{"ports": [{"protocol": "TCP"}]}]}, 9, True),
        ({"podSelector": {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["db"]}]}}, 1, True),
        ({"podSelector": {"matchExpressions": [{"key": "role", "operator": "Exists"}]}}, 1, False),
    ],
)
def test_the_model_on_single_rules(spec: Object, port: int, expected: bool) -> None:
    network = Network(({"metadata": {"namespace": "default"}, "spec": spec},))
    assert network.allows(FRONTEND, DB, port) == expected
