"""The CustomResourceDefinition as a document: structural, described, as committed, and agreeing with the operator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.api.rule_examples import EXAMPLES, document

from cai_operator import conditions
from cai_operator.api import PipelineStatus, Spec
from cai_operator.api_stages import DatasetsStage
from cai_operator.crd.__main__ import generated
from cai_operator.crd.definition import COLUMNS, LISTS_BY_KEY, definition, resource_schema
from cai_operator.crd.rules import RULES
from cai_operator.crd.schema import at, structural
from cai_operator.crd.words import CONDITIONS, PHASES, REASONS, STATES
from cai_operator.engines.options import program_parser
from cai_operator.status import Phase, State
from cai_operator.validation import InvalidResource, parse_pipeline

ROOT = Path(__file__).parents[3]
ON_CHANGE = {rule.name for rule in RULES if rule.on_change}


def nodes(schema: dict[str, Any], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield where, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{where}.{name}".lstrip("."))
    for name, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(name), dict):
            yield from nodes(schema[name], f"{where}{mark}")


def test_nothing_is_filled_into_items_of_lists() -> None:
    """Argo CD compares the lists of custom resources whole: with a default filled in they would be out of sync."""
    spec = resource_schema()["properties"]["spec"]
    assert [where for where, schema in nodes(spec) if "[]" in where and "default" in schema] == []
    assert any("default" in schema for _, schema in nodes(spec))


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    """What `make manifests` would write now."""
    return generated(ROOT)


def test_committed_files_are_what_would_be_generated(made: dict[Path, str]) -> None:
    assert {(ROOT / path).is_file() for path in made} == {True}
    outdated = [str(path) for path, text in made.items() if (ROOT / path).read_text() != text]
    assert outdated == [], "run `make manifests` and commit what it writes"


def test_the_manifest_is_the_definition_and_has_no_anchors(made: dict[Path, str]) -> None:
    (text,) = (text for path, text in made.items() if path.parts[0] == "crds")
    assert yaml.safe_load(text) == definition()
    assert not re.search(r"[:-] [&*]id\d", text)


def test_the_definition_is_small_enough_for_kubectl_apply() -> None:
    # which keeps what it applied in an annotation, and annotations have 256 KiB together
    assert len(json.dumps(definition())) < 200_000


def test_the_schema_is_structural() -> None:
    allowed = {
        *(
            "type",
            "description",
            "properties",
            "required",
            "items",
            "additionalProperties",
            "default",
            "enum",
            "format",
        ),
        *("pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"),
        *("minItems", "maxItems", "maxProperties", "x-kubernetes-validations", "x-kubernetes-list-type"),
        *("x-kubernetes-list-map-keys", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"),
    }
    for where, node in nodes(resource_schema()):
        assert set(node) <= allowed, where
        untyped = node.get("x-kubernetes-int-or-string") or node.get("x-kubernetes-preserve-unknown-fields")
        assert "type" in node or untyped, where
        for bound in ("exclusiveMinimum", "exclusiveMaximum"):
            assert node.get(bound, True) is True, where
        assert not ("properties" in node and "additionalProperties" in node), where


def test_every_field_says_what_it_is_for() -> None:
    schema = resource_schema()
    described = [(where, node.get("description")) for where, node in nodes(schema) if where and where[-1] not in "]}"]
    lacking = [where for where, words in described if not words and not where.startswith("metadata")]
    assert lacking == []
    assert not [where for where, words in described if words and not words.endswith((".", "{}`"))]


def test_defaults_are_valid_and_are_those_of_the_models() -> None:
    given = {"engine": "hf", "models": {"base": {"pocket": {}}}}
    filled = {**{name: field["default"] for name, field in spec_fields().items() if "default" in field}, **given}
    assert Spec.model_validate(filled) == Spec.model_validate(given)


def test_what_is_derived_has_no_default() -> None:
    for path in ("gpusPerNode", "image", "judge", "template", "stages.sft.gpusPerNode", "stages.slData.server.gpus"):
        assert "default" not in at(resource_schema(), f"spec.{path}"), path
    # its presence is what a rule looks at
    assert "default" not in at(resource_schema(), "spec.stages.ppo.critic")
    assert "critic" not in at(resource_schema(), "spec.stages.ppo")["default"]


def spec_fields() -> dict[str, Any]:
    fields: dict[str, Any] = resource_schema()["properties"]["spec"]["properties"]
    return fields


def test_a_status_has_no_defaults() -> None:
    for where, node in nodes(structural(PipelineStatus, with_defaults=False)):
        assert "default" not in node, where


def test_lists_of_named_things_are_keyed_by_a_required_field() -> None:
    status = resource_schema()["properties"]["status"]
    for path, key in LISTS_BY_KEY.items():
        assert key in at(status, path)["items"]["required"]
    with_names = {
        where
        for where, node in nodes(status)
        if node.get("type") == "array" and {"name", "type"} & set(node["items"].get("properties", {}))
    }
    assert with_names == set(LISTS_BY_KEY)


def test_columns_show_fields_that_are_there() -> None:
    for name, _, path, words in COLUMNS:
        assert words.endswith("."), name
        if not path.startswith(".metadata"):
            assert at(resource_schema(), path[1:])["type"] == "string"


def test_rules_name_fields_that_are_there_and_speak_in_sentences() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    schema = resource_schema()
    for rule in RULES:
        for path in rule.paths:
            at(schema, f"{path}.{rule.field}" if rule.field else path)
        assert len(rule.message.split()) > 6, rule.name
        assert not rule.message.endswith("."), rule.name
        assert rule.on_change == ("oldSelf" in rule.expression), rule.name


def test_every_rule_has_examples() -> None:
    assert set(EXAMPLES) == {rule.name for rule in RULES}
    for rule in RULES:
        example = EXAMPLES[rule.name]
        assert example.accepted, rule.name
        assert example.refused, rule.name
        assert (example.old is not None) == rule.on_change, rule.name
        for path in rule.paths:
            told = f"{path}.{rule.field}" if rule.field else path
            assert any(re.sub(r"\[\d+\]", "[]", where) == told for where, _ in example.refused), (rule.name, path)


def test_the_operator_agrees_with_every_rule() -> None:
    for name, example in EXAMPLES.items():
        for change in example.accepted:
            parse_pipeline(document(change))
        for where, change in example.refused:
            if name in ON_CHANGE:
                parse_pipeline(document(change))
                continue
            with pytest.raises(InvalidResource) as caught:
                parse_pipeline(document(change))
            assert [problem.path for problem in caught.value.problems] == [where], name


def test_every_word_of_a_status_is_explained() -> None:
    assert set(PHASES) == set(Phase)
    assert set(STATES) == set(State)
    words = {value for name, value in vars(conditions).items() if name.isupper() and isinstance(value, str)}
    assert words == set(REASONS) | set(CONDITIONS)


def test_links_of_the_reference_lead_somewhere(made: dict[Path, str]) -> None:
    text = made[Path("docs/reference.md")]
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= headings


def test_every_row_of_a_table_in_the_reference_is_whole(made: dict[Path, str]) -> None:
    width = 0
    for line in made[Path("docs/reference.md")].splitlines():
        cells = line.count("|")
        assert not (cells and width) or cells == width, line
        width = cells if line.startswith("|") else 0


def test_a_default_that_is_a_programs_own_is_told_right() -> None:
    description = DatasetsStage.model_fields["held_out"].description
    assert description is not None
    assert description.endswith(f"Default: {program_parser('fetch_datasets').get_default('held_out')}.")
