"""A program's own options: which there are, whether a value fits, and how values become flags.

Read off the program's parser, so that what the manifest may override is what the program takes, no more and no less.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from cai_jobs.contract.program import InputError


@dataclass(frozen=True)
class OptionProblem:
    """What is wrong with one option: its name as written, what was found, what is allowed."""

    option: str
    found: str
    allowed: str


@cache
def program_parser(program: str) -> argparse.ArgumentParser:
    """The parser of `python -m cai_jobs.<program>`; importing a program imports none of its heavy libraries."""
    parser: argparse.ArgumentParser = importlib.import_module(f"cai_jobs.{program}").build_parser()
    return parser


def canonical_name(name: str) -> str:
    """An option's name as the parser's namespace has it: `learning-rate` and `--learning_rate` are one."""
    return name.lstrip("-").replace("-", "_")


def check(program: str, overrides: Mapping[str, Any], owned: Mapping[str, str]) -> list[OptionProblem]:
    """What is wrong with overrides of a program's options.

    Args:
        program: the module's name.
        overrides: option -> value, as the manifest has them.
        owned: options that may not be overridden -> what to do instead, as a sentence.
    """
    actions = _actions(program)
    problems = []
    seen: dict[str, str] = {}
    for option, value in overrides.items():
        name = canonical_name(option)
        if name in seen:
            problems.append(OptionProblem(option, f"the same option as {seen[name]}", "each option once"))
        seen[name] = option
        action = actions.get(name)
        if name in owned:
            problems.append(OptionProblem(option, "an option the operator sets itself", owned[name]))
        elif action is None:
            problems.append(OptionProblem(option, f"no option of {program}", _nearest(name, actions, owned)))
        else:
            problem = _value_problem(option, action, value)
            problems.extend([problem] if problem else [])
    return problems


def typed(program: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by their canonical names, values as its parser reads them: 1e-4 and "0.0001" are one."""
    actions = _actions(program)
    return {
        canonical_name(option): _typed(actions[canonical_name(option)], value) for option, value in overrides.items()
    }


def flags(program: str, values: Mapping[str, Any]) -> list[str]:
    """The command line for option values by canonical name; None is left out.

    Raises:
        KeyError: the program has no such option.
    """
    actions = _actions(program)
    line: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        action = actions[name]
        spelling = _spelling(action)
        if isinstance(action, argparse.BooleanOptionalAction):
            line.append(spelling if value else f"--no-{spelling[2:]}")
        elif action.nargs == 0:
            line.extend([spelling] if value else [])
        elif isinstance(value, list | tuple) and action.nargs in ("+", "*"):
            line.extend([spelling, *map(_text, value)])
        elif isinstance(value, list | tuple) and isinstance(action, argparse._AppendAction):
            line.extend(part for item in value for part in (spelling, _text(item)))
        else:
            text = _text(value)
            # a value that begins with a dash would be read as a flag
            line.extend([f"{spelling}={text}"] if text.startswith("-") else [spelling, text])
    return line


def parses(program: str, argv: Sequence[str]) -> argparse.Namespace:
    """The namespace of a command line.

    Raises:
        InputError: the program does not take it.
    """
    return program_parser(program).parse_args(list(argv))


@cache
def _actions(program: str) -> Mapping[str, argparse.Action]:
    parser = program_parser(program)
    return {action.dest: action for action in parser._actions if action.option_strings and action.dest != "help"}


def _spelling(action: argparse.Action) -> str:
    return next(text for text in action.option_strings if text.startswith("--"))


def _nearest(name: str, actions: Mapping[str, argparse.Action], owned: Mapping[str, str]) -> str:
    free = [other for other in actions if other not in owned]
    near = get_close_matches(name, free, 1)
    spelled = [_spelling(actions[other])[2:] for other in near or sorted(free)]
    return f"did you mean {spelled[0]}?" if near else f"one of {', '.join(spelled)}"


def _value_problem(option: str, action: argparse.Action, value: Any) -> OptionProblem | None:
    items = value if isinstance(value, list | tuple) else [value]
    takes_many = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    if isinstance(value, list | tuple) and not takes_many:
        return OptionProblem(option, _shown(value), "one value")
    if action.nargs == 0:
        return None if isinstance(value, bool) else OptionProblem(option, _shown(value), "true or false")
    for item in items:
        if takes_many and _text(item).startswith("-") and not isinstance(item, int | float):
            return OptionProblem(option, _shown(item), "items that do not begin with '-', as options do")
        try:
            converted = _convert(action, item)
        except (ValueError, TypeError, InputError, argparse.ArgumentTypeError) as problem:
            sentence = str(problem) if isinstance(problem, argparse.ArgumentTypeError) else _kind(action)
            return OptionProblem(option, _shown(item), sentence)
        if action.choices is not None and converted not in action.choices:
            return OptionProblem(option, _shown(item), f"one of {', '.join(map(str, action.choices))}")
    return None


def _kind(action: argparse.Action) -> str:
    kinds: dict[Any, str] = {int: "a whole number", float: "a number"}
    return kinds.get(action.type, f"a value for --{action.dest.replace('_', '-')}")


def _convert(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, bool) and action.type in (int, float):
        raise TypeError("a truth value is no number")
    return action.type(_text(value)) if callable(action.type) else _text(value)


def _typed(action: argparse.Action, value: Any) -> Any:
    if action.nargs == 0:
        return bool(value)
    if isinstance(value, list | tuple):
        return [_typed_item(action, item) for item in value]
    item = _typed_item(action, value)
    return [item] if action.nargs in ("+", "*") else item


def _typed_item(action: argparse.Action, value: Any) -> Any:
    converted = _convert(action, value)
    return converted if isinstance(converted, bool | int | float | str) else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
