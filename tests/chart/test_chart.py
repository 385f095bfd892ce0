"""What the chart renders: the same operator as operator/install, the same rights, and what each value sets."""

from __future__ import annotations

import copy
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness.chart import (
    CHART,
    EVERYTHING,
    ROOT,
    SYSTEM,
    Object,
    environment,
    helm,
    is_test,
    of_kind,
    render,
    the,
)

from cai_operator.crd.chart_readme import rows_of
from cai_operator.crd.definition import definition
from cai_operator.local_run import load
from cai_operator.manifests.site import JudgeSecret
from cai_operator.plan import node_keys
from cai_operator.settings import VARIABLES, read_settings

INSTALL = ROOT / "operator" / "install"


def installed(name: str) -> list[Object]:
    return list(yaml.safe_load_all((INSTALL / name).read_text()))


def container_of(objects: list[Object]) -> Object:
    (container,) = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


class TestTheSameAsWithKubectl:
    def test_the_definition_is_the_one_in_crds(self, default: list[Object]) -> None:
        found = the(default, "CustomResourceDefinition")
        assert found["spec"] == definition()["spec"]
        assert found["metadata"]["name"] == definition()["metadata"]["name"]
        assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}

    def test_the_operator_has_the_same_rights(self, default: list[Object]) -> None:
        roles = {role["kind"]: role for role in installed("3-role.yaml") if "rules" in role}
        (cluster_wide,) = (
            role for role in of_kind(default, "ClusterRole") if role["metadata"]["name"] == "cai-operator"
        )
        assert cluster_wide["rules"] == roles["ClusterRole"]["rules"]
        assert the(default, "Role")["rules"] == roles["Role"]["rules"]

    def test_bindings_give_them_to_its_account_and_nobody_else(self, default: list[Object]) -> None:
        account = {"kind": "ServiceAccount", "name": "cai-operator", "namespace": SYSTEM}
        bindings = [*of_kind(default, "ClusterRoleBinding"), *of_kind(default, "RoleBinding")]
        assert [(one["roleRef"]["kind"], one["roleRef"]["name"], one["subjects"]) for one in bindings] == [
            ("ClusterRole", "cai-operator", [account]),
            ("Role", "cai-operator-lease", [account]),
        ]

    def test_its_pod_is_the_same_but_for_settings_at_their_defaults(self, default: list[Object]) -> None:
        (theirs,) = installed("4-operator.yaml")
        ours = the(default, "Deployment")
        assert ours["spec"]["strategy"] == theirs["spec"]["strategy"] == {"type": "Recreate"}
        pods = [copy.deepcopy(one["spec"]["template"]["spec"]) for one in (ours, theirs)]
        variables = [{env["name"]: env for env in pod["containers"][0].pop("env")} for pod in pods]
        ports = [{port["name"] for port in pod["containers"][0].pop("ports")} for pod in pods]
        assert pods[0] == pods[1]
        assert ports[1] <= ports[0]
        for added in variables[0].keys() - variables[1].keys():
            variables[1][added] = variables[0][added]
        settings = [
            read_settings({name: env.get("value", "x") for name, env in each.items()} | {"CAI_LEASE_NAMESPACE": SYSTEM})
            for each in variables
        ]
        assert settings[0].site.images["hf"] == "cai-jobs:dev"
        assert settings[0] == settings[1]


class TestSettings:
    def test_every_setting_has_a_value(self, default: list[Object]) -> None:
        assert {name for name in environment(default) if name.startswith("CAI_")} == set(VARIABLES)

    def test_the_defaults_are_the_operators_own(self, default: list[Object]) -> None:
        given = environment(default)
        own = read_settings({"CAI_IDENTITY": given["CAI_IDENTITY"], "CAI_LEASE_NAMESPACE": SYSTEM, **_metrics(given)})
        assert read_settings(given) == own

    def test_the_operator_reads_what_is_set(self, everything: list[Object]) -> None:
        found = read_settings(environment(everything))
        assert (found.site.run_as_user, found.site.job_ttl_s) == (1234, 2_000_000_000)
        assert (found.log_format, found.progress_s) == ("json", 0.5)
        assert found.site.pull_secrets == ("pull", "second")
        assert found.site.judge_secret == JudgeSecret("judge", "api-key", "https://judge.example/v1/chat/completions")

    def test_large_numbers_stay_whole(self) -> None:
        settings = {"resyncSeconds": 30_000_000, "workers": 2_000_000, "runAsUser": 1_000_660_000}
        given = environment(render({"settings": settings}))
        assert (given["CAI_RESYNC_SECONDS"], given["CAI_WORKERS"]) == ("30000000", "2000000")
        assert given["CAI_RUN_AS_USER"] == "1000660000"

    def test_a_decimal_may_come_from_the_command_line(self) -> None:
        assert environment(render({}, "--set", "settings.progressSeconds=0.5"))["CAI_PROGRESS_SECONDS"] == "0.5"

    def test_no_probes_without_a_health_port(self) -> None:
        container = container_of(render({"settings": {"healthPort": 0}, "metrics": {"enabled": False}}))
        assert not {"livenessProbe", "readinessProbe", "ports"} & set(container)

    def test_every_other_lease_may_be_used(self) -> None:
        objects = render({"settings": {"leaseName": "second"}})
        assert environment(objects)["CAI_LEASE_NAME"] == "second"
        named = [rule["resourceNames"] for rule in the(objects, "Role")["rules"] if "resourceNames" in rule]
        assert named == [["second"]]


def _metrics(given: dict[str, str]) -> dict[str, str]:
    return {name: given[name] for name in ("CAI_METRICS_PORT",) if name in given}


class TestImages:
    def test_a_digest_takes_the_place_of_the_tag(self, everything: list[Object]) -> None:
        assert container_of(everything)["image"] == f"registry.example:5000/team/cai-operator@sha256:{'a' * 64}"
        assert environment(everything)["CAI_IMAGE_HF"] == f"registry.example:5000/team/cai-jobs@sha256:{'b' * 64}"
        assert environment(everything)["CAI_IMAGE_NEMO"] == "registry.example:5000/team/cai-nemo:25.02"

    def test_the_test_runs_in_the_operators_image(self, everything: list[Object]) -> None:
        (pod,) = (one for one in everything if one["kind"] == "Pod")
        assert pod["spec"]["containers"][0]["image"] == container_of(everything)["image"]
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]


class TestNamespaces:
    TEAMS = ("team-a", "team-b")

    def test_only_the_named_ones_are_served(self) -> None:
        objects = render({"watchNamespaces": list(self.TEAMS), "rbac": {"aggregate": False}})
        assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []
        assert environment(objects)["CAI_NAMESPACES"] == "team-a,team-b"
        roles = {role["metadata"]["namespace"]: role["rules"] for role in of_kind(objects, "Role")}
        (shipped,) = (role for role in installed("3-role.yaml") if role["kind"] == "ClusterRole")
        assert [roles[team] for team in self.TEAMS] == [shipped["rules"]] * 2
        assert set(roles) == {*self.TEAMS, SYSTEM}
        bound = {
            one["metadata"]["namespace"]: one["subjects"][0]["namespace"] for one in of_kind(objects, "RoleBinding")
        }
        assert bound == dict.fromkeys((*self.TEAMS, SYSTEM), SYSTEM)

    def test_the_releases_own_may_be_among_them(self) -> None:
        objects = render({"watchNamespaces": [SYSTEM]})
        assert _identities(objects) == sorted(set(_identities(objects)))

    def test_the_test_runs_where_the_operator_looks(self) -> None:
        objects = render({"watchNamespaces": list(self.TEAMS)})
        (texts,) = (one for one in objects if one["kind"] == "ConfigMap" and is_test(one))
        assert yaml.safe_load(texts["data"]["pipeline.yaml"])["metadata"]["namespace"] == "team-a"
        roles = [one for one in objects if one["kind"] in ("Role", "RoleBinding") and is_test(one)]
        assert [one["metadata"]["namespace"] for one in roles] == ["team-a", "team-a"]

    def test_nothing_belongs_to_the_whole_cluster_where_that_is_not_allowed(self) -> None:
        objects = render(
            {"watchNamespaces": ["team-a"], "crds": {"install": False}, "rbac": {"aggregate": False}}, release="own"
        )
        assert [one["kind"] for one in objects if "namespace" not in one["metadata"]] == []


@pytest.mark.parametrize(
    "values", [{}, EVERYTHING, {"settings": {"runAsUser": "none"}}], ids=["default", "all", "user"]
)
def test_every_pod_is_restricted(values: dict[str, Any]) -> None:
    objects = render(values)
    pods = [one["spec"]["template"]["spec"] for one in of_kind(objects, "Deployment")]
    pods += [one["spec"] for one in objects if one["kind"] == "Pod"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert ("runAsUser" in pod["securityContext"]) == (values != {"settings": {"runAsUser": "none"}})
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= set(container["resources"])


def test_what_is_common_is_on_every_object(everything: list[Object]) -> None:
    for one in everything:
        assert one["metadata"]["labels"]["team"] == "platform", one["kind"]
        assert one["metadata"]["annotations"]["example.com/owner"] == "platform", one["kind"]
    template = the(everything, "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"]["sidecar"] == "none"
    assert template["metadata"]["annotations"]["example.com/scrape"] == "yes"


def test_the_selector_is_not_to_be_changed_by_labels() -> None:
    deployment = the(
        render({"commonLabels": {"app.kubernetes.io/name": "x"}, "podLabels": {"helm.sh/chart": "x"}}), "Deployment"
    )
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["app.kubernetes.io/name"] == "cai-operator"


def test_placement_and_extras_reach_the_pod(everything: list[Object]) -> None:
    pod = the(everything, "Deployment")["spec"]["template"]["spec"]
    for field in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[field] == EVERYTHING[field], field
    (spread,) = pod["topologySpreadConstraints"]
    assert spread.pop("labelSelector") == the(everything, "Deployment")["spec"]["selector"]
    assert [spread] == EVERYTHING["topologySpreadConstraints"]
    assert pod["runtimeClassName"] == "gvisor"
    assert pod["serviceAccountName"] == "operator"
    assert EVERYTHING["extraVolumes"][0] in pod["volumes"]
    assert EVERYTHING["extraVolumeMounts"][0] in pod["containers"][0]["volumeMounts"]
    assert EVERYTHING["extraEnv"][0] in pod["containers"][0]["env"]


def test_a_node_with_the_only_replica_can_be_drained() -> None:
    budget = the(render({"podDisruptionBudget": {"enabled": True}}), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in budget["spec"]


def test_the_operators_policy_lets_in_probes_and_metrics_only(default: list[Object], everything: list[Object]) -> None:
    shut = the(default, "NetworkPolicy")["spec"]
    assert shut["policyTypes"] == ["Ingress"]
    ports = {port["port"] for rule in shut["ingress"] for port in rule["ports"]}
    assert ports == {port["containerPort"] for port in container_of(default)["ports"]}
    assert the(everything, "NetworkPolicy")["spec"]["egress"] == EVERYTHING["networkPolicy"]["egress"]
    assert of_kind(render({"networkPolicy": {"enabled": False}}), "NetworkPolicy") == []


def test_the_definition_can_be_left_to_others_or_go_with_the_release() -> None:
    assert of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition") == []
    assert "annotations" not in the(render({"crds": {"keep": False}}), "CustomResourceDefinition")["metadata"]


def test_users_of_namespaces_may_do_with_pipelines_what_they_may_with_pods(default: list[Object]) -> None:
    roles = {role["metadata"]["name"]: role for role in of_kind(default, "ClusterRole")}
    to = "rbac.authorization.k8s.io/aggregate-to-"
    given = {
        name: {key.removeprefix(to) for key in role["metadata"]["labels"] if key.startswith(to)}
        for name, role in roles.items()
    }
    assert given == {"cai-operator": set(), "cai-operator-edit": {"admin", "edit"}, "cai-operator-view": {"view"}}
    (seen,) = roles["cai-operator-view"]["rules"]
    assert seen["verbs"] == ["get", "list", "watch"]
    assert {
        resource
        for name in ("edit", "view")
        for rule in roles[f"cai-operator-{name}"]["rules"]
        for resource in rule["resources"]
    } == {"caipipelines"}


class TestMetrics:
    def test_monitors_find_the_port(self, everything: list[Object]) -> None:
        pod = the(everything, "Deployment")["spec"]["template"]
        assert {"name": "metrics", "containerPort": 9090} in pod["spec"]["containers"][0]["ports"]
        monitor = the(everything, "PodMonitor")
        assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        service = the(everything, "Service")
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        by_service = the(everything, "ServiceMonitor")["spec"]
        assert by_service["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert by_service["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"] == "metrics"
        # the label namespace is the pipelines', not the operator's
        endpoints = [*monitor["spec"]["podMetricsEndpoints"], *by_service["endpoints"]]
        assert [endpoint["honorLabels"] for endpoint in endpoints] == [True, True]

    def test_alerts_and_dashboard_arrive_unchanged(self, everything: list[Object]) -> None:
        files = CHART / "files"
        groups = yaml.safe_load((files / "alerts.yaml").read_text())
        assert the(everything, "PrometheusRule")["spec"]["groups"] == groups
        dashboard = the(everything, "ConfigMap")
        assert dashboard["metadata"]["namespace"] == "grafana"
        (text,) = dashboard["data"].values()
        assert json.loads(text) == json.loads((files / "dashboard.json").read_text())

    def test_they_are_only_there_if_asked_for(self, default: list[Object]) -> None:
        kinds = {one["kind"] for one in default}
        assert not {"PodMonitor", "ServiceMonitor", "PrometheusRule", "Service"} & kinds
        off = render({**EVERYTHING, "metrics": {"enabled": False}})
        assert "metrics" not in {port["name"] for port in container_of(off)["ports"]}
        assert environment(off)["CAI_METRICS_PORT"] == "0"


def test_the_pipeline_of_helm_test_is_a_valid_one(tmp_path: Path, everything: list[Object]) -> None:
    (made,) = (one for one in everything if one["kind"] == "ConfigMap" and is_test(one))
    path = tmp_path / "pipeline.yaml"
    path.write_text(made["data"]["pipeline.yaml"])
    pipeline, texts = load([path])
    assert node_keys(pipeline.spec, texts)
    assert (pipeline.spec.storage.storage_class_name, pipeline.spec.storage.retain) == ("fast", False)


def test_what_helm_test_makes_goes_with_it_and_may_touch_its_own_pipeline_only(default: list[Object]) -> None:
    made = {one["kind"]: one for one in default if is_test(one)}
    assert set(made) == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Pod"}
    for kind, one in made.items():
        annotations = one["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "test"
        assert {"before-hook-creation", "hook-succeeded"} <= set(annotations["helm.sh/hook-delete-policy"].split(","))
        assert ("hook-failed" in annotations["helm.sh/hook-delete-policy"]) == (kind != "Pod"), kind
    name = made["Pod"]["metadata"]["name"]
    rights = [(rule["resources"], rule["verbs"], rule.get("resourceNames")) for rule in made["Role"]["rules"]]
    assert rights == [(["caipipelines"], ["create"], None), (["caipipelines"], ["get", "delete"], [name])]
    operators = the(default, "Deployment")["spec"]["selector"]["matchLabels"]
    assert not operators.items() <= made["Pod"]["metadata"]["labels"].items()


@pytest.mark.parametrize("release", ["cai-operator", "x", "a" * 53], ids=len)
def test_names_fit_whatever_the_release_is_called(release: str) -> None:
    for one in render(EVERYTHING, release=release):
        assert len(one["metadata"]["name"]) <= 63, one["kind"]
    names = _identities(render({}, release=release))
    assert names == sorted(set(names))


def test_helm_finds_nothing_to_complain_of() -> None:
    for values in ({}, EVERYTHING):
        said = helm("lint", "--strict", CHART, "--values", "-", stdin=json.dumps(values)).stdout
        assert "1 chart(s) linted, 0 chart(s) failed" in said


def test_the_notes_say_what_to_do_next() -> None:
    said = helm("install", "first", CHART, "--namespace", "team", "--dry-run=client", "--hide-secret", check=False)
    notes = said.stdout.partition("NOTES:")[2]
    assert "helm test first -n team" in notes
    assert "kubectl -n team rollout status deployment/first-cai-operator" in notes
    assert "kubectl apply -f examples/pocket.yaml" in notes
    assert (ROOT / "examples" / "pocket.yaml").exists()


def test_a_package_can_be_published(tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path, "--version", "1.2.3")
    (package,) = tmp_path.iterdir()
    assert package.name == "cai-operator-1.2.3.tgz"
    with tarfile.open(package) as archive:
        names = {name.removeprefix("cai-operator/") for name in archive.getnames()}
    assert {"Chart.yaml", "values.schema.json", "README.md", "files/crd-spec.yaml", "files/rules.yaml"} <= names
    # OCI registries take no "+" in a tag, and Helm wants a version that follows SemVer
    assert re.fullmatch(r"\d+\.\d+\.\d+", yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def resolved(part: Any) -> Any:
        return schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part

    def compare(part: Any, value: Any, where: str) -> None:
        part = resolved(part)
        if "properties" not in part:
            return
        assert part["additionalProperties"] is False, where
        optional = {"global", "claims"} | ({"nodeAffinity", "podAffinity", "podAntiAffinity"} & set(part["properties"]))
        assert set(part["properties"]) - optional == set(value), where
        for name in value:
            compare(part["properties"][name], value[name], f"{where}.{name}")

    compare(schema, values, "")


def test_every_value_is_explained() -> None:
    rows = list(rows_of((CHART / "values.yaml").read_text()))
    assert {"`image.digest`", "`watchNamespaces`", "`settings.workers`"} <= {path for path, _, _ in rows}
    assert all(words.endswith((".", "`")) for _, _, words in rows)


def _identities(objects: list[Object]) -> list[tuple[str, str, str]]:
    return sorted((one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in objects)
