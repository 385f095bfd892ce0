"""A manifest's document to the typed resource, all problems at once: where, what was found, what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cai_jobs.contract.program import InputError
from cai_operator import api_base
from cai_operator.api import CAIPipeline
from cai_operator.contradictions import contradictions
from cai_operator.problems import Problem, drop, shown

__all__ = ["InvalidResource", "Problem", "parse_pipeline", "parse_served"]

Location = tuple[str | int, ...]


class InvalidResource(InputError):
    """A document that is no valid CAIPipeline; `problems` lists all that is wrong with it, `unknown` unknown fields."""

    def __init__(self, problems: tuple[Problem, ...], unknown: tuple[Location, ...] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems, self.unknown = problems, unknown


def parse_pipeline(document: Mapping[str, Any]) -> CAIPipeline:
    """The typed resource of a document, as YAML or the API server gives it; its status is passed over.

    Raises:
        InvalidResource: it is not valid.
    """
    given = {key: value for key, value in document.items() if key != "status"}
    absent = [key for key in ("apiVersion", "kind") if key not in given]
    problems = [
        Problem(key, "nothing", f"{CAIPipeline.model_fields[_field(CAIPipeline, key)].default}") for key in absent
    ]
    try:
        text = json.dumps(given, default=str)
        pipeline = CAIPipeline.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as invalid:
        errors = invalid.errors()
        problems.extend(_problem(error) for error in errors)
        unknown = tuple(error["loc"] for error in errors if error["type"] == "extra_forbidden")
        raise InvalidResource(tuple(_without_repetition(problems)), unknown) from None
    problems.extend(contradictions(pipeline))
    told = {problem.path for problem in problems}
    problems.extend(problem for problem in _unusable_texts("spec", given["spec"]) if problem.path not in told)
    if problems:
        raise InvalidResource(tuple(problems))
    return pipeline


def parse_served(document: Mapping[str, Any]) -> tuple[CAIPipeline, tuple[str, ...]]:
    """The typed resource of a document the API server serves, and the paths of fields this version does not know.

    The API server lets no field in that its definition does not have: an unknown one is a newer definition's, which
    may stand there by default. It is passed over; refusing it would stop every pipeline between the upgrade of the
    definition and that of the operator.

    Raises:
        InvalidResource: it is not valid otherwise.
    """
    try:
        return parse_pipeline(document), ()
    except InvalidResource as problem:
        known, unknown = json.loads(json.dumps(document, default=str)), problem.unknown
        if not unknown or not all(drop(known, location) for location in unknown):
            raise
    return parse_pipeline(known), tuple(map(path_text, unknown))


def _unusable_texts(path: str, value: Any) -> Iterator[Problem]:
    """Texts no command line can hold: a null character ends an argument, and argparse drops a lone `--`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unusable_texts(path, str(name))
            yield from _unusable_texts(f"{path}.{name}", item)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _unusable_texts(f"{path}[{place}]", item)
    elif isinstance(value, str) and ("\0" in value or value == "--"):
        yield Problem(path, shown(value), "text without null characters that is not -- alone: programs are handed it")


def _problem(error: Any) -> Problem:
    location = tuple(part for part in error["loc"])
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    where = path_text(location)
    if kind == "missing":
        return Problem(where, "nothing", f"it must be given: {_description(location)}")
    if kind == "extra_forbidden":
        return _unknown(location)
    return Problem(where, shown(found), _allowed(kind, context, location))


def _unknown(location: tuple[str | int, ...]) -> Problem:
    model = _model_at(location[:-1])
    name = str(location[-1])
    names = [info.alias or field for field, info in model.model_fields.items()] if model is not None else []
    near = get_close_matches(name, names, 1) or [
        known for known in names if known.lower() == name.replace("_", "").lower()
    ]
    allowed = f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}"
    return Problem(path_text(location), "an unknown field", allowed)


_KINDS: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number (a YAML number with an exponent needs a point: 1.0e-6)",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "tuple_type": "a list",
    "list_type": "a list",
}

PATTERNS: Mapping[str, str] = {
    api_base.OBJECT_NAME_PATTERN: "lower case letters, digits, '-' and '.', with a letter or digit first and last",
    api_base.QUANTITY_PATTERN: "a quantity such as 2, 500m, 16Gi or 2Ti",
    api_base.DURATION_PATTERN: "a duration such as 90m, 12h or 1d6h",
    api_base.CONFIG_KEY_PATTERN: "letters, digits, '-', '_' and '.'",
    api_base.URL_PATTERN: "an address that begins with http:// or https://",
    api_base.INTERFACE_PATTERN: "the name of one network interface, such as eth0",
    api_base.DEVICE_PATTERN: "the name of an extended resource with its domain, such as rdma/hca",
    api_base.COMMUNICATION_PATTERN: "a variable of NCCL, Gloo, UCX or libfabric, such as NCCL_IB_HCA",
}
"""Patterns of the resource's texts, and what they allow in words."""


def _allowed(kind: str, context: Mapping[str, Any], location: tuple[str | int, ...]) -> str:
    if "overrides" in location:
        return "text, a number, true or false, or a list of them"
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"one of {', '.join(names)}" if len(names) > 1 else names[0] if names else context["expected"]
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], context["pattern"])
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("above", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("below", "lt"),
    }
    if kind in bounds:
        word, name = bounds[kind]
        return f"{word} {context[name]:g}"
    if kind in ("too_short", "too_long"):
        word, name = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"{word} {context[name]} items"
    if kind in ("string_too_short", "string_too_long"):
        word, name = ("at least", "min_length") if kind == "string_too_short" else ("at most", "max_length")
        return f"{word} {context[name]} character{'s' if context[name] != 1 else ''}"
    return kind.replace("_", " ")


def _without_repetition(problems: list[Problem]) -> list[Problem]:
    # every arm of a union complains about the same value, and a list about its items: the first, innermost one will do
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    return [problem for path, problem in first.items() if not any(other.startswith(f"{path}[") for other in first)]


def path_text(location: tuple[str | int, ...]) -> str:
    """A field's path as people write it: `spec.stages.rlData.temperatures[0]`; names of a union's arms are left out."""
    text = ""
    for place, part in enumerate(location):
        if isinstance(part, int):
            text += f"[{part}]"
        elif place and location[place - 1] != "overrides" and "overrides" in location[: max(place - 1, 0)]:
            continue
        else:
            text += f".{part}" if text else part
    return text


def _model_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = CAIPipeline
    for part in location:
        if isinstance(part, int):
            continue
        if model is None or not (field := _field(model, part)):
            return None
        model = _model_in(model.model_fields[field].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arm in get_args(annotation) if (model := _model_in(arm)) is not None), None)


def _field(model: type[BaseModel], name: str) -> str:
    return next((field for field, info in model.model_fields.items() if (info.alias or field) == name), "")


def _description(location: tuple[str | int, ...]) -> str | None:
    model = _model_at(location[:-1])
    if model is None or not (field := _field(model, str(location[-1]))):
        return None
    return model.model_fields[field].description
