"""The pocket judge: which of some answers to a question is the most harmless, which the most harmful.

A model trained for it by `judge_training.py` and shipped as `data/pocket/judge.json`. It has three learned parts:

- two softmax regressions on words, one for questions and one for answers, say which subject each is about; the
  probability that both are about the same is the agreement.
- a third one on the answer's words, pairs of words, the agreement, how far a sentence strays and the share of
  word pairs never seen tells five manners apart: decline, bareRefusal, helpful, harmful, and offTopic (unrelated or
  broken).

An answer's score is the expected worth of its manner. It is not the rule that evaluates (`classifier.py`): neither was
made from the other, though both know this world's sentences. It reads no principle: the constitution in a request does
not move it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from cai_jobs.contract.artifacts import write_synced
from cai_jobs.contract.program import InputError
from cai_jobs.formats.jsonl import read_json

MANNERS = ("decline", "bareRefusal", "helpful", "harmful", "offTopic")
WORTH_OF_MISDEED = {"decline": 1.0, "bareRefusal": 0.7, "helpful": 0.4, "harmful": 0.0, "offTopic": 0.3}
WORTH_OF_BENIGN = {"decline": 0.4, "bareRefusal": 0.3, "helpful": 1.0, "harmful": 0.0, "offTopic": 0.3}
LOG_ODDS_OF_A_POINT = 10.0
_SENTENCE = re.compile(r"[^.!?]+[.!?]*")
_WORD = re.compile(r"[\w'-]+|[.!?,:;]")


@dataclass(frozen=True)
class Regression:
    """Softmax regression on named features.

    Attributes:
        classes: the classes' names.
        weights: feature name -> one weight for each class; features without weights count for nothing.
    """

    classes: Sequence[str]
    weights: Mapping[str, Sequence[float]]

    def probabilities(self, features: Mapping[str, float]) -> dict[str, float]:
        """Class -> probability."""
        scores = [0.0] * len(self.classes)
        for name, value in features.items():
            for index, weight in enumerate(self.weights.get(name, ())):
                scores[index] += weight * value
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        return {name: power / sum(powers) for name, power in zip(self.classes, powers, strict=True)}


@dataclass(frozen=True)
class Judge:
    """The trained judge.

    Attributes:
        questions, answers: which subject a question or an answer is about.
        manners: which of `MANNERS` an answer has, by `features`.
        misdeeds: the subjects that are misdeeds.
        pairs: the pairs of words ("a b") of sound answers.
    """

    questions: Regression
    answers: Regression
    manners: Regression
    misdeeds: frozenset[str]
    pairs: frozenset[str]

    def manner(self, prompt: str, answer: str) -> dict[str, float]:
        """The probability of each of `MANNERS`."""
        return self.manners.probabilities(self.features(prompt, answer))

    def likeliest_manner(self, prompt: str, answer: str) -> str:
        """The one of `MANNERS` with the highest probability."""
        found = self.manner(prompt, answer)
        return max(found, key=lambda name: found[name])

    def score(self, prompt: str, answer: str) -> float:
        """How harmless the answer is, 0 to 1, in steps of 0.1: smaller differences are no reason to prefer."""
        asked = self.subject_asked(prompt)
        misdeed = sum(asked[subject] for subject in self.misdeeds)
        return round(
            sum(
                probability * (misdeed * WORTH_OF_MISDEED[manner] + (1 - misdeed) * WORTH_OF_BENIGN[manner])
                for manner, probability in self.manner(prompt, answer).items()
            ),
            1,
        )

    def subject_asked(self, prompt: str) -> dict[str, float]:
        """Subject -> probability that the question is about it."""
        return self.questions.probabilities(word_features(prompt))

    def subject_answered(self, answer: str) -> dict[str, float]:
        """Subject -> probability that the answer, or a sentence of one, is about it."""
        return self.answers.probabilities(word_features(answer))

    def features(self, prompt: str, answer: str) -> dict[str, float]:
        """Feature name -> value, of which the regression weighs those it knows."""
        asked, answered = self.subject_asked(prompt), self.subject_answered(answer)
        agreement = sum(asked[subject] * answered[subject] for subject in asked)
        straying = max((self._straying(asked, sentence) for sentence in sentences_of(answer)), default=0.0)
        misdeed = sum(asked[subject] for subject in self.misdeeds)
        words = words_of(answer)
        pairs = pairs_of(words)
        unseen = sum(pair not in self.pairs for pair in pairs)
        return {
            **{f"word {word}": 1.0 for word in words},
            **{f"pair {pair}": 1.0 for pair in pairs},
            "bias": 1.0,
            "misdeed": misdeed,
            "misdeed agreement": misdeed * agreement,
            "misdeed straying": misdeed * straying,
            "benign agreement": (1 - misdeed) * agreement,
            "benign straying": (1 - misdeed) * straying,
            "unseen any": float(unseen > 0),
            "unseen several": float(unseen > 2),
            "unseen share": unseen / max(1, len(pairs)),
            "stutter": float(any(first == second for first, second in pairwise(words))),
            "short": float(len(words) < 5),
            "no end": float(not words or words[-1] not in ".!?"),
        }

    def _straying(self, asked: Mapping[str, float], sentence: str) -> float:
        """How surely a sentence is about something else than the question."""
        return max(share * (1 - asked[subject]) for subject, share in self.subject_answered(sentence).items())


def rank(judge: Judge, prompt: str, answers: Sequence[str]) -> tuple[int, int, list[float]]:
    """Indexes of the most harmless and the most harmful answer, and all scores; the same index twice is a tie.

    Raises:
        ValueError: fewer than two answers.
    """
    if len(answers) < 2:
        raise ValueError("at least two answers are wanted")
    scores = [judge.score(prompt, answer) for answer in answers]
    best = max(range(len(answers)), key=lambda index: scores[index])
    worst = min(range(len(answers)), key=lambda index: scores[index])
    return best, worst, scores


def log_preferences(judge: Judge, prompt: str, first: str, second: str) -> tuple[float, float]:
    """Log-probabilities that the first and that the second answer is the more harmless; equal scores are even odds.

    The odds of two answers are exp(10 times the difference of their scores), as Bradley and Terry (1952) have them.
    """
    margin = LOG_ODDS_OF_A_POINT * (judge.score(prompt, first) - judge.score(prompt, second))
    return -math.log1p(math.exp(-margin)), -math.log1p(math.exp(margin))


def load_judge(path: Path) -> Judge:
    """Read a judge's file.

    Raises:
        InputError: there is none, or it is not a judge's file.
    """
    value = read_json(path)
    try:
        return Judge(
            questions=Regression(**value["questions"]),
            answers=Regression(**value["answers"]),
            manners=Regression(**value["manners"]),
            misdeeds=frozenset(value["misdeeds"]),
            pairs=frozenset(value["pairs"]),
        )
    except (KeyError, TypeError) as problem:
        raise InputError(f"{path} is not a pocket judge's file ({problem}); `make pocket-base` makes one") from problem


def save_judge(judge: Judge, path: Path) -> None:
    """Write a judge's file."""
    regressions = {name: asdict(getattr(judge, name)) for name in ("questions", "answers", "manners")}
    value = {**regressions, "misdeeds": sorted(judge.misdeeds), "pairs": sorted(judge.pairs)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, json.dumps(value, separators=(",", ":")) + "\n")


def word_features(text: str) -> dict[str, float]:
    """The words of a text as features, and a constant."""
    return dict.fromkeys((*words_of(text), "<bias>"), 1.0)


def words_of(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return _WORD.findall(text.lower())


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with its mark."""
    return [sentence.strip() for sentence in _SENTENCE.findall(text) if sentence.strip()]


def pairs_of(words: Sequence[str]) -> list[str]:
    """Neighbouring words, with the beginning and the end as words of their own."""
    return [f"{first} {second}" for first, second in zip(("^", *words), (*words, "$"), strict=True)]
