"""Dialogues as text: the template flags of the generators, and the collated form `PUT /generate` takes.

A message is {"role": "System" | "User" | "Assistant", "content": text}. A format is text with one {MESSAGE} in it. The
defaults are the format of the models trained here:

    <extra_id_0>System\\n{system}\\n<extra_id_1>User\\n{prompt}\\n<extra_id_1>Assistant\\n{answer}\\n<extra_id_1>
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from cai_jobs.contract.program import InputError

Message = dict[str, str]
PLACEHOLDER = "{MESSAGE}"
USER, ASSISTANT, SYSTEM = "User", "Assistant", "System"
_ESCAPE = re.compile(r"\\(?:[abfnrtv\\'\"]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Template:
    """How a dialogue is written as text.

    Attributes:
        user_format, assistant_format: a turn, with {MESSAGE} where its text goes; None or "" is the text alone.
        system_format: the system turn; None for templates without one.
        system_default_message: the system turn put first where a dialogue has none; None puts none.
        bos_token: text before everything else.
        eos_token: text that ends an answer; cut off when an answer is read, added when a comparison is written.
        response_extract_pattern: the last place it occurs is where a generated answer begins.
    """

    user_format: str | None = None
    assistant_format: str | None = None
    system_format: str | None = None
    system_default_message: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    response_extract_pattern: str | None = None

    def __post_init__(self) -> None:
        for name in ("user_format", "assistant_format", "system_format"):
            text = getattr(self, name)
            if text and text.count(PLACEHOLDER) != 1:
                raise InputError(f"--{name} must hold {PLACEHOLDER} exactly once, it is {text!r}")
        if self.system_default_message is not None and self.system_format is None:
            raise InputError("--system_default_message needs --system_format, which says how it is written")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The template of a dict with the flags' names.

        Raises:
            InputError: a key is no template option, or a format is not one.
        """
        unknown = set(config) - {field.name for field in fields(cls)}
        if unknown:
            allowed = ", ".join(field.name for field in fields(cls))
            raise InputError(f"prompt template: unknown option {', '.join(sorted(unknown))}; there are {allowed}")
        return cls(**config)

    def format(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A dialogue as text; the system turn is added where the template has one and the dialogue has not."""
        turns = list(messages)
        if self.system_default_message is not None and (not turns or turns[0]["role"] != SYSTEM):
            turns.insert(0, {"role": SYSTEM, "content": self.system_default_message})
        formats = {USER: self.user_format, ASSISTANT: self.assistant_format, SYSTEM: self.system_format}
        return (self.bos_token or "") + "".join(
            (formats[turn["role"]] or PLACEHOLDER).replace(PLACEHOLDER, turn["content"]) for turn in turns
        )

    def prompt(self, text: str) -> str:
        """One user turn as text, up to where the answer begins."""
        return self.format([{"role": USER, "content": text}])

    def answered(self, messages: Sequence[Mapping[str, str]], answer: str) -> str:
        """A dialogue with its last answer and the token that ends it: a line of a comparisons file."""
        return self.format([*messages, {"role": ASSISTANT, "content": answer}]) + (self.eos_token or "")

    def extract_answer(self, sentence: str, prompt: str | None, end_strings: Sequence[str] = ()) -> str:
        """What the model added to a prompt, without the string that ended it.

        Args:
            sentence: what the server answered: the prompt and the completion.
            prompt: the text that was sent; None for a dialogue the server laid out itself.
            end_strings: the request's end strings; the answer stops at the first of these or of the eos token.

        Raises:
            InputError: the sentence neither begins with the prompt nor holds `response_extract_pattern`.
        """
        if prompt is not None and sentence.startswith(prompt):
            answer = sentence[len(prompt) :]
        else:
            # some tokenizers give special tokens or spaces back differently, so that the prompt is not found as such
            pattern = self.response_extract_pattern
            place = sentence.rfind(pattern) if pattern else -1
            if pattern is None or place < 0:
                raise InputError(
                    f"--response_extract_pattern {pattern!r} is not in the server's text {sentence[:80]!r}..., "
                    "so the answer cannot be told from the prompt; give the text that stands before an answer"
                )
            answer = sentence[place + len(pattern) :]
        return self.cut(answer, end_strings)

    def cut(self, answer: str, end_strings: Sequence[str] = ()) -> str:
        """An answer up to the first end string or eos token, stripped."""
        ends = [answer.find(end) for end in (*end_strings, self.eos_token) if end]
        return answer[: min((place for place in ends if place >= 0), default=len(answer))].strip()


EXTRA_ID = Template(
    user_format="<extra_id_1>User\n{MESSAGE}\n<extra_id_1>Assistant\n",
    assistant_format="{MESSAGE}\n",
    system_format="<extra_id_0>System\n{MESSAGE}\n",
    system_default_message="",
    eos_token="<extra_id_1>",  # noqa: S106 - a token of text
    response_extract_pattern="<extra_id_1>Assistant\n",
)


def collate(dialogues: Sequence[Sequence[Mapping[str, str]]]) -> list[dict[str, list[str]]]:
    """Dialogues turn by turn, as `PUT /generate` takes them: one {"role": [...], "content": [...]} a turn.

    Raises:
        InputError: the dialogues differ in their roles or number of turns.
    """
    roles = [[turn["role"] for turn in dialogue] for dialogue in dialogues]
    if any(other != roles[0] for other in roles):
        raise InputError("dialogues of one request must have the same roles in the same order")
    return [
        {"role": [turn["role"] for turn in turns], "content": [turn["content"] for turn in turns]}
        for turns in zip(*dialogues, strict=True)
    ]


def unescape(text: str) -> str:
    """Turn the escapes a shell leaves as they are (\\n, \\t, \\\\, \\xNN, \\uNNNN) into their characters."""
    return _ESCAPE.sub(lambda match: codecs.decode(match[0], "unicode_escape"), text)
