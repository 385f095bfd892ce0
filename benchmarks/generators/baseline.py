"""What the reference's generators do, one thing after another, to compare with.

One request in flight, a batch of prompts each; the three steps of a batch, its temperatures and its judge calls follow
each other; an incomplete last batch is left out. Nothing is kept on disk and nothing is tried again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from cai_jobs.formats.chat import ASSISTANT, USER, Message, Template
from cai_jobs.formats.constitution import Principle

BATCH = 32


class Baseline:
    """The reference's way with one server and one judge.

    Args:
        server: URL of what answers `PUT /generate`.
        judge: URL of the chat completions page; None for supervised data.
        options: fields of every request, as `PUT /generate` names them.
    """

    def __init__(self, server: str, judge: str | None, template: Template, options: Mapping[str, Any]) -> None:
        self._server, self._judge, self._template, self._options = server, judge, template, options
        self._client = httpx.Client(timeout=3600, trust_env=False)

    def critique_and_revise(
        self, prompts: Sequence[str], few_shots: Sequence[Message], principles: Sequence[Principle]
    ) -> int:
        """Answer, criticise and revise; the number of rows."""
        rows = 0
        for batch in _batches(prompts):
            drawn = random.choices(principles, k=len(batch))
            dialogues = [[*few_shots, {"role": USER, "content": prompt}] for prompt in batch]
            for request in ("critique_request", "revision_request"):
                answers = self._generate(dialogues)
                for dialogue, answer, principle in zip(dialogues, answers, drawn, strict=True):
                    dialogue.append({"role": ASSISTANT, "content": answer})
                    dialogue.append({"role": USER, "content": getattr(principle, request)})
            rows += len(self._generate(dialogues))
        return rows

    def candidates_and_preferences(self, prompts: Sequence[str], temperatures: Sequence[float], system: str) -> int:
        """Candidates at every temperature, then a verdict a prompt; the number of rows."""
        candidates: list[tuple[str, list[str]]] = []
        for batch in _batches(prompts):
            dialogues = [[{"role": USER, "content": prompt}] for prompt in batch]
            found = [self._generate(dialogues, temperature=temperature) for temperature in temperatures]
            candidates += [(prompt, list(row)) for prompt, row in zip(batch, zip(*found, strict=True), strict=True)]
        for prompt, answers in candidates:
            self._ask_judge(prompt, answers, system)
        return len(candidates)

    def _generate(self, dialogues: Sequence[Sequence[Message]], **more: Any) -> list[str]:
        texts = [self._template.format(dialogue) for dialogue in dialogues]
        body = {**self._options, "sentences": texts, "random_seed": 1234, **more}
        answer = self._client.put(f"{self._server}/generate", json=body).raise_for_status().json()
        return [
            sentence[len(text) :].split("<extra_id_1>")[0].strip()
            for sentence, text in zip(answer["sentences"], texts, strict=True)
        ]

    def _ask_judge(self, prompt: str, answers: Sequence[str], system: str) -> Any:
        assert self._judge is not None
        listed = "\n".join(f"#{number}: {json.dumps(answer)}" for number, answer in enumerate(answers, start=1))
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": f"{json.dumps(prompt)}\n{listed}"},
        ]
        body = {"model": "judge", "messages": messages, "temperature": 0.0, "max_tokens": 1024}
        answer = self._client.post(self._judge, json=body).raise_for_status().json()
        return json.loads(answer["choices"][0]["message"]["content"])


def _batches(prompts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(prompts) - BATCH + 1, BATCH):
        yield prompts[start : start + BATCH]
