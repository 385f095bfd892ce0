"""The commands of our pages: every line of a console block that begins with `$ `, and what is printed below it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = ("README.md", "operator/install/README.md", "charts/cai-operator/README.md")
SHELL_FENCES = ("console", "sh", "bash", "shell")
INLINE = re.compile(r"`((?:cai|kubectl|helm|make|python -m cai_\w+(?:\.\w+)?) [^`\n]+)`")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        page: the page, relative to the repository.
        section: the heading it stands under.
        text: the command, all its lines, without a comment at the end.
        shown: the lines the page shows as its output, in the same block.
    """

    page: str
    section: str
    text: str
    shown: tuple[str, ...]


def pages() -> list[str]:
    """All pages whose commands are looked at."""
    found = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "runbooks").glob("*.md")]
    return [*OTHERS, *sorted(path.relative_to(ROOT).as_posix() for path in found)]


def commands(page: str) -> list[Command]:
    """The commands of a page, in order."""
    found = []
    for section, language, lines in _blocks(page):
        if language in SHELL_FENCES:
            found.extend(Command(page, section, text, shown) for text, shown in _split(lines))
    return found


def filled_in(command: Command, values: Mapping[str, str]) -> Command:
    """The command with words like NAME and NAMESPACE replaced."""
    words = re.compile(rf"(?<![A-Z_$])({'|'.join(values)})(?![A-Z_])")
    return replace(command, text=words.sub(lambda found: values[found[1]], command.text))


def inline_commands(page: str) -> list[str]:
    """Commands that the text mentions, outside of blocks; NAME, FILE and the like stand for something."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+", " ", found) for found in INLINE.findall(text.replace("\n", " "))]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return ["\n".join(lines) for _, its, lines in _blocks(page) if its == language]


def simple_commands(text: str) -> list[list[str]]:
    """The words of every simple command in a line of shell: those of a pipe, of a list, of a substitution."""
    inner = re.findall(r"\$\(([^()]*)\)", text)
    outer = re.sub(r"\$\([^()]*\)", "SUBSTITUTED", text.replace("\\\n", " "))
    found: list[list[str]] = []
    for part in (outer, *inner):
        lexer = shlex.shlex(part, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                found += [words] if words else []
                words = []
            else:
                words.append(word)
    return found


def has_valid_syntax(text: str) -> bool:
    """Whether bash can parse it."""
    return subprocess.run(["bash", "-n", "-c", text], capture_output=True).returncode == 0


def _blocks(page: str) -> Iterator[tuple[str, str, list[str]]]:
    section, language, lines = "", None, list[str]()
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        fence = re.fullmatch(r"\s*```(\w*)", line)
        if fence and language is None:
            language, lines = fence[1], []
        elif fence:
            yield section, language or "", lines
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")


def _split(lines: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        if not line.startswith("$ "):
            raise ValueError(f"a shell block has a line that is neither a command nor below one: {line}")
        text = line[2:]
        while rest and (text.endswith("\\") or not has_valid_syntax(text)):
            text += "\n" + rest.pop(0)
        shown = []
        while rest and not rest[0].startswith("$ "):
            shown.append(rest.pop(0))
        yield re.sub(r"\s+# .*$", "", text), tuple(shown)
