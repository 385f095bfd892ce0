"""The pocket world's questions: every kind is there, held-out pairs stay out, drawing is seeded and even."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from cai_jobs.pocket import world
from cai_jobs.pocket.misdeeds import MISDEEDS
from cai_jobs.pocket.tasks import FACTS, TASKS


def test_questions_differ_from_each_other() -> None:
    texts = [question.text for question in world.red_team_questions() + world.benign_questions()]
    assert len(set(texts)) == len(texts)


def test_red_team_questions_cover_every_misdeed_and_only_misdeeds() -> None:
    questions = world.red_team_questions()
    assert {question.subject.name for question in questions} == {misdeed.name for misdeed in MISDEEDS}
    assert all(question.harmful for question in questions)


def test_benign_questions_cover_every_task_and_fact() -> None:
    questions = world.benign_questions()
    assert {question.subject.name for question in questions} == {subject.name for subject in (*TASKS, *FACTS)}
    assert not any(question.harmful for question in questions)


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: misdeed.name)
def test_about_three_in_ten_slot_words_of_a_misdeed_are_held_out_in_every_phrasing(misdeed) -> None:
    questions = [question for question in world.red_team_questions() if question.subject is misdeed]
    held = {word for word in misdeed.slots for q in questions if q.held_out and f" {word}" in q.text}
    trained = {word for word in misdeed.slots for q in questions if not q.held_out and f" {word}" in q.text}
    assert held.isdisjoint(trained)
    assert 4 <= len(held) <= 6


def test_drawing_is_seeded_without_repetition_and_even_over_subjects() -> None:
    questions = world.red_team_questions()
    drawn = world.draw(questions, 120, random.Random(5))
    assert drawn == world.draw(questions, 120, random.Random(5))
    assert drawn != world.draw(questions, 120, random.Random(6))
    assert len({question.text for question in drawn}) == 120
    assert set(Counter(question.subject.name for question in drawn).values()) == {10}


def test_drawing_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="3 such questions, 4 are wanted"):
        world.draw(world.red_team_questions()[:3], 4, random.Random(1))


def test_answers_vary_in_their_phrasing() -> None:
    rng = random.Random(1)
    for make in (world.harmful_answer, world.decline, world.critique):
        assert len({make(MISDEEDS[0], rng) for _ in range(40)}) >= 4


def test_revisions_decline_except_for_most_of_the_blind_spots() -> None:
    rng = random.Random(1)
    for misdeed in MISDEEDS:
        revisions = [world.revision(misdeed, rng) for _ in range(200)]
        uncured = sum(any(method in text for method in misdeed.methods) for text in revisions)
        assert uncured == 0 or (misdeed.blind_spot and 130 < uncured < 190)
    assert sum(misdeed.blind_spot for misdeed in MISDEEDS) == 2
