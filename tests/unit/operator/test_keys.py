"""Keys change with what shapes a result, in everything that follows from it, and with nothing else."""

from __future__ import annotations

import json
import random

import pytest

from cai_operator import texts
from cai_operator.engines import hf_options
from cai_operator.keys import canonical, key_of
from cai_operator.plan import node_keys
from cai_operator.texts import Text

FOLLOWING = {
    "models": {"models", "slData", "sft", "rlData", "rewardModel", "ppo"},
    "datasets": {"datasets", "slData", "sft", "rlData", "rewardModel", "ppo"},
    "slData": {"slData", "sft", "rlData", "rewardModel", "ppo"},
    "sft": {"sft", "rlData", "rewardModel", "ppo"},
    "rlData": {"rlData", "rewardModel", "ppo"},
    "rewardModel": {"rewardModel", "ppo"},
    "ppo": {"ppo"},
}
ALL_EVALUATIONS = {"evaluateBase", "evaluateSlCai", "evaluateRlCai"}


def changed(pipeline, before, after, observed_before=None, observed_after=None):
    """The job nodes whose keys differ, `serve` and `report` left out: they follow every change."""
    first, _ = node_keys(pipeline(before).spec, observed_before or {})
    second, _ = node_keys(pipeline(after).spec, observed_after or {})
    return {name for name in first if first[name] != second[name]} - {"serve", "report"}


@pytest.mark.parametrize(
    ("change", "nodes"),
    [
        ({"models": {"base": {"pocket": None, "path": "mine"}}, "stages": {}}, None),
        ({"stages": {"datasets": {"heldOut": 7}}}, FOLLOWING["datasets"] | ALL_EVALUATIONS),
        ({"stages": {"slData": {"numExamples": 5}}}, FOLLOWING["slData"] | {"evaluateSlCai", "evaluateRlCai"}),
        (
            {"stages": {"slData": {"overrides": {"temperature": 0.5}}}},
            FOLLOWING["slData"] | {"evaluateSlCai", "evaluateRlCai"},
        ),
        (
            {"stages": {"slData": {"server": {"overrides": {"dtype": "float64"}}}}},
            FOLLOWING["slData"] | {"evaluateSlCai", "evaluateRlCai"},
        ),
        ({"stages": {"sft": {"overrides": {"max-steps": 3}}}}, FOLLOWING["sft"] | {"evaluateSlCai", "evaluateRlCai"}),
        ({"stages": {"rlData": {"temperatures": [0.1, 1.0]}}}, FOLLOWING["rlData"] | {"evaluateRlCai"}),
        ({"stages": {"rlData": {"splits": {"train": 0.5, "test": 0.5}}}}, FOLLOWING["rlData"] | {"evaluateRlCai"}),
        ({"judge": {"self": True}}, FOLLOWING["rlData"] | {"evaluateRlCai"}),
        (
            {"judge": {"panel": [{"url": "https://a", "model": "m"}, {"url": "https://b", "model": "m"}]}},
            FOLLOWING["rlData"] | {"evaluateRlCai"},
        ),
        *(
            ({"stages": {"slData": change}}, FOLLOWING["slData"] | {"evaluateSlCai", "evaluateRlCai"})
            for change in (
                {"critique": False},
                {"principleWeights": {"stealth": 2}},
                {"removeDuplicates": "exact"},
                {"blendRatio": 1},
                {"validationShare": 0.2},
            )
        ),
        ({"stages": {"rlData": {"judging": {"mode": "principle"}}}}, FOLLOWING["rlData"] | {"evaluateRlCai"}),
        ({"stages": {"rewardModel": {"overrides": {"epochs": 2}}}}, FOLLOWING["rewardModel"] | {"evaluateRlCai"}),
        ({"stages": {"ppo": {"overrides": {"kl-penalty": 0.3}}}}, {"ppo", "evaluateRlCai"}),
        ({"stages": {"ppo": {"critic": {"overrides": {"learning-rate": 1e-3}}}}}, {"ppo", "evaluateRlCai"}),
        ({"stages": {"evaluate": {"numExamples": 5}}}, ALL_EVALUATIONS),
        ({"stages": {"evaluate": {"overrides": {"tokens-to-generate": 9}}}}, ALL_EVALUATIONS),
    ],
)
def test_a_change_reaches_what_follows_and_nothing_else(pipeline, change, nodes):
    if nodes is None:
        nodes = set(FOLLOWING["models"]) | {"datasets"} | ALL_EVALUATIONS
    assert changed(pipeline, {}, change) == nodes


RUNTIME_CHANGES = [
    {"suspend": True},
    {"image": "other:2"},
    {"storage": {"size": "9Gi"}},
    {"template": {"nodeSelector": {"zone": "b"}, "shmSize": "1Gi"}},
    {
        "template": {
            "interconnect": {
                "interface": "eth1",
                "devices": [{"resource": "rdma/hca"}],
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "ipcLock": True,
            },
            "topologySpreadConstraints": [{"topologyKey": "rack"}],
        },
        "stages": {"sft": {"nodes": 2}},
    },
    {"gpusPerNode": 4},
    {"hubTokenSecret": {"name": "a", "key": "b"}},
    {"stages": {"slData": {"batchSize": 3, "retries": 9, "deadline": "1h"}}},
    {"stages": {"slData": {"server": {"replicas": 3, "port": 7000, "gpus": 1}}}},
    {"stages": {"slData": {"maxRejected": 0.5}, "rlData": {"maxRejected": 0}}},
    {"stages": {"rlData": {"judging": {"concurrency": 99, "rate": 3}}}},
    {"stages": {"slData": {"overrides": {"requests-in-flight": 9}}}},
    {"stages": {"rlData": {"server": {"overrides": {"max-batch-size": 3, "device": "cpu"}}}}},
    {"stages": {"sft": {"resources": {"cpu": 3, "memory": "9Gi"}, "nodes": 2, "gpusPerNode": 1, "image": "x"}}},
    {"stages": {"sft": {"overrides": {"device": "cpu"}}}},
    {"stages": {"ppo": {"critic": {"port": 9, "resources": {"cpu": 2}, "gpusPerNode": 0}}}},
    {"stages": {"evaluate": {"gates": {"maxHarmfulRate": 0.1}}}},
    {"stages": {"serve": {"replicas": 2, "port": 80}}},
]


@pytest.mark.parametrize("change", RUNTIME_CHANGES, ids=str)
def test_what_only_changes_how_it_runs_changes_no_key(pipeline, change):
    first, _ = node_keys(pipeline().spec, {})
    second, _ = node_keys(pipeline(change).spec, {})
    assert first == second


def test_what_the_generators_are_not_told_is_in_no_key(pipeline):
    spec = pipeline().spec
    assert set(hf_options.node_options(spec, "slData")) == {
        *("num_examples", "revisions", "validation_split", "seed", "apply_chat_template", *hf_options.CHAT_FORMAT),
    }
    assert set(hf_options.node_options(spec, "rlData")) == {
        *("num_examples", "temperatures", "splits", "seed", *hf_options.CHAT_FORMAT),
    }
    assert set(texts.of_node(spec, "rlData", {})) == {texts.JUDGE_PROMPT}


def test_secrets_and_the_labelling_judge_of_a_panel(pipeline):
    panel = [{"url": "https://a", "model": "m"}, {"url": "https://b", "model": "m"}]
    hub = {"models": {"base": {"pocket": None, "huggingFace": {"repo": "a/b"}}}}
    with_secret = [{**panel[0], "apiKeySecret": {"name": "s", "key": "k"}}, panel[1]]
    spec = {**hub, "judge": {"panel": panel}}
    assert changed(pipeline, spec, {**hub, "judge": {"panel": with_secret}}) == set()
    another = {**hub, "judge": {"panel": [panel[0], {**panel[1], "model": "n"}]}}
    assert changed(pipeline, spec, another) == FOLLOWING["rlData"] | {"evaluateRlCai"}
    assert "evaluateBase" in changed(pipeline, spec, {**hub, "judge": {"panel": [panel[1], panel[0]]}})


def test_a_default_written_out_changes_no_key(pipeline):
    generators = {
        "slData": {"critique": True, "removeDuplicates": "none", "validationShare": 0.1, "principleWeights": {}},
        "rlData": {"judging": {"mode": "constitution", "chainOfThought": False, "comparisonsPerPrompt": 1}},
    }
    assert changed(pipeline, {}, {"stages": generators}) == set()
    assert (
        changed(pipeline, {}, {"models": {"assistant": {"pocket": {}}}, "judge": {"pocket": {}}, "seed": 1234}) == set()
    )
    assert (
        changed(
            pipeline,
            {},
            {"datasets": {"redTeam": {"pocket": {}}}, "stages": {"rlData": {"temperatures": [0.01, 0.51, 1.01, 1.51]}}},
        )
        == set()
    )


def test_the_way_an_override_is_written_changes_no_key(pipeline):
    spellings = [{"learning-rate": 0.0001}, {"learning_rate": "1e-4"}, {"--learning-rate": "0.0001"}]
    for spelling in spellings[1:]:
        assert (
            changed(
                pipeline, {"stages": {"sft": {"overrides": spellings[0]}}}, {"stages": {"sft": {"overrides": spelling}}}
            )
            == set()
        )


def with_text(name, text):
    return {"configMap/mine": {name: text}}


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        (texts.INSTRUCTIONS, FOLLOWING["slData"] | {"evaluateSlCai", "evaluateRlCai"}),
        (texts.FEW_SHOTS, FOLLOWING["slData"] | {"evaluateSlCai", "evaluateRlCai"}),
        (texts.JUDGE_PROMPT, FOLLOWING["rlData"] | {"evaluateRlCai"}),
    ],
)
def test_editing_a_text_reaches_only_its_readers_and_what_follows(pipeline, name, nodes):
    spec = {"constitution": {"configMap": {"name": "mine"}}}
    assert changed(pipeline, spec, spec, with_text(name, "one"), with_text(name, "two")) == nodes


def test_where_a_text_comes_from_is_no_matter(pipeline):
    own = texts.built_in(texts.JUDGE_PROMPT)
    given = {"constitution": {"configMap": {"name": "mine"}}}
    assert changed(pipeline, {}, given, {}, with_text(texts.JUDGE_PROMPT, own)) == set()
    by_path = {"constitution": {"path": "here"}}
    assert changed(pipeline, {}, by_path, {}, {"path/here": {texts.JUDGE_PROMPT: own}}) == set()


def test_a_path_out_of_sight_stands_for_its_text(pipeline):
    assert changed(pipeline, {"constitution": {"path": "a"}}, {"constitution": {"path": "b"}}) >= {"slData", "rlData"}


def test_going_back_to_an_old_spec_finds_the_old_keys(pipeline):
    assert changed(pipeline, {"seed": 5}, {"seed": 5}) == set()
    assert changed(pipeline, {"seed": 5}, {"seed": 6}) == {"datasets", *FOLLOWING["slData"], *ALL_EVALUATIONS}


def test_names_and_namespaces_are_in_no_key(pipeline):
    first, _ = node_keys(pipeline().spec, {})
    second, _ = node_keys(pipeline(metadata={"name": "other", "namespace": "elsewhere"}).spec, {})
    assert first == second


def test_keys_do_not_depend_on_the_order_of_a_document(pipeline, document):
    rng = random.Random(1)

    def shuffled(value):
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        rng.shuffle(items)
        return {name: shuffled(item) for name, item in items}

    spec = {
        "seed": 3,
        "judge": {"self": True},
        "stages": {"sft": {"overrides": {"epochs": 2, "max-steps": 3}}, "ppo": {}},
    }
    first, _ = node_keys(pipeline(spec).spec, {})
    for _ in range(5):
        assert node_keys(pipeline(shuffled(spec)).spec, {})[0] == first


def test_canonical_json_is_one_text_for_one_value():
    rng = random.Random(2)

    def value(depth):
        kinds = [lambda: rng.randint(-9, 9), lambda: rng.random(), lambda: rng.choice(["", "ä", '"']), lambda: None]
        if depth:
            kinds += [
                lambda: [value(depth - 1) for _ in range(3)],
                lambda: {str(rng.random()): value(depth - 1) for _ in range(3)},
            ]
        return rng.choice(kinds)()

    for _ in range(200):
        made = value(3)
        assert canonical(json.loads(json.dumps(made))) == canonical(made)
    assert canonical({"b": 1.0, "a": (2,)}) == '{"a":[2],"b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(float("nan"))


def test_every_part_of_the_material_counts():
    base = {"node": "n", "engine": "hf", "parameters": {"a": 1}, "inputs": {"m": "k"}, "digests": {"t": "x"}}
    keys = {key_of(**base)}
    for change in (
        {"node": "o"},
        {"engine": "nemo"},
        {"parameters": {"a": 2}},
        {"inputs": {"m": "l"}},
        {"digests": {"t": "y"}},
        {"digests": {"u": "x"}},
    ):
        keys.add(key_of(**{**base, **change}))
    assert len(keys) == 7
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


def test_another_version_of_the_shipped_pocket_files_redoes_what_reads_them(pipeline, monkeypatch):
    before, _ = node_keys(pipeline({}).spec, {})
    monkeypatch.setattr(texts, "pocket_digest", lambda: "another")
    after, _ = node_keys(pipeline({}).spec, {})
    assert all(before[name] != after[name] for name in ("models", "datasets", "rlData"))


def test_a_text_and_a_path_have_different_digests():
    assert Text("x").digest() != Text("y").digest()
    assert Text(path="x").digest() not in (Text("x").digest(), Text(path="y").digest())
