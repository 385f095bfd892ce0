"""Which texts a node reads, and whose."""

from __future__ import annotations

import json

import pytest

from cai_operator import texts


def test_built_in_texts_are_there(pipeline):
    assert json.loads(texts.built_in(texts.INSTRUCTIONS))
    assert texts.built_in(texts.JUDGE_PROMPT)
    assert texts.built_in(texts.FEW_SHOTS, pocket=True) != texts.built_in(texts.FEW_SHOTS)
    assert texts.built_in(texts.JUDGE_PROMPT, pocket=True) == texts.built_in(texts.JUDGE_PROMPT)


def test_a_pocket_assistant_has_few_shots_of_its_own(pipeline):
    hub = {"models": {"base": {"pocket": None, "huggingFace": {"repo": "a/b"}}}}
    both = {"models": {**hub["models"], "assistant": {"pocket": {}}}}
    found = [texts.of_node(pipeline(spec).spec, "slData", {})[texts.FEW_SHOTS].content for spec in ({}, hub, both)]
    assert found[0] == found[2] != found[1]


def test_a_config_map_gives_any_subset(pipeline):
    spec = pipeline({"constitution": {"configMap": {"name": "mine"}}}).spec
    assert texts.sources(spec) == ("configMap/mine",)
    found = texts.of_node(spec, "slData", {"configMap/mine": {texts.INSTRUCTIONS: "{}"}})
    assert found[texts.INSTRUCTIONS].content == "{}"
    assert found[texts.FEW_SHOTS].content == texts.built_in(texts.FEW_SHOTS, pocket=True)


@pytest.mark.parametrize(
    ("spec", "observed", "sentence"),
    [
        ({"constitution": {"configMap": {"name": "c"}}}, {}, "ConfigMap c, the constitution, does not exist"),
        ({"constitution": {"configMap": {"name": "c"}}}, {"configMap/c": {"a": ""}}, "has none of the keys"),
    ],
)
def test_what_is_missing_is_named(pipeline, spec, observed, sentence):
    with pytest.raises(texts.MissingTextError, match=sentence):
        texts.of_node(pipeline(spec).spec, "slData", observed)


def test_a_data_set_in_a_config_map(pipeline):
    spec = pipeline({"datasets": {"redTeam": {"configMap": {"name": "c", "key": "rows"}}}}).spec
    assert texts.of_node(spec, "datasets", {"configMap/c": {"rows": "x"}})["red_team.jsonl"].content == "x"
    with pytest.raises(texts.MissingTextError, match=r"spec\.datasets\.redTeam, does not exist"):
        texts.of_node(spec, "datasets", {})
    with pytest.raises(texts.MissingTextError, match="has no key rows"):
        texts.of_node(spec, "datasets", {"configMap/c": {}})


def test_a_path_is_read_where_it_can_be(pipeline):
    spec = pipeline({"constitution": {"path": "mine/"}}).spec
    assert texts.sources(spec) == ("path/mine/",)
    far = texts.of_node(spec, "rlData", {})[texts.JUDGE_PROMPT]
    assert (far.content, far.path) == (None, f"mine/{texts.JUDGE_PROMPT}")
    near = texts.of_node(spec, "rlData", {"path/mine/": {texts.JUDGE_PROMPT: "Be kind."}})[texts.JUDGE_PROMPT]
    assert near.content == "Be kind."
