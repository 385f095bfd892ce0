"""Our pages agree with the code: reasons, examples, links, and commands that can be parsed."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from tests.harness import doc_runs
from tests.harness.doc_commands import ROOT, SHELL_FENCES, commands, has_valid_syntax, inline_commands, pages
from tests.harness.doc_commands import simple_commands as simple

from cai_operator import cli, conditions
from cai_operator.status import Phase

OPERATOR = ROOT / "operator" / "cai_operator"
TYPES = {conditions.READY, conditions.PROGRESSING, conditions.DEGRADED, conditions.SUSPENDED}
EVERY_COMMAND = [command for page in pages() for command in commands(page)]


# ---- reasons --------------------------------------------------------------------------------------------------------


def reasons_in_the_code() -> set[str]:
    """Every constant of conditions.py that is a reason, and every reason that a condition or an event is made with."""
    found = {value for name, value in vars(conditions).items() if name.isupper() and isinstance(value, str)} - TYPES
    for path in OPERATOR.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                place = {"Finding": 2, "Event": 1}.get(call.func.id)
                if place is not None:
                    found |= set(_words(call.args[place]))
    return found


def _words(value: ast.expr) -> list[str]:
    if isinstance(value, ast.Constant):
        return [str(value.value)]
    if isinstance(value, ast.IfExp):
        return [*_words(value.body), *_words(value.orelse)]
    if isinstance(value, ast.JoinedStr):
        (prefix,) = (part.value for part in value.values if isinstance(part, ast.Constant))
        return [f"{prefix}{phase}" for phase in Phase]
    return []  # a variable: a state, or a constant of conditions.py


def entries() -> set[str]:
    page = (ROOT / "docs" / "troubleshoot.md").read_text()
    told = page.partition("## Words that mean no trouble")
    headings = re.findall(r"^### (\w+)$", told[0], re.MULTILINE)
    harmless = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", told[2], re.MULTILINE)))
    assert len(headings) == len(set(headings))
    return {*headings, *harmless}


def test_every_reason_has_an_entry_in_troubleshoot_and_every_entry_is_a_reason() -> None:
    code = reasons_in_the_code()
    assert {"ImagePullFailed", "Complete", "PipelineFailed", "NotAsked", "Renewed", "GateNotMet"} <= code
    assert code - entries() == set()
    # events of a stage are named after its state
    assert entries() - code <= {"Starting", "Running", "Succeeded", "Failed", "Suspended"}


# ---- examples and links ---------------------------------------------------------------------------------------------


def test_every_example_has_its_line() -> None:
    page = (ROOT / "docs" / "README.md").read_text()
    for example in (ROOT / "examples").iterdir():
        assert f"(../examples/{example.name})" in page, f"docs/README.md does not name {example.name}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name}" in index, f"docs/README.md does not name {page.name}"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", [*pages(), *(f"docs/adr/{path.name}" for path in (ROOT / "docs/adr").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", here.read_text(), flags=re.M | re.S)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (here.parent / path).resolve() if path else here
        assert there.exists(), f"{page} links to {target}, which is not there"
        assert not anchor or anchor in anchors(there), f"{page} links to {target}, which has no such heading"


# ---- commands -------------------------------------------------------------------------------------------------------


def test_no_list_has_what_no_page_has() -> None:
    for begin in (*doc_runs.ON_NODE, *doc_runs.PARSED):
        assert any(command.text.startswith(begin) for command in EVERY_COMMAND), f"no page has {begin!r}"


def test_blocks_of_commands_are_console_blocks() -> None:
    for page in pages():
        fences = re.findall(r"^\s*```(\w+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert not set(fences) & set(SHELL_FENCES[1:]), f"{page}: write ```console, and `$ ` before each command"


@pytest.mark.parametrize("text", sorted({command.text for command in EVERY_COMMAND}))
def test_a_command_has_a_shells_syntax_files_that_exist_and_known_flags(text: str) -> None:
    assert has_valid_syntax(text)
    if doc_runs.reason(text, doc_runs.PARSED) == doc_runs.PARSED["python examples/nlp/gpt/train_reward_model.py"]:
        return
    for words in simple(text):
        check(words)


@pytest.mark.parametrize("page", pages())
def test_commands_in_the_text_have_known_flags(page: str) -> None:
    for text in inline_commands(page):
        try:
            found = simple(text.replace("…", "ANY").replace("*", "ANY"))
        except ValueError:
            raise AssertionError(f"{page}: {text} is no shell") from None
        for words in found:
            check(words)


def check(words: list[str]) -> None:
    """That what one command names is there: targets of make, our files, flags of our commands."""
    name, rest = words[0].rpartition("/")[2], words[1:]
    for word in rest:
        ours = re.match(r"(?:examples|charts|crds|operator|docs)/\S*$", word)
        assert not ours or (ROOT / word).exists(), f"{shlex.join(words)}: {word} is not there"
    if name == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in targets, f"make has no {rest[0]}"
    if name == "cai":
        assert flags(rest) <= cai_flags(rest[0]), f"cai {rest[0]} has no {flags(rest) - cai_flags(rest[0])}"
    if name.startswith("python") and rest[:1] == ["-m"] and rest[1].startswith("cai_jobs.") and "NAME" not in rest[1]:
        assert flags(rest) - {"-m", "--help"} <= program_flags(rest[1])


def flags(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}


@cache
def cai_flags(command: str) -> frozenset[str]:
    (subcommands,) = (one for one in cli.build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    assert command in subcommands.choices, f"cai has no command {command}"
    return _flags_of(subcommands.choices[command])


@cache
def program_flags(module: str) -> frozenset[str]:
    return _flags_of(importlib.import_module(module).build_parser())


def _flags_of(parser: argparse.ArgumentParser) -> frozenset[str]:
    return frozenset(chain.from_iterable(action.option_strings for action in parser._actions))
