import json
from collections import Counter
from pathlib import Path

import pytest

from cai_jobs.contract.program import InputError
from cai_jobs.formats.constitution import Principle
from cai_jobs.generation import principles

THREE = [Principle(name, f"Criticise by {name}.", f"Revise by {name}.") for name in ("a", "b", "c")]


def test_principles_are_drawn_evenly_where_they_weigh_the_same() -> None:
    drawn = Counter(principles.draw(1, row, 1, [1.0] * 16)[0] for row in range(3200))
    assert set(drawn) == set(range(16))
    assert all(150 < count < 250 for count in drawn.values())


def test_principles_are_drawn_by_weight() -> None:
    drawn = Counter(principles.draw(7, row, 1, [3.0, 0.0, 1.0])[0] for row in range(4000))
    assert set(drawn) == {0, 2}
    assert 0.72 < drawn[0] / 4000 < 0.78


def test_no_principle_comes_twice_while_others_are_left() -> None:
    for row in range(200):
        drawn = principles.draw(3, row, 10, [5.0, 1.0, 0.0, 2.0, 0.1])
        assert 2 not in drawn
        assert set(drawn[:4]) == set(drawn[4:8]) == {0, 1, 3, 4}
        assert len(set(drawn[8:])) == 2


def test_a_round_does_not_depend_on_how_many_follow() -> None:
    weights = [1.0, 2.0, 3.0, 4.0]
    for row in range(50):
        assert principles.draw(5, row, 4, weights)[:2] == principles.draw(5, row, 2, weights)
    assert [principles.draw(5, row, 1, weights) for row in range(50)] != [
        principles.draw(6, row, 1, weights) for row in range(50)
    ]


def test_weights_not_named_are_one(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text('{"b": 0, "c": 2.5}')
    assert principles.read_weights(str(tmp_path / "w.json"), THREE) == [1.0, 0.0, 2.5]
    assert principles.read_weights(' {"a": 3}', THREE) == [3.0, 1.0, 1.0]
    assert principles.read_weights(None, THREE) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('{"a": 1', "is not JSON"),
        ({"d": 1}, "no principle d; there are a, b, c"),
        ({"a": True}, "a: the weight is True"),
        ({"a": "2"}, "a: the weight is '2'"),
        ({"a": -0.1}, "a: the weight is -0.1"),
        ('{"a": NaN}', "a: the weight is nan"),
        ('{"a": Infinity}', "a: the weight is inf"),
        ({"a": 0, "b": 0, "c": 0}, "every principle weighs 0"),
    ],
)
def test_wrong_weights(value: object, sentence: str) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(InputError) as problem:
        principles.read_weights(text, THREE)
    assert sentence in str(problem.value)


def test_a_file_of_weights_must_hold_an_object(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"w\.json: an object"):
        principles.read_weights(str(tmp_path / "w.json"), THREE)
