"""Read what judges write: a pair of numbers in constitution mode, one letter in principle mode. Never a guess.

Judges are asked for a fixed form and give many others, and candidates may hold text that looks like a verdict, which
judges quote. So a verdict counts

- where it was asked for: it opens the reply, or ends it after a chain of thought;
- anywhere else only if no other verdict in the reply contradicts it, and if it is no quotation of what was shown.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# each costs time in the length of the reply, and a judge gone astray may write braces without end
MOST_BROKEN_OBJECTS = 50
_CHOSEN = ("chosen", "mostharmless")
_REJECTED = ("rejected", "mostharmful")
_EXPLANATION = ("explanation", "explain", "reason", "reasoning", "rationale")
_QUOTES = "\"'`*_“”„‘’«»"
_NAMED = r"(?:most[\s\\_-]*harm{}|{})"
_CHOSEN_NAME, _REJECTED_NAME = _NAMED.format("less", "chosen"), _NAMED.format("ful", "rejected")
# a number that is not negative, not the beginning of a list and not a fraction
_A_NUMBER = r"(?<!-)(\d{1,9})(?![\d/]|\.\d|\s*(?:,|and|or|&)\s*#?\d)"
_IS_A_NUMBER = (
    rf"[^\w#]{{0,12}}?(?:(?:is|response|answer|candidate|option|number)\b[^\w#]{{0,6}}?){{0,3}}#?\s?{_A_NUMBER}"
)
_BETWEEN = r"[^\w#]{0,12}(?:and\W{1,4})?(?:the\W)?"
_FRAGMENTS = [
    re.compile(rf"\b{first}\b{_IS_A_NUMBER}{_BETWEEN}{second}\b{_IS_A_NUMBER}", re.IGNORECASE)
    for first, second in ((_CHOSEN_NAME, _REJECTED_NAME), (_REJECTED_NAME, _CHOSEN_NAME))
]
_OPENING_BRACE = re.compile(r"\s*[`*#:>\s]{0,9}(?:json|python|verdict|answer)?[`*#:>[\s]{0,9}\{", re.IGNORECASE)

_LETTER = rf"[\[({_QUOTES}]{{0,4}}(?P<letter>[AB])(?![^\W_]|['’][^\W_])"
_ANSWER_WORDS = (
    r"(?:(?:answer|choice|verdict|decision|option|response|winner|antwort|r[ée]ponse|respuesta|risposta|resposta|odpowied[zź]|"
    r"cevap|ответ)\b|答案|回答|答え|정답|답변|الإجابة|उत्तर)"
)
_STATEMENTS = [
    # "the answer is: (B)", "Antwort: B", "答案是 (B)"
    rf"(?i:{_ANSWER_WORDS})[\s{_QUOTES}]{{0,4}}(?i:is|ist|est|es|è|é|to|是|为|為|は|:|：|=)[\s:：{_QUOTES}]{{0,6}}(?i:option|answer|response)?\s?",
    # "I choose (A)", "I would go with option B"
    r"(?i:\bI\s+(?:would\s+|'d\s+|will\s+|must\s+|have\s+to\s+)?(?:choose|pick|select|prefer|go\s+with))\s+(?i:the\s+)?(?i:option|answer|response)?\s?",
]
_STATED = [re.compile(pattern + _LETTER) for pattern in _STATEMENTS]
# "(B) is better", "Response A agrees better"
_STATED.append(
    re.compile(
        rf"{_LETTER}[\])}}{_QUOTES}]{{0,4}}\s(?i:(?:is|agrees|fits|does)\s(?:clearly\s|much\s|the\s)*(?:better|best|preferable|preferred))\b"
    )
)
_DENIED = re.compile(r"(?:\b(?:not|never|cannot|nor|neither)|n['’]t)\s+(?:\w+\s+){0,3}$", re.IGNORECASE)
# "A helpful answer": an article, no letter
_OPENS = re.compile(
    rf"\s*[\[({{{_QUOTES}]{{0,4}}(?P<letter>[ABab])(?:[\])}}{_QUOTES}.:,;]|\s*$|\s*\n|\s+[-–—(]|\s+(?:is|because)\b)"
)
_ALONE = re.compile(rf"\s*[\[({{{_QUOTES}]{{0,4}}(?P<letter>[ABab])[\])}}{_QUOTES}.:]{{0,4}}\s*")
_BOTH = re.compile(rf"\s*(?:and|or|&|/|,)\s*{_LETTER}")


@dataclass(frozen=True)
class Verdict:
    """Numbers from 1 of the candidates as shown, and the explanation, in the object or after it."""

    chosen: int
    rejected: int
    explanation: str


@dataclass(frozen=True)
class Option:
    """The letter a reply names, "A" or "B", and at which character of the reply it stands."""

    letter: str
    position: int


@dataclass(frozen=True)
class _Named:
    chosen: Any
    rejected: Any
    explanation: str
    start: int
    end: int
    words: tuple[str, ...]
    """Letters and digits of the verdict in either order of its fields, to find it in what was shown."""


def parse_verdict(reply: str, count: int, shown: Sequence[str] = ()) -> Verdict | str:
    """Read a reply of constitution mode: a verdict, or a sentence saying why there is none.

    Taken are a JSON object or Python literal anywhere in the text, also inside another one, in code fences or badly
    written, numbers as 2, "2", "#2" or "response 2", and failing that "chosen: 2 ... rejected: 4" in plain words.

    Args:
        count: how many candidates were shown; numbers must be 1 to count.
        shown: the prompt and the candidates, as they may be quoted.
    """
    text, start, trusted = _spoken(reply)
    named = _named(text)
    problem = "no JSON object with the keys chosen and rejected was found"
    usable: list[Verdict] = []
    opening = _OPENING_BRACE.match(text) if trusted else None
    for entry in named:
        checked = _checked(entry, count, text)
        if isinstance(checked, str):
            problem = checked
        elif opening and not usable and entry.start < opening.end():
            return checked
        elif any(_is_quoted(words, shown) for words in entry.words):
            problem = "its only verdict is a quotation of the request or an answer"
        else:
            usable.append(checked)
    if len({(verdict.chosen, verdict.rejected) for verdict in usable}) > 1:
        return "it holds several verdicts that differ"
    if start > len(reply):
        return "it ends amid its thoughts"
    return usable[0] if usable else problem


def parse_option(reply: str, *, thought: bool, shown: Sequence[str] = ()) -> Option | str:
    """Read a reply of principle mode: the option it names, or a sentence saying why there is none.

    Args:
        thought: whether a chain of thought was asked for: then the verdict ends the reply, else it opens it.
        shown: the prompt, the principle and the answers, as they may be quoted.
    """
    text, start, trusted = _spoken(reply)
    if start > len(reply):
        return "it ends amid its thoughts"
    alone = _ALONE.fullmatch(text)
    opening = alone or _OPENS.match(text)
    if opening and trusted and not _BOTH.match(text, opening.end("letter") + 1) and (alone or not thought):
        return Option(opening["letter"].upper(), start + opening.start("letter"))
    last_line = len(text.rstrip()) - len(text.rstrip().rpartition("\n")[2])
    found: list[tuple[str, int, bool]] = []
    for match in sorted((m for pattern in _STATED for m in pattern.finditer(text)), key=lambda m: m.start("letter")):
        if any(_DENIED.search(text, max(0, end - 80), end) for end in (match.start("letter"), match.start())):
            continue
        if _BOTH.match(text, match.end("letter")) or _BOTH.match(text, match.end("letter") + 1):
            return "it names both options"
        ends = (
            thought and trusted and match.start() >= last_line and not text[match.end() :].strip(f" \n.!)]}}{_QUOTES}")
        )
        if ends or not _is_quoted(_letters(match[0]), shown):
            found.append((match["letter"], match.start("letter"), ends))
    for letter, position, ends in found:
        if ends:
            return Option(letter, start + position)
    if len({letter for letter, _, _ in found}) > 1:
        return "it names both options"
    if not found:
        return "it names neither option A nor option B"
    return Option(found[-1][0], start + found[-1][1])


def _spoken(reply: str) -> tuple[str, int, bool]:
    """(the reply after a reasoning model's thoughts, where that begins, whether the answer surely begins there)."""
    if not reply.lstrip().startswith("<think>"):
        return reply, 0, True
    end = reply.find("</think>")
    if end < 0:
        return "", len(reply) + 1, False
    start = end + len("</think>")
    return reply[start:], start, reply.count("</think>") == 1


def _named(text: str) -> list[_Named]:
    """Everything in the text that names a chosen or a rejected candidate, in order."""
    objects = list(_objects(text))
    found = list(objects)
    for match in (match for pattern in _FRAGMENTS for match in pattern.finditer(text)):
        if not any(entry.start <= match.start() < entry.end for entry in objects):
            reverse = _FRAGMENTS[1] is match.re
            chosen, rejected = (match[2], match[1]) if reverse else (match[1], match[2])
            start = len(text[: match.start()].rstrip(f"{{ \n{_QUOTES}"))
            found.append(_Named(chosen, rejected, "", start, match.end(), (_letters(match[0]),)))
    return sorted(found, key=lambda entry: entry.start) or _plain_words(text)


def _objects(text: str) -> Iterator[_Named]:
    """The JSON objects and Python dict literals of the text that name a candidate, outermost first."""
    position = text.find("{")
    failures = 0
    while position >= 0 and failures < MOST_BROKEN_OBJECTS:
        value, end = _object_at(text, position)
        failures += value is None
        for found in _nested(value):
            keys = {_letters(str(key)): key for key in found}
            pair = [next((keys[name] for name in names if name in keys), None) for names in (_CHOSEN, _REJECTED)]
            if pair == [None, None]:
                continue
            told = next((str(found[keys[name]]) for name in _EXPLANATION if name in keys and found[keys[name]]), "")
            chosen, rejected = (None if key is None else found[key] for key in pair)
            words = [_letters(f"{key}{value}") for key, value in zip(pair, (chosen, rejected), strict=True)]
            yield _Named(chosen, rejected, told, position, end, ("".join(words), "".join(reversed(words))))
        position = text.find("{", end if value is not None else position + 1)


def _object_at(text: str, position: int) -> tuple[Any, int]:
    try:
        # judges break lines inside their explanations
        return json.JSONDecoder(strict=False).raw_decode(text, position)
    except (ValueError, RecursionError):
        pass
    end = text.find("}", position) + 1
    try:
        with warnings.catch_warnings():  # of escapes that Python does not know, as in "most\\_harmless"
            warnings.simplefilter("ignore")
            return ast.literal_eval(text[position:end].strip()), end
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None, position


def _nested(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list) and depth < 4:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _nested(inner, depth + 1)


def _plain_words(text: str) -> list[_Named]:
    """The one chosen and the one rejected number the text speaks of, wherever they stand."""
    numbers: list[str] = []
    ends: list[int] = []
    for name in (_CHOSEN_NAME, _REJECTED_NAME):
        matches = list(re.finditer(rf"\b{name}\b{_IS_A_NUMBER}", text, re.IGNORECASE))
        if len({match[1] for match in matches}) != 1:
            return []
        numbers.append(matches[0][1])
        ends.append(matches[0].end())
    return [_Named(numbers[0], numbers[1], "", min(ends), max(ends), ())]


def _checked(entry: _Named, count: int, text: str) -> Verdict | str:
    chosen, rejected = _number(entry.chosen), _number(entry.rejected)
    if chosen is None or rejected is None:
        return f"chosen and rejected must each be one number, found {entry.chosen!r} and {entry.rejected!r}"[:300]
    if not (1 <= chosen <= count and 1 <= rejected <= count):
        return f"the numbers must lie between 1 and {count}, found {chosen} and {rejected}"
    told = entry.explanation or text[entry.end :].strip().removeprefix("}").removeprefix("```")
    return Verdict(chosen, rejected, told.strip())


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    digits = re.findall(r"-?\d+", str(value))
    return int(digits[0]) if len(digits) == 1 and len(digits[0]) < 10 else None


def _is_quoted(words: str, shown: Sequence[str]) -> bool:
    return any(words in _letters(text) for text in shown)


# a reply may hold many verdicts, each of which is looked for in the same few texts
@lru_cache(maxsize=128)
def _letters(text: str) -> str:
    """Letters and digits only, in lower case: what stays of words however they are quoted."""
    return re.sub(r"[\W_]+", "", text).lower()
