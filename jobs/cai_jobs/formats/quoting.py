"""Text that is shown to a judge: a JSON string on one line, which nothing in it can leave."""

from __future__ import annotations

import json
import re

# "<" opens most chat templates' special tokens, [INST] and its like the others; the rest breaks lines, reverses
# writing, cannot be seen, or is half a character
_ESCAPED = re.compile(
    "<|\\[(?=/?[A-Z_]+\\])|[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_encode = json.JSONEncoder(ensure_ascii=False).encode


def quoted(text: str) -> str:
    """The text as a JSON string on one line, in which no special token of a chat template can be read."""
    string = _encode(text)
    # most texts hold nothing to escape, and looking each character up takes much longer than this
    if string.isascii() and not ("<" in string or "[" in string or "\x7f" in string):
        return string
    return _ESCAPED.sub(_escape, string)


def _escape(match: re.Match[str]) -> str:
    return rf"\u{ord(match[0]):04x}" if match[0].isascii() else json.dumps(match[0])[1:-1]
