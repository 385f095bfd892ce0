"""What a model server is sent and how its answer is read: NeMo's `PUT /generate`, and OpenAI's completions.

Our own server takes a field more at /generate, `random_seeds`, one a sentence, so that what a row gets does not depend
on the request it is in; the reference's server has one `random_seed` a request. Where a server also answers
`completions`, what it generated without the prompts, nothing has to be cut out of `sentences`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cai_jobs.clients.remote import RefusedError, TryAgainError
from cai_jobs.formats.chat import Message, Template, collate

FIELDS = {
    "tokens_to_generate": "tokens_to_generate",
    "min_tokens_to_generate": "min_tokens_to_generate",
    "temperature": "temperature",
    "add_bos": "add_BOS",
    "top_k": "top_k",
    "top_p": "top_p",
    "greedy": "greedy",
    "all_probs": "all_probs",
    "repetition_penalty": "repetition_penalty",
    "end_strings": "end_strings",
}
# vLLM's names for what OpenAI does not have, and the values that ask for nothing
BEYOND_OPENAI = {
    "top_k": ("top_k", 0),
    "min_tokens": ("min_tokens_to_generate", 0),
    "repetition_penalty": ("repetition_penalty", 1),
}
STRING_STATUS = 200
"""The status of the reference's refusals, a bare JSON string."""


Body = Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """A prompt the server will not answer, and why (it is too long, say)."""

    reason: str


@dataclass(slots=True, eq=False)
class Ask:
    """One sentence to generate.

    Attributes:
        text: the dialogue as it is sent, None where the server's own template lays it out.
        answer: gets a text or Refused.
        number: counts up; the lower, the longer it waits.
    """

    text: str | None
    dialogue: Sequence[Message]
    seed: int
    answer: asyncio.Future[str | Refused]
    number: int


class Wire(Protocol):
    """A protocol of a model server."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    def body(self, asks: Sequence[Ask], temperature: float | None) -> dict[str, Any]:
        """The request for these sentences."""
        ...

    def read(self, value: Any, asks: Sequence[Ask], /) -> tuple[list[str], int | None]:
        """The answers in order, and how many tokens they are where the server tells.

        Raises:
            RefusedError: it is a refusal.
            TryAgainError: it is no answer to these sentences.
            InputError: the answer cannot be told from the prompt.
        """
        ...

    def leaves_out(self, refusal: RefusedError, body: Body, /) -> bool:
        """Whether the same sentences may be asked again, without what the server has just refused."""
        ...


@dataclass
class Megatron:
    """`PUT /generate` of megatron_gpt_eval.py: up to 128 sentences a request.

    Attributes:
        options: the sampling options by the flags' names.
        template: lays dialogues out and reads answers.
        per_row_seeds: whether the server takes `random_seeds`.
    """

    options: Mapping[str, Any]
    template: Template
    per_row_seeds: bool
    method = "PUT"
    path = "/generate"

    def body(self, asks: Sequence[Ask], temperature: float | None) -> dict[str, Any]:
        """See Wire; the dialogues of a request without text have the same roles."""
        body = {FIELDS[name]: value for name, value in self.options.items() if value is not None}
        laid_out = asks[0].text is not None
        body["sentences"] = [ask.text for ask in asks] if laid_out else collate([ask.dialogue for ask in asks])
        body["random_seed"] = asks[0].seed
        if temperature is not None:
            body["temperature"] = temperature
        if self.per_row_seeds:
            body["random_seeds"] = [ask.seed for ask in asks]
        return body

    def read(self, value: Any, asks: Sequence[Ask]) -> tuple[list[str], int | None]:
        """See Wire."""
        if isinstance(value, str):
            raise RefusedError(f"the inference server refused: {value}", STRING_STATUS, f"refused: {value}")
        sentences = value.get("sentences") if isinstance(value, dict) else None
        if not isinstance(sentences, list) or len(sentences) != len(asks):
            raise TryAgainError(
                f"{len(asks)} sentences were asked for, the answer is {str(value)[:120]!r}", suspect=True
            )
        ends = self.options.get("end_strings") or ()
        completions = value.get("completions")
        if isinstance(completions, list) and len(completions) == len(asks):
            return [self.template.cut(str(completion), ends) for completion in completions], None
        pairs = zip(sentences, asks, strict=True)
        return [self.template.extract_answer(str(sentence), ask.text, ends) for sentence, ask in pairs], None

    def leaves_out(self, _refusal: RefusedError, _body: Body) -> bool:
        """Never: NeMo's servers know all its fields."""
        return False


@dataclass
class OpenAI:
    """`POST /v1/completions` of text laid out here, else `/v1/chat/completions`.

    A request has one sampling seed, and what a server makes of it with several prompts is its own affair. So prompts
    go together only where nothing is sampled; a chat always goes alone.

    Attributes:
        options, template: as Megatron's.
        formatted: whether the template lays dialogues out.
        model: the model's name at the server, None to name none.
    """

    options: Mapping[str, Any]
    template: Template
    formatted: bool
    model: str | None
    method = "POST"
    _left_out: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.path = "/v1/completions" if self.formatted else "/v1/chat/completions"
        options = self.options
        self._common: dict[str, Any] = {} if self.model is None else {"model": self.model}
        if options.get("tokens_to_generate") is not None:
            self._common["max_tokens"] = options["tokens_to_generate"]
        greedy = options.get("greedy") or options.get("top_k") == 1
        self._temperature = 0.0 if greedy else options.get("temperature")
        if options.get("top_p"):  # 0 keeps every token for Megatron, here that is to leave it out
            self._common["top_p"] = options["top_p"]
        if options.get("end_strings"):
            self._common["stop"] = list(options["end_strings"])
        for name, (flag, neutral) in BEYOND_OPENAI.items():
            if options.get(flag) not in (None, neutral) and not (greedy and name == "top_k"):
                self._common[name] = options[flag]

    @property
    def takes_several(self) -> bool:
        """Whether a request may have several prompts."""
        return self.formatted and self._temperature == 0

    def body(self, asks: Sequence[Ask], temperature: float | None) -> dict[str, Any]:
        """See Wire."""
        ask = asks[0]
        body = dict(self._common)
        if len(asks) > 1:
            body["prompt"] = [ask.text for ask in asks]
        elif self.formatted:
            body |= {"prompt": ask.text, "seed": ask.seed}
        else:
            body["seed"] = ask.seed
            body["messages"] = [{"role": turn["role"].lower(), "content": turn["content"]} for turn in ask.dialogue]
        chosen = self._temperature if temperature is None or self._temperature == 0 else temperature
        if chosen is not None:
            body["temperature"] = chosen
        return body

    def read(self, value: Any, asks: Sequence[Ask]) -> tuple[list[str], int | None]:
        """See Wire."""
        try:
            choices = [value["choices"][0]] if len(asks) == 1 else _in_order(value["choices"], len(asks))
            texts = [choice["text"] if self.formatted else choice["message"]["content"] for choice in choices]
        except (TypeError, KeyError, IndexError) as problem:
            raise TryAgainError(f"it answered without an answer: {str(value)[:120]!r}", suspect=True) from problem
        usage = value.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        ends = self.options.get("end_strings") or ()
        return [self.template.cut(text or "", ends) for text in texts], tokens if isinstance(tokens, int) else None

    def leaves_out(self, refusal: RefusedError, body: Body) -> bool:
        """Whether the refusal names a field that is vLLM's own; from then on it is left out, with a warning."""
        named = {name for name in BEYOND_OPENAI if name in body and name in str(refusal)}
        if refusal.status not in (400, 422) or not named:
            return False
        for name in named - self._left_out:
            print(f"warning: the server does not take {name!r}, it is left out: {refusal}", file=sys.stderr, flush=True)
            self._common.pop(name, None)
        self._left_out |= named
        return True


def _in_order(choices: Sequence[Any], wanted: int) -> list[Any]:
    """The choices of a list of prompts, one a prompt."""
    ordered = sorted(choices, key=lambda choice: int(choice["index"]))
    found = [choice["index"] for choice in ordered]
    if found != list(range(wanted)):  # asked one by one it may do better
        reason = f"of {wanted} prompts in a list it answered those numbered {found}"[:200]
        raise RefusedError(f"the inference server: {reason}", 422, reason)
    return ordered
