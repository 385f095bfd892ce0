"""Text a user may write anywhere into a manifest: refused with its path, or found again as it was written.

A pipeline is rendered twice, once with a harmless word in a field and once with a text that would like to be something
else: a flag, a variable, a line of a shell. What the programs then read must differ in that text alone.
"""

from __future__ import annotations

import copy
import functools
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.kubelet_words import argv_of, variables_of
from tests.harness.pipelines import merged

from cai_jobs.nemo import commands
from cai_operator.api import CAIPipeline
from cai_operator.engines import EngineError, hf_options, options
from cai_operator.engines.nemo_models import OPTIONS as CONVERSION
from cai_operator.manifests.site import MOUNT, Site
from cai_operator.plan import node_keys
from cai_operator.render import manifests_by_node
from cai_operator.validation import InvalidResource, parse_pipeline

ROOT = Path(__file__).parents[3]
SITE = Site(images={"hf": "cai-jobs:1", "nemo": "cai-nemo:1"})
HYDRA = OverridesParser.create()

Document = dict[str, Any]
FieldPath = tuple[str | int | float, ...]

HARMLESS = "harmless0"
# each as short as it can be: a flag, a mark, a variable, a shell, quotes, an end, grammar, a way out
CORE = (
    *("--help", "--", "$(HOME)", "${oc.env:HOME}", "`id` $(id); cat | x > /x", "a'\"\\", "\x00", "a\n-b"),
    *("[x,{a:b}]", "../../x"),
)
NASTY = (
    *CORE,
    "--artifact-dir=/elsewhere",
    "--help",
    "-x",
    "--",
    "-",
    "$(HOME)",
    "$$(HOME)",
    "a$(PATH)$",
    "${HOME}",
    "${oc.env:HOME}",
    "$HOME `id` $(id); rm -rf / # | cat && true > /x",
    'it\'s "quoted" \\\' \\" \\\\',
    "a\nb\r\n\tc",
    "with space",
    " ",
    "",
    "a=b,c:d",
    "[x,y]",
    "{a:b}",
    '{"path": "/etc"}',
    "null",
    "true",
    "1e3",
    "@/etc/passwd",
    "%s {0} {name} {{x}}",
    "../../../etc/passwd",
    "/etc/passwd",
    "\x00",
    "a\x00--help",
    "\x1b[31m",
    "ünïcödé 漢字 \u202e \u2028",
)

# two stages on several machines, so that launchers and rendezvous are rendered too
HF: Document = {
    "apiVersion": "cai.dev/v1alpha1",
    "kind": "CAIPipeline",
    "metadata": {"name": "pipe", "namespace": "lab"},
    "spec": {
        "engine": "hf",
        "gpusPerNode": 2,
        "models": {
            "base": {"huggingFace": {"repo": "owner/mistral"}},
            "assistant": {"huggingFace": {"repo": "owner/mistral-helpful"}},
        },
        "judge": {"url": "https://judge/v1", "model": "m", "apiKeySecret": {"name": "s", "key": "k"}},
        "hubTokenSecret": {"name": "h", "key": "k"},
        "stages": {"sft": {"nodes": 2}},
    },
}
NEMO = merged(
    HF, {"spec": {"engine": "nemo", "stages": {"models": {"overrides": {"converter": "mistral"}}, "ppo": {"nodes": 2}}}}
)
ENGINES = {"hf": HF, "nemo": NEMO}
PANEL = [{"url": "https://one/v1", "model": "a", "apiKeySecret": {"name": "s", "key": "k"}}]
PANEL += [{"url": "https://two/v1", "model": "b"}]

JSON_OPTIONS = (
    *("artifact_header", "base", "assistant", "red_team", "helpfulness", "preference", "inputs", "principle_weights"),
)


@dataclass(frozen=True, eq=False)
class Field:
    """A place of the manifest that takes text.

    Attributes:
        path: where it is, an index for an item of a list.
        around: what is laid over the engine's manifest first.
        is_key: whether the text is the name of an entry rather than its value.
        is_path: whether programs get it below the volume's root.
    """

    path: FieldPath
    around: Document | None = None
    is_key: bool = False
    is_path: bool = False

    def manifest(self, engine: str, text: str) -> Document:
        document = copy.deepcopy(merged(ENGINES[engine], {"spec": self.around or {}}))
        place: Any = document
        for part, following in zip(self.path[:-1], self.path[1:], strict=True):
            if isinstance(place, list):
                place.extend({} for _ in range(len(place), int(part) + 1))
                place = place[int(part)]
            else:
                place = place.setdefault(part, [] if isinstance(following, int) else {})
        last = self.path[-1]
        if self.is_key:
            place[text] = last
        elif isinstance(place, list):
            place.append(text)
        else:
            place[last] = text
        return document

    @property
    def shown(self) -> str:
        kept = self.path[:-1] if self.is_key else self.path
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in kept)[1:]

    def __str__(self) -> str:
        return self.shown + (" (key)" if self.is_key else "")


def _spec(path: str, around: Document | None = None, **flags: bool) -> Field:
    parts = tuple(int(part) if part.isdecimal() else part for part in path.split("/"))
    return Field(("spec", *parts), around, **flags)


def _source(kind: str, name: str, path: bool = False) -> Document:
    given: Document = {"path": "x"} if path else {"huggingFace": {"repo": "mistral"}}
    if kind == "models":
        other = "assistant" if name == "base" else "base"
        return {kind: {name: {"huggingFace": None, **given}, other: HF["spec"]["models"][other]}}
    return {kind: {name: given}}


def _common() -> Iterator[Field]:
    for name in ("base", "assistant"):
        yield _spec(f"models/{name}/huggingFace/repo", _source("models", name))
        yield _spec(f"models/{name}/huggingFace/revision", _source("models", name))
        yield _spec(f"models/{name}/path", _source("models", name, path=True), is_path=True)
    for name in ("redTeam", "helpfulness", "preference"):
        yield _spec(f"datasets/{name}/huggingFace/repo", _source("datasets", name))
        yield _spec(f"datasets/{name}/path", _source("datasets", name, path=True), is_path=True)
    for name in ("revision", "split", "dataDirs/0"):
        yield _spec(f"datasets/redTeam/huggingFace/{name}", _source("datasets", "redTeam"))
    yield _spec("constitution/path", is_path=True)
    for name in ("url", "model", "apiKeySecret/name", "apiKeySecret/key"):
        yield _spec(f"judge/{name}")
    alone = {"judge": {"url": None, "model": None, "apiKeySecret": None, "panel": PANEL}}
    for name in ("url", "model", "apiKeySecret/name"):
        yield _spec(f"judge/panel/0/{name}", alone)
    for name in ("name", "key"):
        yield _spec(f"hubTokenSecret/{name}")
    yield _spec("image")
    yield _spec("stages/sft/image")
    for name in ("priorityClassName", "runtimeClassName", "schedulerName", "queueName", "shmSize"):
        yield _spec(f"template/{name}")
    yield _spec("template/imagePullSecrets/0/name")
    yield _spec("template/tolerations/0/key")
    yield _spec("template/affinity/nodeAffinity/anything")
    yield _spec("template/topologySpreadConstraints/0/topologyKey")
    for name in ("nodeSelector", "labels", "annotations"):
        yield _spec(f"template/{name}/some")
        yield _spec(f"template/{name}/value", is_key=True)
    yield _spec("template/interconnect/interface")
    yield _spec("template/interconnect/env/0/value", {"template": {"interconnect": {"env": [{"name": "NCCL_IB_HCA"}]}}})
    yield _spec("template/interconnect/env/0/name", {"template": {"interconnect": {"env": [{"value": "x"}]}}})
    yield _spec("template/interconnect/devices/0/resource")
    for name in ("storageClassName", "size"):
        yield _spec(f"storage/{name}")
    yield _spec("storage/claimName")
    yield _spec("stages/slData/resources/cpu")
    yield _spec("stages/sft/deadline")
    for name in ("name", "namespace"):
        yield Field(("metadata", name))


# where a program's options stand in the manifest, beside the stage's own overrides
_SERVERS = {"slData/server": "serve", "rlData/server": "serve", "ppo/critic": "serve_critic"}


def _free_text(program: str) -> Iterator[str]:
    """A program's options that take any text, and that the manifest may set."""
    for name, action in options._actions(program).items():
        takes_text = action.nargs != 0 and action.type in (None, str) and not action.choices
        if takes_text and name not in hf_options.OWNED[program]:
            yield name


def _hf() -> Iterator[Field]:
    places = {**hf_options.PROGRAMS, **_SERVERS}
    for place, program in places.items():
        for option in _free_text(program):
            yield _spec(f"stages/{place}/overrides/{option}")
        yield _spec(f"stages/{place}/overrides/value", is_key=True)
    yield _spec("stages/slData/overrides/end_strings/0")
    yield Field(("spec", "stages", "slData", "principleWeights", 1.0), is_key=True)


def _nemo() -> Iterator[Field]:
    for place in ("sft", "rewardModel", "ppo", "ppo/critic", "slData/server", "serve"):
        yield _spec(f"stages/{place}/overrides/model.some_text")
        yield _spec(f"stages/{place}/overrides/model.some_list/0")
        yield _spec(f"stages/{place}/overrides/value", is_key=True)
    for option in CONVERSION:
        yield _spec(f"stages/models/overrides/{option}")
    for place in ("slData", "rlData", "evaluate", "datasets", "report"):
        for option in _free_text(hf_options.PROGRAMS[place]):
            yield _spec(f"stages/{place}/overrides/{option}")


FIELDS = {"hf": (*_common(), *_hf()), "nemo": (*_common(), *_nemo())}
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
