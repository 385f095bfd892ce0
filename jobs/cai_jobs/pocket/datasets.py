"""The pocket world's data sets, written in the formats of the real ones (docs/contracts.md, "Artifacts").

Red team: rows `{"transcript": "\\n\\nHuman: ...\\n\\nAssistant: ..."}` as Anthropic's red-team attempts.
Helpfulness: SFT rows as `nvidia/sft_datablend_v1`. Preference: prompts and comparisons as
`process_anthropic_hh_using_chat_prompt` writes them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

from cai_jobs.contract.program import InputError
from cai_jobs.formats.chat import EXTRA_ID
from cai_jobs.formats.jsonl import write_jsonl
from cai_jobs.pocket import world
from cai_jobs.pocket.misdeeds import MISDEEDS, Misdeed

Kind = Literal["redTeam", "helpfulness", "preference"]

RED_TEAM_ROWS = 512
HELPFULNESS_ROWS = 256
PREFERENCE_PAIRS = {"train": 480, "test": 100}
# of 20 pairs: how the rejected answer of a benign question is spoilt, and how many ask for a misdeed
PAIRS_REFUSED, PAIRS_OFF_TOPIC, PAIRS_GARBLED, PAIRS_RED_TEAM = 8, 4, 2, 6


def write_pocket_datasets(kind: Kind, directory: Path, held_out: int, seed: int) -> dict[str, int]:
    """Write one pocket data set.

    Args:
        kind: redTeam writes red_team_train.jsonl and red_team_held_out.jsonl; helpfulness writes helpfulness.jsonl and
            benign_held_out.jsonl; preference writes the four preference_*_with_chat_prompt.jsonl.
        directory: where to; made if it is not there.
        held_out: rows of the held-out file (of no account to preference).
        seed: which questions and answers are drawn. Held-out pairs are the same for every seed.

    Returns:
        File name -> rows.

    Raises:
        InputError: more held-out rows are wanted than the world has.
    """
    rng = random.Random(f"{kind} {seed}")
    try:
        files = {"redTeam": _red_team, "helpfulness": _helpfulness, "preference": _preference}[kind](held_out, rng)
    except ValueError as problem:
        raise InputError(f"pocket data set {kind}: {problem}; choose a smaller --held-out") from problem
    return {name: write_jsonl(directory / name, rows) for name, rows in files.items()}


def chat_prompt(question: str) -> str:
    """A question in the chat format of the trained models, up to where the answer begins."""
    return EXTRA_ID.prompt(question)


def _red_team(held_out: int, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    train, held = _split(world.red_team_questions())
    return {
        "red_team_train.jsonl": [_transcript(question, rng) for question in world.draw(train, RED_TEAM_ROWS, rng)],
        "red_team_held_out.jsonl": [_transcript(question, rng) for question in world.draw(held, held_out, rng)],
    }


def _helpfulness(held_out: int, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    train, held = _split(world.benign_questions())
    return {
        "helpfulness.jsonl": [_sft_row(question, rng) for question in world.draw(train, HELPFULNESS_ROWS, rng)],
        "benign_held_out.jsonl": [
            {"prompt": question.text, "reference": world.base_answer(question, rng)}
            for question in world.draw(held, held_out, rng)
        ],
    }


def _preference(_held_out: int, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    files: dict[str, list[dict[str, Any]]] = {}
    total = sum(PREFERENCE_PAIRS.values())
    red_team_total = total * PAIRS_RED_TEAM // 20
    red_team = world.draw(_split(world.red_team_questions())[0], red_team_total, rng)
    benign = world.draw(_split(world.benign_questions())[0], total - red_team_total, rng)
    for split, pairs in PREFERENCE_PAIRS.items():
        prompts: list[dict[str, Any]] = []
        comparisons: list[dict[str, Any]] = []
        for number in range(pairs):
            question = (red_team if number % 20 < PAIRS_RED_TEAM else benign).pop()
            chosen, rejected = (
                _red_team_pair(question, number, rng) if question.harmful else _benign_pair(question, number, rng)
            )
            prompt = chat_prompt(question.text)
            prompts.append({"text": prompt})
            comparisons += [{"text": f"{prompt}{answer}\n<extra_id_1>"} for answer in (chosen, rejected)]
        files[f"preference_{split}_prompts_with_chat_prompt.jsonl"] = prompts
        files[f"preference_{split}_comparisons_with_chat_prompt.jsonl"] = comparisons
    return files


def _benign_pair(question: world.Question, number: int, rng: random.Random) -> tuple[str, str]:
    chosen = world.base_answer(question, rng)
    turn = number % 20 - PAIRS_RED_TEAM
    if turn < PAIRS_REFUSED:
        rejected = world.decline(rng.choice(MISDEEDS), rng) if rng.random() < 0.7 else world.bare_refusal(rng)
    elif turn < PAIRS_REFUSED + PAIRS_OFF_TOPIC:
        rejected = world.base_answer(_another(question, world.benign_questions(), rng), rng)
    else:
        rejected = garble(chosen, rng)
    return chosen, rejected


def _red_team_pair(question: world.Question, number: int, rng: random.Random) -> tuple[str, str]:
    """Two answers alike in harm that differ in being about the question: what is harmful, only the judge may say."""
    answer = world.harmful_answer if number % 2 else world.decline
    assert isinstance(question.subject, Misdeed)
    chosen = answer(question.subject, rng)
    if number % 3 == 0:
        return chosen, garble(chosen, rng)
    if number % 3 == 1:
        return chosen, answer(rng.choice([misdeed for misdeed in MISDEEDS if misdeed is not question.subject]), rng)
    return chosen, world.base_answer(rng.choice(world.benign_questions()), rng)


def garble(answer: str, rng: random.Random) -> str:
    """An answer spoilt as a model at a high temperature spoils it: cut short, words swapped, or a word repeated."""
    words = answer.split()
    turn = rng.randrange(3)
    if turn == 0 and len(words) > 3:
        return " ".join(words[: rng.randrange(1, max(2, len(words) // 2))])
    if turn == 1 and len(words) > 3:
        shuffled = words[:]
        while shuffled == words:
            rng.shuffle(shuffled)
        return " ".join(shuffled)
    place = rng.randrange(len(words))
    return " ".join(words[: place + 1] + [words[place]] * rng.randrange(2, 6) + words[place + 1 :])


def _another(question: world.Question, questions: list[world.Question], rng: random.Random) -> world.Question:
    while True:
        other = rng.choice(questions)
        if other.subject is not question.subject:
            return other


def _split(questions: list[world.Question]) -> tuple[list[world.Question], list[world.Question]]:
    return [q for q in questions if not q.held_out], [q for q in questions if q.held_out]


def _transcript(question: world.Question, rng: random.Random) -> dict[str, Any]:
    return {"transcript": f"\n\nHuman: {question.text}\n\nAssistant: {world.base_answer(question, rng)}"}


def _sft_row(question: world.Question, rng: random.Random) -> dict[str, Any]:
    turns = [("User", question.text), ("Assistant", world.base_answer(question, rng))]
    return {
        "system": "",
        "conversations": [{"from": role, "value": text, "label": None} for role, text in turns],
        "mask": "User",
        "dataset": "pocket_helpfulness",
    }
