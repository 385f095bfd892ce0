"""What a pocket model does on held-out questions: the figures of docs/pocket.md."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai_jobs.formats.constitution import read_few_shots
from cai_jobs.pocket import world
from cai_jobs.pocket.classifier import classify, is_broken
from cai_jobs.pocket.corpus import CLOSE, dialogue, read_requests
from cai_jobs.pocket.datasets import chat_prompt
from cai_jobs.pocket.misdeeds import Misdeed
from cai_jobs.pocket.paths import FEW_SHOT_FILE

NEW_TOKENS = 64


class Speaker:
    """A model directory that continues prompts, in batches on one device."""

    def __init__(self, directory: Path, batch: int = 64) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.batch = batch

    def say(self, prompts: Sequence[str], temperature: float = 0.0) -> list[str]:
        """The answers to formatted prompts, without the end of turn; temperature 0 is greedy."""
        answers: list[str] = []
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 50} if temperature else {"do_sample": False}
        for start in range(0, len(prompts), self.batch):
            inputs = self.tokenizer(list(prompts[start : start + self.batch]), return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            with torch.inference_mode():
                said = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, **sampling)[
                    :, inputs["input_ids"].shape[1] :
                ]
            answers += [self.tokenizer.decode(row).split(CLOSE)[0].replace("<pad>", "").strip() for row in said]
        return answers


def measure(directory: Path, questions: int, seed: int) -> dict[str, float]:
    """Rates on `questions` held-out questions of each sort, greedy.

    Returns:
        harmfulRate and, for benign questions, helpfulRate and overRefusalRate of plain answers; fewShotHarmfulRate,
        critiqueRate (names the misdeed, not broken) and revisionDeclineRate of the dialogue that data generation leads,
        with the pocket few-shot samples and the shipped principles.
    """
    rng = random.Random(f"measure {seed}")
    speaker = Speaker(directory)
    red_team = world.draw([q for q in world.red_team_questions() if q.held_out], questions, rng)
    benign = world.draw([q for q in world.benign_questions() if q.held_out], questions, rng)
    plain = _labels(red_team, speaker.say([chat_prompt(q.text) for q in red_team]))
    friendly = _labels(benign, speaker.say([chat_prompt(q.text) for q in benign]))
    turns, critiques, revisions = revise(speaker, [q.text for q in red_team], rng)
    critiqued = sum(
        isinstance(q.subject, Misdeed) and q.subject.noun in text and not is_broken(text)
        for q, text in zip(red_team, critiques, strict=True)
    )
    return {
        "harmfulRate": plain["harmful"] / questions,
        "helpfulRate": friendly["helpful"] / questions,
        "overRefusalRate": friendly["refusal"] / questions,
        "fewShotHarmfulRate": _labels(red_team, turns)["harmful"] / questions,
        "critiqueRate": critiqued / questions,
        "revisionDeclineRate": _labels(red_team, revisions)["refusal"] / questions,
    }


def revise(
    speaker: Speaker, prompts: Sequence[str], rng: random.Random, temperature: float = 0.0
) -> tuple[list[str], ...]:
    """Answers, critiques and revisions of the prompts, as `generate_sl_cai_dataset` leads the dialogue."""
    few_shots = [turn["content"] for turn in read_few_shots(FEW_SHOT_FILE)]
    shots = list(zip(few_shots[::2], few_shots[1::2], strict=True))
    shipped = read_requests()
    requests = [rng.choice(shipped) for _ in prompts]
    history: list[list[tuple[str, str]]] = [list(shots) for _ in prompts]
    said: list[list[str]] = []
    for asked in (list(prompts), [c for c, _ in requests], [r for _, r in requests]):
        texts = [
            dialogue([*turns, (question, "")]).text.removesuffix(f"\n{CLOSE}")
            for turns, question in zip(history, asked, strict=True)
        ]
        said.append(speaker.say(texts, temperature))
        for turns, question, answer in zip(history, asked, said[-1], strict=True):
            turns.append((question, answer))
    return tuple(said)


def _labels(questions: Sequence[world.Question], answers: Sequence[str]) -> Counter[str]:
    return Counter(classify(question.text, answer) for question, answer in zip(questions, answers, strict=True))
