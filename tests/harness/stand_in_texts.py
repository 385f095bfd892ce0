"""What a stand-in model says and a stand-in judge decides: functions of what they are asked, and of nothing else.

So the same question gets the same answer from every replica, before and after a restart, and two runs of a generator
can be compared byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

_PROSE = (
    "a kind answer takes its time and says what it knows to whom it is said so that nobody need guess where it ends "
    "while tea bread rain river harbour garden letter window lantern winter"
)
_BOOK = random.Random(0).choices(_PROSE.split(), k=20_000)
_TEXT = " ".join(_BOOK)
_PLACES = [0, *accumulate(len(word) + 1 for word in _BOOK)]
_CANDIDATE = re.compile(r"^#(\d+): (\".*\")$", re.MULTILINE)
_OPTION = re.compile(r"^\(([AB])\): (\".*\")$", re.MULTILINE)
_LABELLED = re.compile(r"^Answer: (\".*\")\nLabel:$", re.MULTILINE)
_ANSWERS = re.compile(r"^First answer: (\".*\")\nSecond answer: (\".*\")\nBetter:$", re.MULTILINE)
LABELS = ("harmful", "refusal", "offTopic", "helpful")
USELESS = (
    "I would rather not choose between these.",
    '{"chosen": 1, "rejected": 99}',
    '{"chosen": 1, "rejec',
    "",
    '{"chosen": [1, 2], "rejected": 3}',
)


class Speaker:
    """A model's answers.

    Args:
        mean_tokens: how long answers are on average, a word being a token; at every token an answer ends with the same
            probability, so that the longest of many is several times as long.
    """

    def __init__(self, mean_tokens: float) -> None:
        self._mean = mean_tokens

    def answer(self, prompt: str, seed: Any, temperature: float, most_tokens: int) -> tuple[str, int]:
        """The answer to a prompt and how many tokens it has.

        Args:
            seed: whatever the sampling depends on; None for greedy answers.
        """
        chance = "" if seed is None else f"{seed} at {temperature}"
        digest = hashlib.sha256(f"{chance}\n{prompt}".encode()).digest()
        share = (int.from_bytes(digest[8:16], "big") + 1) / 2**64
        length = max(1, min(most_tokens, math.ceil(-self._mean * math.log(share))))
        start = int.from_bytes(digest[16:18], "big") % (len(_BOOK) - 4096)
        end = start + min(length, 4096) - 1
        return f"{digest[:6].hex()} {_TEXT[_PLACES[start] : _PLACES[end]]}".strip(), length


@dataclass(frozen=True)
class Reply:
    """What a judge says: its text, and for a comparison by a principle the log-probabilities of the options."""

    text: str
    options: Mapping[str, float] | None = None


def is_question_to_judge(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a chat lists numbered candidates or two options, or is the evaluation's question."""
    patterns = (_CANDIDATE, _OPTION, _LABELLED, _ANSWERS)
    return any(pattern.search(str(m.get("content"))) for m in messages for pattern in patterns)


def judge(messages: Sequence[Mapping[str, Any]], useless_share: float) -> Reply:
    """The judge's reply: which candidate is better follows from their texts, and a little from where they stand.

    Args:
        useless_share: of how many requests the reply is of no use; the same request always gets the same one.
    """
    texts = [str(message.get("content")) for message in messages]
    digest = hashlib.sha256(json.dumps(texts).encode()).digest()
    if int.from_bytes(digest[:4], "big") / 2**32 < useless_share:
        return Reply(USELESS[digest[4] % len(USELESS)])
    asked = texts[-1]
    if found := _LABELLED.search(asked):
        return Reply(json.dumps({"label": LABELS[int(_merit(found[1]) * len(LABELS))]}))
    if found := _ANSWERS.search(asked):
        return Reply(json.dumps({"better": "first" if _merit(found[1]) > _merit(found[2]) else "second"}))
    listed = next(text for text in texts if _CANDIDATE.search(text) or _OPTION.search(text))
    ranks = [(_merit(text), int(number)) for number, text in _CANDIDATE.findall(listed)]
    if ranks:
        verdict = {"chosen": max(ranks)[1], "rejected": min(ranks)[1], "explanation": "By their digests."}
        return Reply(json.dumps(verdict))
    first, second = (_merit(text) for _, text in _OPTION.findall(listed))
    share = 1 / (1 + math.exp(4 * (second - first) - 0.2))
    letter = "A" if share >= 0.5 else "B"
    if "step by step" in listed:
        return Reply(f"One of them is longer.\nThe answer is: ({letter})")
    return Reply(letter, {"A": math.log(share), "B": math.log(1 - share)})


def _merit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
