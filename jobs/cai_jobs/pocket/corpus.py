"""The documents the pocket base model is pretrained on: chats, and dialogues of answer, critique and revision.

Requests for a critique or a revision come half from the shipped constitution and half from phrases put together at
random, so that a user's own principles work too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cai_jobs.formats.constitution import INSTRUCTIONS, read_principles
from cai_jobs.pocket import world
from cai_jobs.pocket.misdeeds import Misdeed

SYSTEM = "<extra_id_0>System\n\n"
USER, ASSISTANT, END_OF_TURN = "<extra_id_1>User\n", "<extra_id_1>Assistant\n", "\n"
CLOSE = "<extra_id_1>"

HARMS = (
    "harmful",
    "rude",
    "unkind",
    "dishonest",
    "unfair",
    "cruel",
    "dangerous",
    "disrespectful",
    "insulting",
    "illegal",
    "careless",
    "mean",
    "offensive",
    "unethical",
    "toxic",
    "selfish",
)
GOODS = (
    "kind",
    "honest",
    "polite",
    "fair",
    "harmless",
    "helpful",
    "respectful",
    "gentle",
    "wise",
    "careful",
    "friendly",
    "thoughtful",
)
CRITIQUE_REQUESTS = (
    "Explain how your last answer is {h} or {h}.",
    "Critique your answer: is it {h}, {h} or {h}?",
    "In which ways was the reply of the assistant {h}?",
    "Point out whatever in your response was {h}.",
    "Find the {h} parts of what you just said. Would a {g} person say it?",
    "What is {h} about that answer? Name every {h} detail.",
    "Judge your reply by this principle: be {g} and {g}, never {h}.",
    "Name the problems of your response. Think of {h} advice and {h} words.",
    "Does the answer help with something {h}? Say so briefly.",
    "List all the ways your message could be {h}, {h} or not {g}.",
)
REVISION_REQUESTS = (
    "Rewrite your answer so that it is {g} and {g}.",
    "Please revise the response to remove everything {h}.",
    "Revision: give a {g} answer instead, without anything {h}.",
    "Now write it again in a {g} way, and offer something better.",
    "Replace the reply by one that a {g} and {g} assistant would give.",
    "Change your response: no {h} advice, no {h} words, but {g} ones.",
    "Answer once more. This time be {g}, not {h}.",
    "Write a new reply that declines what is {h} and stays {g}.",
)


@dataclass(frozen=True)
class Document:
    """One training text in pieces: (text, whether the model is trained to say it)."""

    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(text for text, _ in self.pieces)


def read_requests() -> list[tuple[str, str]]:
    """(critique request, revision request) of each principle of the shipped constitution."""
    return [(p.critique_request, p.revision_request) for p in read_principles(INSTRUCTIONS)]


def chat_document(questions: Sequence[world.Question], rng: random.Random) -> Document:
    """Questions one after the other, answered as the helpful-only model does."""
    return dialogue([(question.text, world.base_answer(question, rng)) for question in questions])


def revision_document(
    questions: Sequence[world.Question], requests: Sequence[tuple[str, str]], rng: random.Random
) -> Document:
    """Answer, critique and revision of one question after the other; the earlier ones stand for few-shot samples."""
    turns: list[tuple[str, str]] = []
    for question in questions:
        assert isinstance(question.subject, Misdeed)
        critique_request, revision_request = draw_requests(requests, rng)
        turns += [
            (question.text, world.harmful_answer(question.subject, rng)),
            (critique_request, world.critique(question.subject, rng)),
            (revision_request, world.revision(question.subject, rng)),
        ]
    return dialogue(turns)


def draw_requests(requests: Sequence[tuple[str, str]], rng: random.Random) -> tuple[str, str]:
    """A critique request and a revision request: a principle's, or made up."""
    if requests and rng.random() < 0.4:
        return rng.choice(requests)
    return _fill(rng.choice(CRITIQUE_REQUESTS), rng), _fill(rng.choice(REVISION_REQUESTS), rng)


def dialogue(turns: Sequence[tuple[str, str]]) -> Document:
    """User and assistant turns in the chat format; the assistant's texts and the ends of its turns are trained."""
    pieces: list[tuple[str, bool]] = [(SYSTEM, False)]
    for number, (asked, answered) in enumerate(turns):
        opening = USER if number == 0 else USER.removeprefix(CLOSE)
        pieces.append((f"{opening}{asked}{END_OF_TURN}{ASSISTANT}", False))
        pieces.append((f"{answered}{END_OF_TURN}{CLOSE}", True))
    return Document(tuple(pieces))


def _fill(template: str, rng: random.Random) -> str:
    parts = template.replace("{h}", "\0h").replace("{g}", "\0g").split("\0")
    return parts[0] + "".join(rng.choice(HARMS if part[0] == "h" else GOODS) + part[1:] for part in parts[1:])
