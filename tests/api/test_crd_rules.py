"""The CustomResourceDefinition against a real API server: what it refuses, in which words, and what it fills in."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.api.rule_examples import EXAMPLES, document
from tests.harness.control_plane import ControlPlane
from tests.harness.pipelines import merged
from tests.unit.operator import test_validation as mistakes_of_the_operator

from cai_operator.crd.definition import resource_schema
from cai_operator.crd.rules import RULES
from cai_operator.engines import EngineError
from cai_operator.plan import node_keys
from cai_operator.status import PipelineStatus, parse_status
from cai_operator.validation import InvalidResource, parse_pipeline

pytestmark = pytest.mark.usefixtures("crd")

ROOT = Path(__file__).parents[2]
MESSAGES = {rule.name: rule.message for rule in RULES if not rule.found}
ON_CHANGE = {rule.name for rule in RULES if rule.on_change}


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane) -> Iterator[httpx.Client]:
    with control_plane.client() as client:
        yield client


def path(namespace: str, name: str = "") -> str:
    return f"/apis/cai.dev/v1alpha1/namespaces/{namespace}/caipipelines{'/' if name else ''}{name}"


def create(api: httpx.Client, made: dict[str, Any], namespace: str = "default") -> httpx.Response:
    """What the API server says of a new pipeline, which it does not keep."""
    return api.post(path(namespace), params={"dryRun": "All", "fieldValidation": "Strict"}, json=made)


def causes(answer: httpx.Response) -> dict[str, str]:
    """field -> what is said about it, of a refusal."""
    assert answer.status_code == 422, answer.text
    return {cause["field"]: cause["message"] for cause in answer.json()["details"]["causes"]}


def cases(refused: bool, on_change: bool) -> list[Any]:
    found = []
    for name, example in EXAMPLES.items():
        if (name in ON_CHANGE) == on_change:
            given = example.refused if refused else [("", change) for change in example.accepted]
            found.extend(pytest.param(name, *one, id=f"{name}-{place}") for place, one in enumerate(given))
    return found


@pytest.mark.parametrize(("rule", "where", "change"), cases(refused=True, on_change=False))
def test_refused(api: httpx.Client, rule: str, where: str, change: dict[str, Any]) -> None:
    found = causes(create(api, document(change)))
    assert list(found) == [where]
    assert MESSAGES.get(rule, "switched off here") in found[where]


@pytest.mark.parametrize(("rule", "where", "change"), cases(refused=False, on_change=False))
def test_accepted(api: httpx.Client, rule: str, where: str, change: dict[str, Any]) -> None:
    answer = create(api, document(change))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(("rule", "where", "change"), cases(refused=True, on_change=True))
def test_refused_change(api: httpx.Client, namespace: str, rule: str, where: str, change: dict[str, Any]) -> None:
    found = causes(update(api, namespace, rule, change))
    assert list(found) == [where]
    assert MESSAGES[rule] in found[where]


@pytest.mark.parametrize(("rule", "where", "change"), cases(refused=False, on_change=True))
def test_accepted_change(api: httpx.Client, namespace: str, rule: str, where: str, change: dict[str, Any]) -> None:
    answer = update(api, namespace, rule, change)
    assert answer.status_code == 200, answer.text


def update(api: httpx.Client, namespace: str, rule: str, change: dict[str, Any]) -> httpx.Response:
    old = EXAMPLES[rule].old
    assert old is not None
    made = api.post(path(namespace), json=document(old))
    assert made.status_code == 201, made.text
    version = {"resourceVersion": made.json()["metadata"]["resourceVersion"]}
    new = merged(document(change), {"metadata": version})
    return api.put(path(namespace, "tiny"), params={"fieldValidation": "Strict"}, json=new)


def test_a_claim_without_a_size_does_not_shrink_below_the_default(api: httpx.Client, namespace: str) -> None:
    made = api.post(path(namespace), json=document({})).json()
    for size, status in (("199Gi", 422), ("201Gi", 200), (None, 422)):
        made["spec"]["storage"].pop("size", None)
        made["spec"]["storage"] |= {"size": size} if size else {}
        answer = api.put(path(namespace, "tiny"), json=made)
        assert answer.status_code == status, (size, answer.text)
        made = answer.json() if status == 200 else made


def test_a_size_that_is_none_is_complained_of_once(api: httpx.Client, namespace: str) -> None:
    made = api.post(path(namespace), json=document({})).json()
    made["spec"]["storage"]["size"] = "9 GB"
    answer = api.put(path(namespace, "tiny"), json=made)
    assert answer.json()["message"].endswith('"9 GB": allowed: a quantity such as 2, 500m, 16Gi or 2Ti')
    assert list(causes(answer)) == ["spec.storage.size"]


def test_several_mistakes_at_once_are_told_as_the_operator_tells_them(api: httpx.Client) -> None:
    """Mistakes meet each other: whatever two or three rules say together, both judges name the same fields."""
    rng = random.Random(20)
    singles = [
        change
        for name, example in EXAMPLES.items()
        if name not in ON_CHANGE
        for change in (*example.accepted, *(change for _, change in example.refused))
    ]
    outcomes = set()
    for _ in range(150):
        together: dict[str, Any] = {}
        for change in rng.sample(singles, rng.choice((2, 3))):
            together = merged(together, change)
        answer = create(api, document(together))
        by_server = set() if answer.status_code == 201 else set(causes(answer))
        assert by_server == complaints(document(together)), together
        outcomes.add(len(by_server))
    assert {0, 1, 2} <= outcomes


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (spec, where)
        for spec, where, *_ in mistakes_of_the_operator.test_one_mistake.pytestmark[0].args[1]
        if ".overrides." not in where
    ],
)
def test_the_server_refuses_what_the_operator_refuses(api: httpx.Client, spec: dict[str, Any], where: str) -> None:
    """All but options of programs, which only the programs' own parsers know."""
    answer = create(api, document(spec))
    if answer.status_code == 400:
        assert f'unknown field "{where}"' in answer.json()["message"]
    else:
        assert [field for field in causes(answer) if field != "<nil>"] == [where]


def complaints(made: dict[str, Any]) -> set[str]:
    """The fields the operator complains of."""
    try:
        parse_pipeline(made)
    except InvalidResource as invalid:
        return {problem.path for problem in invalid.problems}
    return set()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda example: example.stem)
def test_defaults_change_nothing(api: httpx.Client, namespace: str, example: Path) -> None:
    given = yaml.safe_load(example.read_text())
    answer = api.post(path(namespace), params={"fieldValidation": "Strict"}, json=given)
    assert answer.status_code == 201, answer.text
    stored = answer.json()
    before, after = parse_pipeline(given), parse_pipeline(stored)
    assert after.spec == before.spec
    assert keys(after.spec) == keys(before.spec)
    again = api.put(path(namespace, before.name), json=stored).json()
    assert (again["metadata"]["generation"], again["spec"]) == (1, stored["spec"])


def keys(spec: Any) -> Any:
    try:
        return node_keys(spec, {})
    except EngineError:
        return None


def test_defaults_are_written_out(api: httpx.Client) -> None:
    spec = create(api, document({"engine": None})).json()["spec"]
    assert (spec["engine"], spec["seed"], spec["suspend"], spec["storage"]) == ("nemo", 1234, False, {"retain": True})
    assert spec["stages"]["rlData"]["temperatures"] == [0.01, 0.51, 1.01, 1.51]
    assert spec["stages"]["rlData"]["splits"] == {"train": 0.8, "test": 0.2}
    assert spec["stages"]["slData"]["server"] == {"replicas": 1, "port": 5999}
    # what the operator derives from other fields stays away, and so does what is empty
    assert spec["models"] == {"base": {"pocket": {}}}
    assert not {"gpusPerNode", "judge", "image", "datasets", "template"} & set(spec)
    assert spec["stages"]["ppo"] == {"enabled": True, "nodes": 1, "retries": 3, "exportHuggingFace": False}


@pytest.mark.parametrize("spec", [{"stages": None}, {"stages": {"sft": None, "rlData": {"splits": None}}}])
def test_a_field_without_a_value_has_its_default(api: httpx.Client, spec: dict[str, Any]) -> None:
    made = document({})
    made["spec"] |= spec
    answer = create(api, made)
    assert answer.status_code == 201, answer.text
    assert parse_pipeline(answer.json()).spec == parse_pipeline(document({})).spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": {}}, 'unknown field "spec.stage"'),
        ({"stages": {"sft": {"node": 2}}}, 'unknown field "spec.stages.sft.node"'),
        ({"models": {"base": {"pocket": {"size": 1}}}}, 'unknown field "spec.models.base.pocket.size"'),
    ],
)
def test_an_unknown_field_is_named(control_plane: ControlPlane, change: dict[str, Any], words: str) -> None:
    assert words in refusal(control_plane, change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "jax"}, 'spec.engine: Unsupported value: "jax": supported values: "nemo", "hf"'),
        ({"judge": {"self": False}}, 'spec.judge.self: Unsupported value: false: supported values: "true"'),
        ({"stages": {"sft": {"nodes": "two"}}}, "spec.stages.sft.nodes: Invalid value: "),
        ({"stages": {"slData": {"batchSize": 129}}}, "should be less than or equal to 128"),
        ({"seed": 2**31}, "spec.seed: Invalid value: 2147483648: "),
        ({"stages": {"rlData": {"splits": {"train": 1}}}}, "spec.stages.rlData.splits.train: Invalid value: 1: "),
        ({"stages": {"sft": {"overrides": {"epochs": {"a": 1}}}}}, "spec.stages.sft.overrides.epochs: Too many: 1"),
        (
            {"stages": {"sft": {"resources": {"memory": "9 GB"}}}},
            'spec.stages.sft.resources.memory: Invalid value: "9 GB": allowed: a quantity such as 2, 500m, 16Gi or 2Ti',
        ),
        ({"storage": {"size": -1}}, "spec.storage.size: Invalid value: -1: allowed: a quantity such as"),
        (
            {"stages": {"sft": {"deadline": "soon"}}},
            'spec.stages.sft.deadline: Invalid value: "soon": allowed: a duration such as 90m, 12h or 1d6h',
        ),
        (
            {"judge": {"url": "host/v1", "model": "m"}},
            'spec.judge.url: Invalid value: "host/v1": allowed: an address that begins with http:// or https://',
        ),
        (
            {"template": {"imagePullSecrets": [{"name": "ours"}, {"name": "Not_Ours"}]}},
            'spec.template.imagePullSecrets[1].name: Invalid value: "Not_Ours": allowed: lower case letters, digits',
        ),
        (
            {"hubTokenSecret": {"name": "a", "key": "b c"}},
            "spec.hubTokenSecret.key: Invalid value: \"b c\": allowed: letters, digits, '-', '_' and '.'",
        ),
        (
            {"template": {"interconnect": {"interface": "eth0,eth1"}}},
            'spec.template.interconnect.interface: Invalid value: "eth0,eth1": allowed: the name of one network',
        ),
        (
            {"template": {"interconnect": {"devices": [{"resource": "hca"}]}}},
            'spec.template.interconnect.devices[0].resource: Invalid value: "hca": allowed: the name of an extended',
        ),
        (
            {"template": {"interconnect": {"env": [{"name": "HOME", "value": "/"}]}}},
            'spec.template.interconnect.env[0].name: Invalid value: "HOME": allowed: a variable of NCCL, Gloo, UCX',
        ),
        (
            {"stages": {"rewardModel": {"enabled": False}}},
            "spec.stages.ppo.enabled: Invalid value: ppo needs rewardModel, switched off here; switch on what it",
        ),
        (
            {"stages": {"sft": {"enabled": False}, "rlData": {"enabled": False}}},
            "rewardModel needs sft, rlData, switched off here",
        ),
        ({"models": {"base": None}}, "spec.models.base: Required value"),
        ({"hubTokenSecret": {"name": "a"}}, "spec.hubTokenSecret.key: Required value"),
        ({"judge": {"self": True, "model": "m"}}, f"spec.judge.model: Forbidden: {MESSAGES['ownJudgeWithoutModel']}"),
    ],
)
def test_a_wrong_value_is_named(control_plane: ControlPlane, change: dict[str, Any], words: str) -> None:
    assert words in refusal(control_plane, change)
    assert complaints(document(change))


def refusal(control_plane: ControlPlane, change: dict[str, Any]) -> str:
    """What kubectl prints when the pipeline is applied."""
    text = yaml.safe_dump(document(change))
    done = control_plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_every_kind_of_override_is_kept(api: httpx.Client) -> None:
    overrides = {"epochs": 2, "learning-rate": 1e-6, "lr-schedule": "constant", "resume": True, "list": [1, 0.5, "x"]}
    made = create(api, document({"stages": {"sft": {"overrides": overrides}}})).json()
    assert made["spec"]["stages"]["sft"]["overrides"] == overrides


def test_what_pods_know_and_we_do_not_is_kept(api: httpx.Client) -> None:
    template = {
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 30}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}},
        "nodeSelector": {"disk": "ssd"},
        "imagePullSecrets": [{"name": "registry"}],
        "shmSize": "1Gi",
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "matchLabelKeys": ["a"]}],
    }
    made = create(api, document({"template": template, "stages": {"sft": {"template": template}}})).json()
    assert made["spec"]["template"] == template
    assert made["spec"]["stages"]["sft"]["template"] == template


def test_no_field_of_a_full_status_is_pruned(api: httpx.Client, namespace: str) -> None:
    assert api.post(path(namespace), json=document({})).status_code == 201
    status = PipelineStatus.model_validate(full_status())
    written = status.document()
    url = f"{path(namespace, 'tiny')}/status"
    headers = {"Content-Type": "application/merge-patch+json"}
    answer = api.patch(url, headers=headers, params={"fieldValidation": "Strict"}, json={"status": written})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == written
    assert parse_status(answer.json()["status"]).document() == written
    assert leaves(written) >= schema_leaves(resource_schema()["properties"]["status"])


def full_status() -> dict[str, Any]:
    moment = "2026-01-01T00:00:00Z"
    node = {
        "name": "sft",
        "state": "Running",
        "key": "0123456789abcdef",
        "attempts": 2,
        "started": moment,
        "finished": moment,
        "progress": {"done": 4, "total": 6, "unit": "steps", "etaSeconds": 1.5, "metrics": {"loss": 0.5, "a": [1]}},
        "reason": "Queued",
        "message": "m",
        "metrics": {
            "base": {"harmfulRate": 0.1, "deep": {"er": [1, None, {"x": None, "y": "z"}]}, "none": None},
            "flag": True,
        },
        "artifact": {"path": "p", "digest": "sha256:0", "files": 3, "sizeBytes": 2**40},
        "log": "l",
        "retry": "r",
    }
    condition = {"type": "Ready", "status": "True", "reason": "Complete", "message": "m", "observedGeneration": 3}
    return {
        "observedGeneration": 3,
        "retry": "r",
        "phase": "Running",
        "message": "working on sft",
        "progress": "4/9",
        "activity": "sft 4/6",
        "conditions": [{**condition, "lastTransitionTime": moment}],
        "stages": [{**node, "parts": [{**node, "name": "evaluateBase"}]}],
        "endpoint": "http://h:1",
        "report": "r.html",
    }


def leaves(value: Any, where: str = "") -> set[str]:
    """Paths of every field of a document, items of a list as one."""
    if isinstance(value, dict):
        return set(itertools.chain({where}, *(leaves(item, f"{where}.{name}") for name, item in value.items())))
    if isinstance(value, list):
        return set(itertools.chain({where}, *(leaves(item, f"{where}[]") for item in value)))
    return {where}


def schema_leaves(schema: dict[str, Any], where: str = "") -> set[str]:
    """Paths of every field that a schema names."""
    below = [schema_leaves(field, f"{where}.{name}") for name, field in schema.get("properties", {}).items()]
    items = [schema_leaves(schema["items"], f"{where}[]")] if "items" in schema else []
    return set(itertools.chain({where}, *below, *items))


def test_kubectl_get_tells_the_story(control_plane: ControlPlane, api: httpx.Client, namespace: str) -> None:
    api.post(path(namespace), json=document({})).raise_for_status()
    api.patch(
        f"{path(namespace, 'tiny')}/status",
        headers={"Content-Type": "application/merge-patch+json"},
        json={"status": full_status()},
    ).raise_for_status()
    for word in ("caip", "cai", "all", "caipipelines"):
        shown = control_plane.kubectl("get", word, "-n", namespace).stdout.splitlines()
        title = next(line for line in shown if line.startswith("NAME"))
        row = next(line for line in shown if "tiny" in line)
        assert title.split() == ["NAME", "ENGINE", "PHASE", "STAGE", "PROGRESS", "AGE"]
        assert row.split()[1:6] == ["hf", "Running", "sft", "4/6", "4/9"]
    wide = control_plane.kubectl("get", "caip", "-n", namespace, "-o", "wide").stdout
    assert "MESSAGE" in wide
    assert "working on sft" in wide


def test_kubectl_explains_every_field(control_plane: ControlPlane) -> None:
    told = control_plane.kubectl("explain", "caip.spec.stages.ppo.critic").stdout
    assert "The critic's server; it learns while the actor does." in told
    assert "GPUs on each. Default: the stage's." in told
    whole = control_plane.kubectl("explain", "caip.spec", "--recursive").stdout
    assert "critic" in whole
    assert "<empty>" not in control_plane.kubectl("explain", "caip.spec.stages.sft.overrides").stdout
