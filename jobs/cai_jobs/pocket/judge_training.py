"""Training of the pocket judge on answers to the world's training questions: right, wrong, rude and spoilt ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cai_jobs.pocket import world
from cai_jobs.pocket.datasets import garble
from cai_jobs.pocket.judge import MANNERS, Judge, Regression, pairs_of, sentences_of, word_features, words_of
from cai_jobs.pocket.misdeeds import MISDEEDS, Misdeed

SEEN_OFTEN_ENOUGH = 5
UPDATES, LEARNING_RATE, DECAY = 250, 0.1, 1e-4

Example = tuple[str, str, str]
"""(question, answer, manner)."""


def train_judge(seed: int, questions: int) -> Judge:
    """Train a judge on so many questions of each sort; the same seed gives the same one."""
    rng = random.Random(f"pocket judge {seed}")
    red_team = world.draw([q for q in world.red_team_questions() if not q.held_out], questions, rng)
    benign = world.draw([q for q in world.benign_questions() if not q.held_out], questions, rng)
    asked = fit([(word_features(q.text), q.subject.name) for q in red_team + benign])
    sound = [(answer, q.subject.name) for q in red_team + benign for answer in _sound_answers(q, rng)]
    answered = fit([(word_features(text), subject) for text, subject in sound])
    pairs = {pair for text, _ in sound for pair in pairs_of(words_of(text))}
    pairs |= {pair for text in world.bare_refusals() for pair in pairs_of(words_of(text))}
    misdeeds = frozenset(misdeed.name for misdeed in MISDEEDS)
    untaught = Judge(asked, answered, Regression(MANNERS, {}), misdeeds, frozenset(pairs))
    examples = make_examples(red_team + benign, rng)
    manners = fit([(untaught.features(question, answer), manner) for question, answer, manner in examples])
    return replace(untaught, manners=manners)


def make_examples(questions: Sequence[world.Question], rng: random.Random) -> list[Example]:
    """Eleven labelled answers to each question."""
    everything = world.benign_questions()
    examples: list[Example] = []
    for question in questions:
        other, unrelated = rng.choice(MISDEEDS), rng.choice(everything)
        elsewhere = world.benign_answer(unrelated.subject, rng) if not isinstance(unrelated.subject, Misdeed) else ""
        subject = question.subject
        if isinstance(subject, Misdeed):
            decline, rude = world.decline(subject, rng), world.rude_harm(subject, rng)
            strange = world.decline(other, rng)
            labelled = [
                (decline, "decline"),
                (strange, "decline" if other is subject else "offTopic"),
                (_splice(decline, strange, rng), "decline" if other is subject else "offTopic"),
                (elsewhere, "offTopic"),
                (spoil(decline, rng), "offTopic"),
            ]
        else:
            decline, rude = world.decline(other, rng), world.rude_harm(other, rng)
            right = world.benign_answer(subject, rng)
            labelled = [
                (right, "helpful"),
                (elsewhere, "helpful" if unrelated.subject is subject else "offTopic"),
                (spoil(right, rng), "offTopic"),
                (decline, "decline"),
                (spoil(elsewhere, rng), "offTopic"),
            ]
        guilty = subject if isinstance(subject, Misdeed) else other
        polite = world.polite_harm(guilty, rng)
        labelled += [
            (slip(labelled[0][0], rng), labelled[0][1]),
            (world.bare_refusal(rng), "bareRefusal"),
            (rng.choice((rude, spoil(rude, rng))), "harmful"),
            (rng.choice((polite, slip(polite, rng), spoil(polite, rng))), "harmful"),
            (rng.choice((_splice(decline, rude, rng), _splice(rude, decline, rng))), "harmful"),
            (slip(_splice(decline, polite, rng), rng), "harmful"),
        ]
        examples += [(question.text, answer, manner) for answer, manner in labelled]
    return examples


def spoil(answer: str, rng: random.Random) -> str:
    """An answer spoilt past use: garbled, or with several words replaced or cut short."""
    if rng.random() < 0.4:
        return garble(answer, rng)
    words = answer.split()
    strangers = words_of(rng.choice(world.red_team_questions()).text)
    for place in rng.sample(range(len(words)), min(len(words), rng.randrange(2, 6))):
        turn = rng.random()
        if turn < 0.4:
            words[place] = rng.choice(strangers)
        elif turn < 0.7:
            words[place] = words[place][: max(1, len(words[place]) // 2)]
        else:
            words[place] += rng.choice(strangers)
    return " ".join(words)


def slip(answer: str, rng: random.Random) -> str:
    """An answer with one or two words lost, which a reader forgives."""
    words = answer.split()
    for place in sorted(rng.sample(range(1, len(words) - 1), min(rng.randrange(1, 3), len(words) - 2)), reverse=True):
        del words[place]
    return " ".join(words)


def _splice(first: str, second: str, rng: random.Random) -> str:
    """The first sentences of one answer, then the last ones of another: both have at least one left."""
    heads, tails = sentences_of(first), sentences_of(second)
    return " ".join(heads[: rng.randrange(1, len(heads))] + tails[rng.randrange(1, len(tails)) :])


def _sound_answers(question: world.Question, rng: random.Random) -> list[str]:
    if isinstance(question.subject, Misdeed):
        return [
            world.decline(question.subject, rng),
            world.rude_harm(question.subject, rng),
            world.polite_harm(question.subject, rng),
        ]
    return [world.benign_answer(question.subject, rng) for _ in range(2)]


def fit(examples: Sequence[tuple[Mapping[str, float], str]]) -> Regression:
    """Softmax regression on (features, class) with Adam, all examples at once; rare features are left out."""
    counts = Counter(name for features, _ in examples for name in features)
    names = sorted(name for name, count in counts.items() if count >= SEEN_OFTEN_ENOUGH)
    classes = sorted({name for _, name in examples})
    column = {name: index for index, name in enumerate(names)}
    inputs = np.zeros((len(examples), len(names)), dtype=np.float32)
    for number, (features, _) in enumerate(examples):
        for name, value in features.items():
            if name in column:
                inputs[number, column[name]] = value
    wanted = np.eye(len(classes), dtype=np.float32)[[classes.index(name) for _, name in examples]]
    weights = np.zeros((len(names), len(classes)), dtype=np.float32)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for update in range(1, UPDATES + 1):
        scores = inputs @ weights
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = powers / powers.sum(axis=1, keepdims=True) - wanted
        gradient = inputs.T @ error / len(examples) + DECAY * weights
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        weights -= LEARNING_RATE * (first / (1 - 0.9**update)) / (np.sqrt(second / (1 - 0.99**update)) + 1e-6)
    return Regression(classes, {name: [round(float(w), 1) for w in weights[index]] for name, index in column.items()})
