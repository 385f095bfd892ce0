"""What fixtures of the whole session keep running is ended when the tests have gone on to what does not use it."""

from __future__ import annotations

from collections.abc import Callable, Collection

_held: dict[str, list[Callable[[], None]]] = {}


def when_unused(fixture: str, end: Callable[[], None]) -> None:
    """Call `end` before the first test that does not use this fixture; the newest such call is made first."""
    _held.setdefault(fixture, []).append(end)


def unused(fixtures: Collection[str]) -> None:
    """End what none of these fixtures, all that the next test uses, holds."""
    for fixture in [name for name in _held if name not in fixtures]:
        for end in reversed(_held.pop(fixture)):
            end()
