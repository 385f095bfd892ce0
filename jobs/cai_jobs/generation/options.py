"""Flags the generators share, and what is made of them. Flags of several words are taken with dashes or underscores."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

from cai_jobs.clients.inference import APIS, DEFAULT_HOST, DEFAULT_PORT, MEGATRON_IN_FLIGHT, OPENAI_IN_FLIGHT
from cai_jobs.clients.remote import RETRY_BUDGET_S
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.formats.chat import Template, unescape

INFERENCE = {
    "host": "the inference server: a name, each address of which is a replica, or HOST[:PORT] of several, with commas",
    "port": "the port of hosts that name none",
    "add_bos": "begin prompts with the tokenizer's BOS token",
    "top_k": "sample among so many tokens; 0 for all",
    "top_p": "sample among the likeliest tokens of this probability in all",
    "all_probs": "ask for all log-probabilities, which nothing here reads",
    "repetition_penalty": "at least 1, which is none",
    "min_tokens_to_generate": "fewest tokens of an answer",
    "temperature": "sampling temperature, above 0 and at most 100",
    "greedy": "always the likeliest token",
    "tokens_to_generate": "most tokens of an answer",
    "end_strings": "texts that end an answer",
}
TEMPLATE = {
    "user_format": "a user turn, with {MESSAGE} where its text goes",
    "assistant_format": "an assistant turn",
    "system_format": "the system turn",
    "system_default_message": "the system turn's text where a dialogue has none",
    "bos_token": "text before everything else",
    "eos_token": "text that ends an answer",
    "response_extract_pattern": "text whose last occurrence stands before a generated answer",
}
Group = argparse._ArgumentGroup | argparse.ArgumentParser


def add(group: Group, flag: str, *, help: str, **settings: Any) -> None:
    """Add a flag under both spellings, the given one first."""
    name = flag.removeprefix("--")
    other = name.replace("-", "_") if "-" in name else name.replace("_", "-")
    spellings = [flag] if other == name else [flag, f"--{other}"]
    group.add_argument(*spellings, help=help, **settings)


def truth(text: str) -> bool:
    """True or False as the reference's flags spell them."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"True or False is wanted, not {text!r}")
    return text.lower() == "true"


def add_inference(parser: Parser, defaults: dict[str, Any]) -> None:
    """The flags of the inference service; `defaults` by option name."""
    group = parser.add_argument_group("inference", "the inference service and how it samples")
    kinds: dict[str, Any] = {
        **dict.fromkeys(("add_bos", "all_probs", "greedy"), truth),
        **dict.fromkeys(("port", "top_k", "min_tokens_to_generate", "tokens_to_generate"), int),
        **dict.fromkeys(("top_p", "repetition_penalty", "temperature"), float),
    }
    for name, text in INFERENCE.items():
        settings: dict[str, Any] = {"nargs": "*"} if name == "end_strings" else {"type": kinds.get(name, str)}
        add(group, f"--{name}", default=defaults[name], help=text, **settings)
    add(
        group,
        "--server-api",
        choices=APIS,
        default="auto",
        help="PUT /generate of NeMo's server, or OpenAI's completions; auto: found out by asking",
    )
    add(
        group,
        "--requests-in-flight",
        type=int,
        help=f"to each server at a time; default: {MEGATRON_IN_FLIGHT}, or {OPENAI_IN_FLIGHT} by OpenAI's protocol",
    )
    add(group, "--request-timeout", type=float, default=3600.0, help="seconds one request may take")
    add(
        group,
        "--retry-budget",
        type=float,
        default=RETRY_BUDGET_S,
        help="seconds to go on trying from a server's first failure to its next answer",
    )
    add(
        group,
        "--max-rejected",
        type=float,
        default=0.05,
        help="share of the rows that may fail for their own reasons (rejected.jsonl); more end the run",
    )
    add(
        group,
        "--per-row-seeds",
        choices=["auto", "True", "False"],
        default="auto",
        help="a sampling seed a sentence, so that rows do not depend on their batch; auto: where the server is ours",
    )


def inference_defaults(**different: Any) -> dict[str, Any]:
    """The defaults both generators share, with what differs."""
    shared = {
        **{"host": DEFAULT_HOST, "port": DEFAULT_PORT, "add_bos": False, "all_probs": False},
        **{"min_tokens_to_generate": 1, "temperature": 1.0, "tokens_to_generate": 1024},
    }
    return {**shared, **different}


def add_template(parser: Parser, defaults: Template) -> None:
    """The flags of the prompt template, with a template's values as their defaults."""
    group = parser.add_argument_group("prompt template", "how a dialogue is written as text; \\n means a line break")
    for name, text in TEMPLATE.items():
        add(group, f"--{name}", default=getattr(defaults, name), help=text)


def inference_config(args: argparse.Namespace) -> dict[str, Any]:
    """The inference options of the parsed flags, by their names."""
    config = {name: getattr(args, name) for name in INFERENCE}
    if config["end_strings"] is not None:
        config["end_strings"] = [unescape(text) for text in config["end_strings"]]
    return config


def template_config(args: argparse.Namespace) -> dict[str, Any]:
    """The template options of the parsed flags, by their names, shell escapes resolved."""
    found = {name: getattr(args, name) for name in TEMPLATE}
    return {name: value if value is None else unescape(value) for name, value in found.items()}


def per_row_seeds(args: argparse.Namespace) -> bool | None:
    """The choice of --per-row-seeds: None for auto."""
    return None if args.per_row_seeds == "auto" else args.per_row_seeds == "True"


def dictionary(flag: str, text: str) -> dict[str, Any]:
    """A flag's value written as a Python or JSON dict.

    Raises:
        InputError: it is not one.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as problem:
        raise InputError(f"{flag}: {text[:80]!r} is no dict, such as \"{{'train': 0.8, 'test': 0.2}}\"") from problem
    if not isinstance(value, dict):
        raise InputError(f"{flag}: a dict is wanted, {text[:80]!r} is a {type(value).__name__}")
    return value


def splits(flag: str, text: str) -> dict[str, float]:
    """Split names and their shares of the whole.

    Raises:
        InputError: no split, a name or share that is none, or shares that do not sum to 1.
    """
    found = dictionary(flag, text)
    if not found:
        raise InputError(f"{flag}: at least one split is wanted")
    for name, share in found.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise InputError(f"{flag}: {name!r} is no name for a split")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InputError(f"{flag}: the share of {name!r} is {share!r}; a number above 0 and at most 1 is wanted")
    total = sum(found.values())
    if abs(total - 1) > 1e-6:
        raise InputError(f"{flag}: the shares of {', '.join(found)} sum to {total:g}; they must sum to 1")
    return found


def blend_files(flag: str, text: str, wanted: dict[str, float]) -> tuple[str, dict[str, dict[str, list[Path]]]]:
    """The name and, by split and kind, the files of --blend-with.

    Raises:
        InputError: a split too many or too few, another kind than prompts and comparisons, or a missing file.
    """
    found = dictionary(flag, text)
    name = found.pop("name", None)
    if not isinstance(name, str) or not name or "/" in name:
        raise InputError(f"{flag}: 'name' must be a name for the blend, it is {name!r}")
    for problem, names in (("unknown", set(found) - set(wanted)), ("missing", set(wanted) - set(found))):
        if names:
            raise InputError(
                f"{flag}: {problem} split {', '.join(sorted(map(str, names)))}; --splits has {', '.join(wanted)}"
            )
    files: dict[str, dict[str, list[Path]]] = {}
    for split, kinds in found.items():
        if not isinstance(kinds, dict) or set(kinds) != {"prompts", "comparisons"}:
            raise InputError(f"{flag}: split {split!r} must have exactly the keys 'prompts' and 'comparisons'")
        files[split] = {kind: _files(f"{flag}: {split}: {kind}", value) for kind, value in kinds.items()}
    return name, files


def _files(where: str, value: Any) -> list[Path]:
    paths = [Path(str(path)) for path in (value if isinstance(value, list | tuple) else [value])]
    if not paths:
        raise InputError(f"{where}: at least one file is wanted")
    for path in paths:
        if not path.is_file():
            raise InputError(f"{where}: {path}: no such file")
    return paths


def refuse_existing(journal: Path, *outputs: Path) -> None:
    """Keep finished files of an earlier run from being overwritten; those of an unfinished one have their journal."""
    found = [path for path in outputs if path.exists()]
    if found and not journal.exists():
        raise InputError(f"{found[0]} exists already; remove it or choose another output")
