"""Have rows judged by one judge or a panel, in constitution or in principle mode; the methods are in those modules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from cai_jobs.clients.chat_address import CHAT_SUFFIX, chat_url
from cai_jobs.clients.remote import RefusedError, Remote
from cai_jobs.contract import seeds
from cai_jobs.contract.program import InputError
from cai_jobs.formats.constitution import ComparisonPrinciple
from cai_jobs.generation.judging import constitution, principles
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.judging.endpoint import Caller, Endpoint, Limits
from cai_jobs.generation.judging.panel import combine
from cai_jobs.generation.judging.request import distinct_candidates

Mode = Literal["constitution", "principle"]
CHAT_PATH, MODELS_PATH = f"/v1{CHAT_SUFFIX}", "/v1/models"
CLAMP = (0.4, 0.6)


@dataclass(frozen=True)
class EndpointSettings:
    """Where a judge is.

    Attributes:
        url: of the server ("http://host:port"), of its API (".../v1") or of ".../chat/completions" itself.
        key: the API key; never printed.
        key_variable: the environment variable it came from, for sentences.
    """

    url: str
    model: str
    key: str | None = None
    key_variable: str | None = None

    def __repr__(self) -> str:
        return f"EndpointSettings(url={self.url!r}, model={self.model!r}, key_variable={self.key_variable!r})"


@dataclass(frozen=True)
class JudgeSettings:
    """How rows are judged.

    Attributes:
        seed: fixes order, comparisons, principles and the judges' sampling seeds, row by row.
        endpoints: several make a panel; none means the served model itself.
        system_prompt: constitution mode: the judge's instructions with the whole constitution.
        principles: principle mode: what a comparison's principle is drawn from.
        chain_of_thought: principle mode: have the judge think before it names an option.
        clamp: the lowest and the highest probability after a chain of thought.
        comparisons_per_prompt: principle mode; None for all pairs of candidates.
        concurrency: requests at a time, to each judge.
        rate: requests a second, to each judge; None for as many as there are.
        request_timeout_s, retry_budget_s: as `Remote` has them.
    """

    seed: int
    mode: Mode = "constitution"
    endpoints: tuple[EndpointSettings, ...] = ()
    system_prompt: str = ""
    principles: tuple[ComparisonPrinciple, ...] = ()
    chain_of_thought: bool = False
    clamp: tuple[float, float] = CLAMP
    comparisons_per_prompt: int | None = 1
    concurrency: int = 8
    rate: float | None = None
    request_timeout_s: float = 600.0
    retry_budget_s: float = 900.0


class Judge:
    """One judge or a panel; made by `make_judge`, to be closed."""

    def __init__(self, settings: JudgeSettings, endpoints: Sequence[Endpoint]) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._began: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that are not the model server's own."""
        for endpoint in self._endpoints:
            if endpoint.owned:
                await endpoint.caller.close()

    async def decide(self, row: int, prompt: str, candidates: Mapping[str, str]) -> list[Decision]:
        """Have one row judged: one decision in constitution mode, one a comparison in principle mode.

        Empty candidates are not shown, equal ones are shown once; with fewer than two there is one decision, TOO_FEW.
        What a judge refuses to look at is UNDECIDED, with its reason.

        Args:
            row: the row's number, by which with the seed everything is drawn.
            candidates: key -> text.

        Raises:
            InputError: a judge refuses everything: a wrong key, model or address.
            RetryableError: a judge cannot be reached.
        """
        different = distinct_candidates(candidates)
        if len(different) < 2:
            return [Decision(Outcome.TOO_FEW, list(different))]
        self._began = self._began or time.monotonic()
        settings = self._settings
        if settings.mode == "constitution":
            return [await self._verdict(constitution.question(settings.seed, row, prompt, different))]
        comparisons = principles.questions(
            settings.seed, row, prompt, different, settings.principles, settings.comparisons_per_prompt
        )
        return list(await asyncio.gather(*map(self._comparison, comparisons)))

    def parameters(self) -> dict[str, Any]:
        """What of this, as JSON, decisions depend on."""
        settings = self._settings
        shared = {
            "judge mode": settings.mode,
            "judge models": [endpoint.model for endpoint in self._endpoints] if settings.endpoints else "self",
        }
        if settings.mode == "constitution":
            return {**shared, "judge prompt": seeds.digest(settings.system_prompt)}
        return {
            **shared,
            "judge principles": seeds.digest([[each.name, each.question] for each in settings.principles]),
            "judge chain of thought": settings.chain_of_thought,
            "comparisons per prompt": settings.comparisons_per_prompt,
            **({"judge clamp": list(settings.clamp)} if settings.chain_of_thought else {}),
        }

    def statistics(self) -> dict[str, float]:
        """calls: requests answered; retries: attempts beyond these, but for the model server's, which counts its own;
        callsPerSecond: since the first row."""
        calls = sum(endpoint.calls for endpoint in self._endpoints)
        retries = sum(each.repeated + each.caller.retries * each.owned for each in self._endpoints)
        spent = time.monotonic() - self._began if self._began is not None else 0.0
        return {"calls": calls, "retries": retries, "callsPerSecond": calls / spent if spent > 0 else 0.0}

    async def _verdict(self, question: constitution.Question) -> Decision:
        system_prompt = self._settings.system_prompt
        if len(self._endpoints) == 1:
            return await constitution.ask(self._endpoints[0], question, system_prompt)
        found = await asyncio.gather(*(constitution.ask(each, question, system_prompt) for each in self._endpoints))
        return combine(self._named(found), list(question.candidates))

    async def _comparison(self, question: principles.Question) -> Decision:
        settings = self._settings
        found = await asyncio.gather(
            *(
                principles.ask(endpoint, question, chain_of_thought=settings.chain_of_thought, clamp=settings.clamp)
                for endpoint in self._endpoints
            )
        )
        shown = (question.first, question.second)
        return found[0] if len(found) == 1 else combine(self._named(found), shown, question.principle.name)

    def _named(self, found: Sequence[Decision]) -> dict[str, Decision]:
        return {endpoint.name: decision for endpoint, decision in zip(self._endpoints, found, strict=True)}


async def make_judge(settings: JudgeSettings, served: Caller | None = None) -> Judge:
    """The judge of some settings.

    Args:
        served: the model server, which judges where `settings.endpoints` is empty; its model's name is asked.

    Raises:
        InputError: the settings contradict each other, an address is none, or the model server has no chat completions.
        RetryableError: the model server cannot be reached.
    """
    _check(settings)
    if settings.endpoints:
        names = _names([endpoint.model for endpoint in settings.endpoints])
        return Judge(
            settings, [_endpoint(settings, each, name) for each, name in zip(settings.endpoints, names, strict=True)]
        )
    if served is None:
        raise InputError("no judge is named; give one with its address and model, or have the served model judge")
    limits = Limits(settings.concurrency, settings.rate)
    model = await _model_of(served)
    return Judge(settings, [Endpoint(model, served, CHAT_PATH, model, limits, owned=False)])


def _check(settings: JudgeSettings) -> None:
    low, high = settings.clamp
    wrong = {
        f"there are the modes constitution and principle, not {settings.mode!r}": (
            settings.mode not in ("constitution", "principle")
        ),
        "constitution mode wants a system prompt that holds the constitution": (
            settings.mode == "constitution" and not settings.system_prompt.strip()
        ),
        "principle mode wants one comparison principle at least": (
            settings.mode == "principle" and not settings.principles
        ),
        "a chain of thought is for principle mode; choose that mode or leave it out": (
            settings.chain_of_thought and settings.mode != "principle"
        ),
        f"probabilities cannot be clamped to {low}..{high}; 0 <= lowest <= 0.5 <= highest <= 1 is wanted": (
            not 0 <= low <= 0.5 <= high <= 1
        ),
        f"{settings.comparisons_per_prompt} comparisons a prompt; at least 1 is wanted, or all": (
            settings.comparisons_per_prompt is not None and settings.comparisons_per_prompt < 1
        ),
        f"{settings.concurrency} requests at a time; at least 1 is wanted": settings.concurrency < 1,
        f"{settings.rate} requests a second; more than 0 are wanted": settings.rate is not None and settings.rate <= 0,
    }
    for problem, found in wrong.items():
        if found:
            raise InputError(f"judge: {problem}")


def _endpoint(settings: JudgeSettings, endpoint: EndpointSettings, name: str) -> Endpoint:
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    address, mark, query = chat_url(endpoint.url).partition("?")
    base, path = address.removesuffix(CHAT_SUFFIX), CHAT_SUFFIX + mark + query
    remote = Remote("judge", base, settings.request_timeout_s, settings.retry_budget_s, headers)
    where = f"the environment variable {endpoint.key_variable}" if endpoint.key_variable else "its key"
    hint = f"is {where} set to a valid key?"
    limits = Limits(settings.concurrency, settings.rate)
    return Endpoint(name, remote, path, endpoint.model, limits, hint)


def _names(models: Sequence[str]) -> list[str]:
    """The models' names, made different by numbers where they are not."""
    return [
        model if models.count(model) == 1 else f"{model} #{models[: place + 1].count(model)}"
        for place, model in enumerate(models)
    ]


async def _model_of(served: Caller) -> str:
    try:
        answer = await served.call("GET", MODELS_PATH)
        return str(answer["data"][0]["id"])
    except (RefusedError, TypeError, KeyError, IndexError) as problem:
        raise InputError(
            f"the model server lists no model at {MODELS_PATH}, so it cannot judge its own answers; name another judge"
        ) from problem
