"""The inference server's client: answers to dialogues, from whichever replica and in whatever batches do it soonest.

Every row is a coroutine that asks for its next sentence and waits. Where an answer depends on nothing but the sentence
and its seed, sentences of any step and row share requests (see `scheduler`). The reference's server samples a whole
request by one seed: there, requests are fixed groups of rows.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Literal, Self

from cai_jobs.clients.protocols import FIELDS, Ask, Megatron, OpenAI, Refused
from cai_jobs.clients.remote import RETRY_BUDGET_S, RefusedError
from cai_jobs.clients.replicas import Replicas
from cai_jobs.clients.scheduler import Scheduler
from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats.chat import Message, Template

__all__ = ["InferenceServer", "Refused", "connect"]

Api = Literal["auto", "megatron", "openai"]
APIS = ("auto", "megatron", "openai")
MOST_SENTENCES = 128
DEFAULT_HOST, DEFAULT_PORT = "localhost", 5656
# a locked server works on one request while the next one waits there; one with continuous batching takes what it gets
MEGATRON_IN_FLIGHT, OPENAI_IN_FLIGHT = 2, 256
# by OpenAI's protocol: enough to save most of what a request costs, few enough that none waits long for the longest
OPENAI_SENTENCES = 8


class InferenceServer:
    """Generates answers; made by `connect`, used as an async context manager in one event loop.

    Attributes:
        group: how many consecutive rows must be asked together, 1 where rows are independent.
        replicas: the servers, for other requests (`await server.replicas.call("POST", "/v1/chat/completions", body)`).
    """

    def __init__(
        self,
        scheduler: Scheduler,
        template: Template,
        *,
        formatted: bool,
        seed: int,
        group: int,
        parameters: Mapping[str, Any],
    ) -> None:
        self.group, self.replicas = group, scheduler.replicas
        self._scheduler, self._template, self._formatted = scheduler, template, formatted
        self._seed, self._parameters = seed, dict(parameters)
        self._numbers = itertools.count()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up what is still asked for and close the connections."""
        await self._scheduler.close()

    @property
    def capacity(self) -> int:
        """Sentences that can be in work at once over all replicas."""
        return self._scheduler.capacity

    def parameters(self) -> dict[str, Any]:
        """What of this, as JSON, the answers depend on."""
        return dict(self._parameters)

    def statistics(self) -> dict[str, float]:
        """Running totals: requests and sentences answered, tokens generated where the server tells, attempts that
        failed; and `busyShare`, the mean share of the time in which a replica had a request.
        """
        done = self._scheduler
        tokens = {} if done.tokens is None else {"tokens": done.tokens}
        counts = {"requests": done.answered, "sentences": done.sentences, **tokens, "retries": self.replicas.retries}
        return {**counts, "busyShare": round(self.replicas.busy_share(), 4)}

    async def answers(
        self, step: str, rows: Sequence[int], dialogues: Sequence[list[Message]], temperature: float | None = None
    ) -> list[str | Refused]:
        """One answer a dialogue, in order; for any number of coroutines at once.

        A request the server refuses is halved until the sentence it cannot take is alone, so that the others are not
        lost. A sentence's seed is `seeds.sampling(seed, step, row)`.

        Args:
            rows: a row number a dialogue. With `group` above 1, the rows of a whole group, at most 128.
            dialogues: each ends with a user turn.
            temperature: instead of the options' own.

        Raises:
            InputError: the server refuses whatever it is asked, or its answers cannot be read.
            RetryableError: no replica answered for the whole retry budget.
        """
        loop = asyncio.get_running_loop()
        asks = [
            Ask(
                self._template.format(dialogue) if self._formatted else None,
                dialogue,
                seeds.sampling(self._seed, step, row),
                loop.create_future(),
                next(self._numbers),
            )
            for row, dialogue in zip(rows, dialogues, strict=True)
        ]
        if self.group > 1:
            self._scheduler.ask_together(asks, temperature)
        elif self._formatted:
            self._scheduler.ask(asks, temperature, None)
        else:
            for ask in asks:  # the collated form wants the same roles of all dialogues of a request
                self._scheduler.ask([ask], temperature, tuple(turn["role"] for turn in ask.dialogue))
        found = [await asks[0].answer] if len(asks) == 1 else await asyncio.gather(*(ask.answer for ask in asks))
        return list(found) if self._formatted else [_hinted(answer) for answer in found]


def _hinted(answer: str | Refused) -> str | Refused:
    if isinstance(answer, Refused) and "chat template" in answer.reason:
        return Refused(f"{answer.reason}; or have dialogues laid out here, by --apply_chat_template True and its flags")
    return answer


async def connect(
    config: Mapping[str, Any],
    template: Template,
    *,
    formatted: bool,
    seed: int,
    batch_size: int,
    api: Api = "auto",
    model: str | None = None,
    per_row_seeds: bool | None = None,
    requests_in_flight: int | None = None,
    request_timeout_s: float = 3600.0,
    retry_budget_s: float = RETRY_BUDGET_S,
) -> InferenceServer:
    """The server of an inference config: the flags' names, host and port among them.

    Args:
        template: lays dialogues out and reads answers.
        formatted: whether dialogues are sent as text laid out by `template`; else for the server's own chat template.
        seed: of the run; see `seeds.sampling`.
        batch_size: most sentences a request; OpenAI's protocol has 8 of greedy completions, and else one.
        api: its protocol; auto asks the server.
        model: the model's name for OpenAI's protocol; None for the first one the server lists.
        per_row_seeds: whether /generate takes `random_seeds`; None asks the server.
        requests_in_flight: to each replica; None for what the protocol profits from.

    Raises:
        InputError: an option is unknown or out of range, or the server lets nobody in.
        RetryableError: the server had to be asked and cannot be reached.
    """
    options = {name: value for name, value in config.items() if name not in ("host", "port")}
    check_options(options)
    host, port = str(config.get("host", DEFAULT_HOST)), int(config.get("port", DEFAULT_PORT))
    replicas = Replicas("inference server", host, port, request_timeout_s, retry_budget_s)
    greedy = bool(options.get("greedy")) or options.get("top_k") == 1
    try:
        await replicas.look_up()
        if api == "auto":
            api = await _detect(replicas)
        if api == "megatron" and per_row_seeds is None and not greedy:
            per_row_seeds = await model_name(replicas) is not None
        if api == "openai" and model is None:
            model = await model_name(replicas)
    except BaseException:
        await replicas.close()
        raise
    independent = api == "openai" or greedy or bool(per_row_seeds)
    group = 1 if independent else batch_size
    in_flight = requests_in_flight or (OPENAI_IN_FLIGHT if api == "openai" else MEGATRON_IN_FLIGHT)
    if api == "openai":
        completions = OpenAI(options, template, formatted, model)
        most = min(batch_size, OPENAI_SENTENCES) if completions.takes_several else 1
        scheduler = Scheduler(replicas, completions, most, in_flight, divisible=True, slots=in_flight)
    else:
        megatron = Megatron(options, template, bool(per_row_seeds))
        scheduler = Scheduler(replicas, megatron, batch_size, in_flight, divisible=independent)
    return InferenceServer(
        scheduler,
        template,
        formatted=formatted,
        seed=seed,
        group=group,
        parameters={
            **options,
            "seed": seed,
            "template": asdict(template),
            "apply_chat_template": formatted,
            "server_api": api,
            "group": group,
        },
    )


async def _detect(replicas: Replicas) -> Api:
    """NeMo's server answers GET /generate with 405, ours does so too; an OpenAI server has its models alone."""
    try:
        await replicas.call("GET", "/generate")
    except RefusedError as refusal:
        if refusal.status in (401, 403):
            raise
        if refusal.status in (400, 404) and await model_name(replicas) is not None:
            return "openai"
    return "megatron"


async def model_name(replicas: Replicas) -> str | None:
    """The first model `GET /v1/models` lists, or None where the server has no such page."""
    try:
        answer = await replicas.call("GET", "/v1/models")
    except RefusedError:
        return None
    models = answer.get("data") if isinstance(answer, dict) else None
    return str(models[0].get("id")) if isinstance(models, list) and models and isinstance(models[0], dict) else None


def check_options(options: Mapping[str, Any]) -> None:
    """Check sampling options against what `megatron_gpt_eval.py` takes, before any work is done.

    Raises:
        InputError: with the option, what was found and what is allowed.
    """
    unknown = set(options) - set(FIELDS)
    if unknown:
        raise InputError(f"inference: unknown option {', '.join(sorted(unknown))}; there are {', '.join(FIELDS)}")
    limits: dict[str, tuple[float, float, str]] = {
        "tokens_to_generate": (1, float("inf"), "at least 1"),
        "min_tokens_to_generate": (0, float("inf"), "at least 0"),
        "top_k": (0, float("inf"), "at least 0"),
        "top_p": (0, 1, "between 0 and 1"),
        "repetition_penalty": (1, float("inf"), "at least 1"),
    }
    for name, (low, high, allowed) in limits.items():
        value = options.get(name)
        if value is not None and not low <= value <= high:
            raise InputError(f"--{name} {value}: it must be {allowed}")
    if options.get("temperature") is not None:
        check_temperature("--temperature", options["temperature"])


def check_temperature(flag: str, value: float) -> None:
    """Raise an InputError unless 0 < value <= 100."""
    if not 0 < value <= 100:
        raise InputError(
            f"{flag} {value}: a temperature must be above 0 and at most 100; --greedy True takes no chances"
        )


def check_batch_size(flag: str, value: int) -> None:
    """Raise an InputError unless a request may hold that many sentences."""
    if not 1 <= value <= MOST_SENTENCES:
        raise InputError(f"{flag} {value}: a request holds 1 to {MOST_SENTENCES} sentences")
