"""Every place of a manifest that takes text, and texts that would like to be something else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.harness.pipelines import merged

from cai_operator.engines import hf_options, options
from cai_operator.engines.nemo_models import OPTIONS as CONVERSION

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
    "-x",
    "-",
    "$$(HOME)",
    "a$(PATH)$",
    "${HOME}",
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
