"""Every pod this product makes is restricted, whatever a manifest says; the one exception has a name and is off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from tests.harness.pod_security import violations
from tests.unit.security.pods import EXAMPLES, INSTALL, ROOT, SITE, Object, documents, pipelines, rendered, templates

from cai_operator.validation import InvalidResource, parse_pipeline

EXCEPTION = "Capabilities: containers[program] adds IPC_LOCK"
SECRETS = {("hub", "token"), ("ngc", "api-key")}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("user", [10001, None])
def test_pods_of_examples_are_restricted(path: Path, user: int | None) -> None:
    found = list(templates(rendered(documents(path)[0], replace(SITE, run_as_user=user))))
    assert len(found) >= 15
    assert {name: violations(template) for name, template in found} == {name: [] for name, _ in found}


def test_the_operators_own_pod_is_restricted() -> None:
    manifests = [document for path in INSTALL.glob("*.yaml") for document in documents(path)]
    ((_, template),) = templates(manifests)
    assert violations(template) == []
    (container,) = template["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    (namespace,) = (manifest for manifest in manifests if manifest["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(document=pipelines())
def test_pods_of_any_pipeline_are_restricted(document: Object) -> None:
    try:
        parse_pipeline(document)
    except InvalidResource as problem:
        complaints = list(problem.problems)
    else:
        complaints = []
    if complaints:  # no pod gets rid of its AppArmor profile
        assert all(complaint.path.endswith("template.annotations") for complaint in complaints), complaints
        return
    for name, template in templates(rendered(document)):
        found = set(violations(template))
        # isolated: only pods that work together on several machines have it, and only if they are told to
        assert found <= ({EXCEPTION} if _may_lock_memory(document, template) else set()), name
        spec, (container,) = template["spec"], template["spec"]["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert _secrets(container) <= SECRETS
        assert "envFrom" not in container
        assert not [volume for volume in spec["volumes"] if "secret" in volume]


def _may_lock_memory(document: Object, template: Object) -> bool:
    stage = template["metadata"]["labels"]["cai.dev/stage"]
    own = document["spec"]["stages"].get(stage, {}).get("template", {})
    given = own.get("interconnect", document["spec"]["template"].get("interconnect", {}))
    return bool(given.get("ipcLock")) and "subdomain" in template["spec"]


def _secrets(container: Object) -> set[tuple[str, str]]:
    sources = [item["valueFrom"] for item in container["env"] if "valueFrom" in item]
    return {(one["secretKeyRef"]["name"], one["secretKeyRef"]["key"]) for one in sources if "secretKeyRef" in one}


def test_no_manifest_that_is_shipped_asks_for_the_exception() -> None:
    shipped = [*EXAMPLES, *INSTALL.glob("*.yaml")]
    lines = [line for path in shipped for line in path.read_text().splitlines() if "ipcLock" in line]
    assert [line for line in lines if not line.lstrip().startswith("#")] == []
    assert "ipcLock" in (ROOT / "docs" / "security.md").read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_secrets_reach_the_programs_that_need_them_alone(path: Path) -> None:
    document = documents(path)[0]
    holders: dict[str, set[str]] = {}
    for _, template in templates(rendered(document)):
        labels = template["metadata"]["labels"]
        for item in template["spec"]["containers"][0]["env"]:
            if "secretKeyRef" in item.get("valueFrom", {}):
                holders.setdefault(item["name"], set()).add(f"{labels['cai.dev/node']}/{labels['cai.dev/kind']}")
    judging = {"rlData/job", "evaluateBase/job", "evaluateSlCai/job", "evaluateRlCai/job"}
    expected: dict[str, set[str]] = {}
    if document["spec"].get("judge", {}).get("apiKeySecret"):
        expected["NGC_API_KEY"] = judging
    if document["spec"].get("hubTokenSecret"):
        expected["HF_TOKEN"] = {"models/job", "datasets/job"}
        if path.stem.startswith("llama"):  # its tokenizer stays on the hub, for whoever loads the model
            loading = {"slData", "rlData", "ppo", "evaluateBase", "evaluateSlCai", "evaluateRlCai", "serve"}
            expected["HF_TOKEN"] |= {"sft/job", "rewardModel/job", "ppo/job", *_servers(loading)}
    assert holders == expected


def _servers(nodes: set[str]) -> set[str]:
    # several machines' servers are Jobs, and labelled as servers still
    return {f"{node}/server" for node in nodes}
