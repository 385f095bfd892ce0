"""Text a user may write anywhere into a manifest: refused with its path, or found again as it was written.

A pipeline is rendered twice, once with a harmless word in a field and once with a text that would like to be something
else: a flag, a variable, a line of a shell. What the programs then read must differ in that text alone.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.kubelet_words import argv_of, variables_of
from tests.unit.security.text_fields import CORE, FIELDS, HARMLESS, NASTY, Field

from cai_jobs.nemo import commands
from cai_operator.api import CAIPipeline
from cai_operator.engines import EngineError, options
from cai_operator.manifests.site import MOUNT, Site
from cai_operator.plan import node_keys
from cai_operator.render import manifests_by_node
from cai_operator.validation import InvalidResource, parse_pipeline

ROOT = Path(__file__).parents[3]
SITE = Site(images={"hf": "cai-jobs:1", "nemo": "cai-nemo:1"})
HYDRA = OverridesParser.create()

JSON_OPTIONS = (
    *("artifact_header", "base", "assistant", "red_team", "helpfulness", "preference", "inputs", "principle_weights"),
)

Document = dict[str, Any]

CASES = [pytest.param(engine, field, id=f"{engine} {field}") for engine in FIELDS for field in FIELDS[engine]]


@pytest.mark.parametrize(("engine", "field"), CASES)
def test_nasty_text_is_refused_or_arrives_as_it_is(engine: str, field: Field) -> None:
    for text in CORE:
        check(engine, field, text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_any_text_is_refused_or_arrives_as_it_is(data: st.DataObject) -> None:
    engine = data.draw(st.sampled_from(sorted(FIELDS)))
    field = data.draw(st.sampled_from(FIELDS[engine]))
    pieces = st.one_of(st.sampled_from(NASTY), st.text(max_size=12), st.sampled_from("-$()'\"\\={}[],:\n "))
    check(engine, field, data.draw(st.lists(pieces, max_size=4).map("".join)))


def check(engine: str, field: Field, text: str) -> None:
    """Hold a text to what is said above.

    Raises:
        AssertionError: it is refused elsewhere, or changes more than where it stands.
    """
    try:
        seen = read(parse_pipeline(field.manifest(engine, text)))
    except (InvalidResource, EngineError) as refusal:
        refused = list(map(str, getattr(refusal, "problems", [refusal])))
    else:
        refused = []
    # a list of an option's values is one place
    where = re.sub(r"(overrides\..*)\[0\]$", r"\1", field.shown)
    assert [complaint for complaint in refused if not complaint.startswith(where)] == [], text
    if refused:
        return
    harmless, before = rendered_harmless(engine, field)
    if harmless is None:  # only words of some form are taken there
        assert re.fullmatch(r"[A-Za-z0-9/._ -]+", text), text
        return
    assert seen == substituted(before, harmless, text, field.is_path), text


@functools.cache
def rendered_harmless(engine: str, field: Field) -> tuple[str | None, list[Any]]:
    """A harmless word that the field takes, and what is rendered with it; None where it takes none of ours."""
    for word in (HARMLESS, "https://harmless0/v1"):
        try:
            return word, read(parse_pipeline(field.manifest(engine, word)))
        except InvalidResource:
            continue
    return None, []


def read(pipeline: CAIPipeline) -> list[Any]:
    """Every manifest of a pipeline as API server, kubelet and programs read it, digests of its content left out."""
    keys, _ = node_keys(pipeline.spec, {})
    names = {key[:8]: f"key-of-{node}" for node, key in keys.items()}
    digests = re.compile("|".join(f"{key}|{key[:8]}" for key in keys.values()))
    written = json.dumps([manifest for _, group in manifests_by_node(pipeline, {}, SITE) for manifest in group])
    return [_as_read(manifest) for manifest in json.loads(digests.sub(lambda found: names[found[0][:8]], written))]


def _as_read(manifest: Document) -> Document:
    template = manifest.get("spec", {}).get("template")
    if template is not None:
        (container,) = template["spec"]["containers"]
        command = read_command(tuple(argv_of(container)))
        container["env"] = variables_of(container)
        container["command"] = command
    return manifest


@functools.lru_cache(maxsize=1000)
def read_command(argv: tuple[str, ...]) -> list[Any]:
    """What a command line says to the programs on it: by each one's own parser, JSON and Hydra's text decoded.

    Raises:
        InputError: a program does not take it.
        ValueError: an argument cannot be handed to a process.
    """
    for argument in argv:
        if "\0" in argument:
            raise ValueError(f"{argument!r} ends in the middle for a process")
        argument.encode()
    place = argv.index("-m")
    module = argv[place + 1]
    head, flags = list(argv[: place + 2]), list(argv[place + 2 :])
    if module == "cai_jobs.launch":
        launcher = options.parses("launch", flags)
        head, flags, module = [*head, launcher.nodes, launcher.processes], launcher.flags, launcher.program
    program = module.removeprefix("cai_jobs.")
    own, others = commands.split(flags) if program in ("nemo_run", "nemo_models") else (flags, [])
    parsed = {name: _decoded(name, value) for name, value in vars(options.parses(program, own)).items()}
    return [*head, program, parsed, *map(_reference, others)]


def _reference(command: Sequence[str]) -> list[Any]:
    script = next(place for place, part in enumerate(command) if part.endswith(".py"))
    if "converters" in command[script]:
        return list(command)
    return [*command[: script + 1], *map(_setting, command[script + 1 :])]


@functools.lru_cache(maxsize=10000)
def _setting(argument: str) -> list[Any]:
    override = HYDRA.parse_override(argument)
    return [override.get_key_element(), _plain(override.value())]


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return _plain(value.text)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(name): _plain(item) for name, item in value.items()}
    if isinstance(value, str):
        # ${model.x} is another setting; ${oc.env:X}, and ${${x}:y}, are whatever a function makes of them
        assert not re.search(r"\$\{(?![A-Za-z0-9_.]+\})", value), f"{value!r} would be computed"
    return value


def _decoded(name: str, value: Any) -> Any:
    """An option's value as its program reads it on."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [str(item) if isinstance(item, Path) else item for item in value]
    # the same names stand for paths in other programs
    is_json = (name in JSON_OPTIONS and isinstance(value, str) and value[:1] == "{") or name == "judge_endpoints"
    if not is_json or value is None:
        return value
    document = json.loads(value)
    found = document.get("parameters", {}).get("options", {}) if name == "artifact_header" else {}
    if "principle_weights" in found:
        found["principle_weights"] = json.loads(found["principle_weights"])
    return document


def mapped(value: Any, change: Any) -> Any:
    """A document with every text of it, names of fields included, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): mapped(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(item, change) for item in value]
    return value


def substituted(value: Any, before: str, after: str, is_path: bool) -> Any:
    """The document with one text put for another; a path as it lies below the volume."""
    if not is_path:
        return mapped(value, lambda text: text.replace(before, after))
    below = f"{MOUNT}/{before}"

    def change(text: str) -> str:
        return text.replace(below, on_volume(after)) if below in text else text.replace(before, after)

    return mapped(value, change)


def on_volume(path: str) -> str:
    """Where a path of the manifest is in a pod: below the volume's root, whatever it says."""
    steps: list[str] = []
    parts = re.split("/+", path)
    for part in parts[2:] if path.startswith(f"{MOUNT}/") and _stays_inside(parts[2:]) else parts:
        if part == "..":
            del steps[-1:]
        elif part not in ("", "."):
            steps.append(part)
    return posixpath.join(MOUNT, *steps)


def _stays_inside(parts: Sequence[str]) -> bool:
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True
