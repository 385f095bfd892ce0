"""The judge's flags of the reinforcement stage's generator, and the settings made of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError, Parser
from cai_jobs.formats import constitution
from cai_jobs.generation import options
from cai_jobs.generation.judging.judge import EndpointSettings, JudgeSettings

DEFAULT_URL = "https://integrate.api.nvidia.com/v1/chat/completions"
DEFAULT_MODEL = "mistralai/mixtral-8x7b-instruct-v0.1"
KEY_VARIABLE = "NGC_API_KEY"
ENDPOINT_FIELDS = ("url", "model", "key_variable")
ENDPOINT_EXAMPLE = '[{"url": "https://.../v1", "model": "NAME", "key_variable": "MY_KEY"}, ...]'


def add_judge(parser: Parser) -> None:
    """Add the judge's flags."""
    group = parser.add_argument_group("judge", "OpenAI chat completions servers, NVIDIA's NGC by default")
    add = options.add
    add(
        group,
        "--judge",
        choices=["ngc", "self"],
        default="ngc",
        help="self: the inference server judges its own answers",
    )
    add(
        group, "--ngc-api-key", help=f"the key; better in the environment variable {KEY_VARIABLE}, where nobody sees it"
    )
    add(group, "--ngc-url", default=DEFAULT_URL, help="the judge's chat completions page")
    add(group, "--ngc-model", default=DEFAULT_MODEL, help="the judge's name there")
    add(
        group,
        "--judge-endpoints",
        help=f"several judges that vote, in place of the one above, as JSON: {ENDPOINT_EXAMPLE}; key_variable is the "
        "environment variable with the key, where one is wanted",
    )
    add(
        group,
        "--judge-mode",
        choices=["constitution", "principle"],
        default="constitution",
        help="constitution: all of it and all candidates at once, best and worst are named; principle: two candidates "
        "by one principle, in both orders, with probabilities, as in the paper",
    )
    add(
        group,
        "--sys-prompt-constitution-file-path",
        type=Path,
        default=constitution.JUDGE_PROMPT,
        help="constitution mode: the judge's system prompt, with the whole constitution",
    )
    add(
        group,
        "--comparison-principles-path",
        type=Path,
        default=constitution.COMPARISON_PRINCIPLES,
        help="principle mode: what to compare by, JSON",
    )
    add(
        group,
        "--judge-chain-of-thought",
        type=options.truth,
        default=False,
        help="principle mode: think first; probabilities are then kept between 0.4 and 0.6",
    )
    add(
        group,
        "--comparisons-per-prompt",
        type=_comparisons,
        default=1,
        help="principle mode: pairs of a prompt's candidates to compare, drawn by the seed; all for all of them",
    )
    add(group, "--judge-concurrency", type=int, default=8, help="requests sent to a judge at a time")
    add(group, "--judge-rate", type=float, help="most requests a second to a judge; default: no limit")


def judge_settings(args: argparse.Namespace) -> JudgeSettings:
    """What the parsed flags say of the judge; keys are read from the environment.

    Raises:
        InputError: a flag, a constitution's file or a list of judges is wrong, or a key is missing.
    """
    for name in ("judge_concurrency", "judge_rate"):
        value = getattr(args, name)
        least = 1 if name == "judge_concurrency" else 0
        if value is not None and (value < least or value == 0):
            wanted = "at least 1" if least else "a number above 0"
            raise InputError(f"--{name.replace('_', '-')} {value}: {wanted} is wanted")
    if args.judge_mode == "constitution":
        by: dict[str, Any] = {"system_prompt": constitution.read_judge_prompt(args.sys_prompt_constitution_file_path)}
        if args.judge_chain_of_thought or args.comparisons_per_prompt != 1:
            flag = "--judge-chain-of-thought" if args.judge_chain_of_thought else "--comparisons-per-prompt"
            raise InputError(f"{flag} is for --judge-mode principle; give that, or leave it out")
    else:
        by = {
            "principles": tuple(constitution.read_comparison_principles(args.comparison_principles_path)),
            "chain_of_thought": args.judge_chain_of_thought,
            "comparisons_per_prompt": args.comparisons_per_prompt,
        }
    return JudgeSettings(
        seed=args.seed,
        mode=args.judge_mode,
        endpoints=_endpoints(args),
        concurrency=args.judge_concurrency,
        rate=args.judge_rate,
        request_timeout_s=args.request_timeout,
        retry_budget_s=args.retry_budget,
        **by,
    )


def constitution_path(args: argparse.Namespace) -> Path:
    """The file that says what the judge goes by in its mode."""
    path: Path = (
        args.sys_prompt_constitution_file_path if args.judge_mode == "constitution" else args.comparison_principles_path
    )
    return path


def _endpoints(args: argparse.Namespace) -> tuple[EndpointSettings, ...]:
    if args.judge_endpoints is not None:
        if args.judge == "self":
            raise InputError("--judge self and --judge-endpoints: give one of them, they name different judges")
        return _parse_endpoints(args.judge_endpoints)
    if args.judge == "self":
        return ()
    if args.ngc_api_key:
        print(
            f"warning: --ngc-api-key is there to read in the list of processes; set {KEY_VARIABLE} instead",
            file=sys.stderr,
        )
    key = os.environ.get(KEY_VARIABLE) or args.ngc_api_key
    if not key and args.ngc_url == DEFAULT_URL:
        raise InputError(f"the judge {args.ngc_url} wants a key: set the environment variable {KEY_VARIABLE}")
    return (EndpointSettings(args.ngc_url, args.ngc_model, key=key, key_variable=KEY_VARIABLE),)


def _parse_endpoints(text: str) -> tuple[EndpointSettings, ...]:
    flag = "--judge-endpoints"
    try:
        values = json.loads(text)
    except ValueError as problem:
        raise InputError(f"{flag}: not JSON ({problem}); a list is wanted, such as {ENDPOINT_EXAMPLE}") from problem
    if not isinstance(values, list) or not values:
        raise InputError(f"{flag}: a list of at least one judge is wanted, such as {ENDPOINT_EXAMPLE}")
    found = []
    for number, value in enumerate(values, start=1):
        where = f"{flag}: judge {number}"
        if not isinstance(value, dict) or set(value) - set(ENDPOINT_FIELDS):
            raise InputError(f"{where}: an object with url, model and, where a key is wanted, key_variable is wanted")
        for name in ("url", "model"):
            if not isinstance(value.get(name), str) or not value[name]:
                raise InputError(f'{where}: "{name}" must be text, it is {value.get(name)!r}')
        variable = value.get("key_variable")
        if variable is not None and not isinstance(variable, str):
            raise InputError(f'{where}: "key_variable" must be the name of an environment variable, it is {variable!r}')
        key = os.environ.get(variable) if variable else None
        if variable and not key:
            raise InputError(f"{where}: its key is wanted in the environment variable {variable}, which is not set")
        found.append(EndpointSettings(value["url"], value["model"], key=key, key_variable=variable))
    return tuple(found)


def _comparisons(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1 or all is wanted, not {text!r}")
    return int(text)
