"""Where a server of OpenAI's API is asked for chat completions."""

from __future__ import annotations

CHAT_SUFFIX = "/chat/completions"


def chat_url(url: str) -> str:
    """The chat completions address of a judge, however much of it was given."""
    address, mark, query = url.partition("?")
    stem = address.rstrip("/").removesuffix(CHAT_SUFFIX)
    if stem == address.rstrip("/") and not stem.endswith("/v1"):
        stem += "/v1"
    return stem + CHAT_SUFFIX + mark + query
