"""Hydra overrides: what a program of NVIDIA's is told, one `key=value` argument a setting.

A setting's key is written as its default has it: plain where the program's config file has the key, with `++` where it
comes only with the base model's own config. Grammar: https://hydra.cc/docs/advanced/override_grammar/basic/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cai_operator.engines.options import OptionProblem
from cai_operator.problems import shown

Settings = Mapping[str, Any]
"""Key, with its `++` if it has one, -> value."""

_KEY = re.compile(r"(?:\+\+?)?[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
# what Hydra takes without quotes; a text beyond it is quoted, so that no character of it is grammar
_PLAIN = re.compile(r"[A-Za-z0-9_./@?*+%-]+")
# OmegaConf computes what quotes hold, too: ${model.x} is another setting, ${oc.env:HF_TOKEN} would be the hub's token
_COMPUTED = re.compile(r"\$\{(?![A-Za-z0-9_.]+\})")
_FORMS = "a dotted name such as model.optim.lr, with ++ before it where the program's config file lacks it"


def bare(key: str) -> str:
    """A key without its `+` or `++`."""
    return key.lstrip("+")


def check(overrides: Mapping[str, Any], ours: Settings, owned: Mapping[str, str]) -> Iterator[OptionProblem]:
    """What is wrong with the shape of a manifest's overrides, or meets what the operator sets itself.

    Args:
        overrides: key -> value, as the manifest has them.
        ours: what the program is told without them.
        owned: keys that may not be overridden, each with all below it -> what to do instead, as a sentence.
    """
    known = [bare(key) for key in ours]
    seen: dict[str, str] = {}
    for option, value in overrides.items():
        name = bare(option)
        if option.startswith("~"):
            yield OptionProblem(option, "a deletion", "a key with a value: ++KEY=null says that there is none")
        elif not _KEY.fullmatch(option):
            yield OptionProblem(option, "no Hydra key", _FORMS)
        elif name in seen:
            yield OptionProblem(option, f"the same key as {seen[name]}", "each key once")
        elif (instead := _instead(name, owned)) is not None:
            yield OptionProblem(option, "a setting the operator makes itself", instead)
        elif below := [other for other in (*known, *owned) if other.startswith(f"{name}.")]:
            yield OptionProblem(option, f"a block, of which {below[0]} is set", "the block's keys one by one")
        elif above := [other for other in known if name.startswith(f"{other}.")]:
            yield OptionProblem(option, f"a key below {above[0]}, which is a value", f"{above[0]} itself")
        elif value == "???":
            yield OptionProblem(option, '"???"', "a value: ??? is how Hydra writes that one is missing")
        elif not _is_line(value):
            yield OptionProblem(option, shown(value), "text without line breaks or other control characters")
        elif _is_computed(value):
            yield OptionProblem(option, shown(value), "a value, or another setting's as ${model.encoder_seq_length}")
        seen.setdefault(name, option)


def merged(ours: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings with the manifest's laid over them: each key once, spelled as ours where we have it."""
    spelled = {bare(key): key for key in ours}
    result = dict(ours)
    for option, value in overrides.items():
        result[spelled.get(bare(option), option)] = value
    return result


def value_of(settings: Settings, name: str) -> Any:
    """The value of a key, however it is spelled; None where it is not set."""
    return next((value for key, value in settings.items() if bare(key) == name), None)


def arguments(settings: Settings) -> tuple[str, ...]:
    """The settings as command line arguments, in their order."""
    return tuple(f"{key}={text_of(value)}" for key, value in settings.items())


def text_of(value: Any) -> str:
    """A value in Hydra's grammar. Text stays text only where it could not be read as something else: "null" is null."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return re.sub(r"e([+-])0+(?=\d)", r"e\1", str(value))  # 1e-6, as people write it, for Python's 1e-06
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(text_of, value)) + "]"
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    # inside quotes a backslash is itself, but where a quote follows: there each needs another
    return "'" + re.sub(r"(\\*)('|$)", _escaped, text) + "'"


def _escaped(found: re.Match[str]) -> str:
    return found.group(1) * 2 + (r"\'" if found.group(2) else "")


def _instead(name: str, owned: Mapping[str, str]) -> str | None:
    for key, sentence in owned.items():
        if name == key or name.startswith(f"{key}."):
            return sentence
    return None


def _is_computed(value: Any) -> bool:
    return any(isinstance(item, str) and _COMPUTED.search(item) for item in _items(value))


def _is_line(value: Any) -> bool:
    return all(not isinstance(item, str) or item.isprintable() for item in _items(value))


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
