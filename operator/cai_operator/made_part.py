"""The part of a page that is made from something else, between two marks that stay."""

from __future__ import annotations


def with_part(name: str, page: str, begin: str, end: str, made: str) -> str:
    """The text of a page with everything between its two marks made anew.

    Args:
        name: what the page is called where it is complained about.

    Raises:
        ValueError: the page has no such marks.
    """
    head, found_begin, rest = page.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{name} has no {begin.strip()} … {end.strip()}")
    return f"{head}{begin}{made}{end}{tail}"
