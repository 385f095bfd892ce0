"""Reading raw API objects: fields that may be missing, times, labels."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

Raw = Mapping[str, Any]


def dig(raw: Any, *path: str) -> Any:
    """The value at a path of field names, None where there is none."""
    for name in path:
        if not isinstance(raw, (dict, Mapping)):  # most are dicts, which is found out sooner
            return None
        raw = raw.get(name)
    return raw


def mapping(raw: Any, *path: str) -> Raw:
    """The object at a path, empty where there is none."""
    found = dig(raw, *path)
    return found if isinstance(found, (dict, Mapping)) else {}


def items(raw: Any, *path: str) -> list[Raw]:
    """The objects of the list at a path."""
    found = dig(raw, *path)
    return [item for item in found if isinstance(item, (dict, Mapping))] if isinstance(found, list | tuple) else []


def number(raw: Any, *path: str) -> int:
    """The whole number at a path, 0 where there is none."""
    found = dig(raw, *path)
    return found if isinstance(found, int) else 0


def text(raw: Any, *path: str) -> str:
    """The text at a path, empty where there is none."""
    found = dig(raw, *path)
    return found if isinstance(found, str) else ""


def time(raw: Any, *path: str) -> datetime | None:
    """The RFC 3339 time at a path."""
    try:
        return datetime.fromisoformat(text(raw, *path))
    except ValueError:
        return None


def name_of(raw: Raw) -> str:
    """The object's name."""
    return text(raw, "metadata", "name")


def label(raw: Raw, name: str) -> str:
    """The value of a label, empty where the object does not have it."""
    return text(raw, "metadata", "labels", name)


def condition(raw: Raw, type_: str) -> Raw:
    """The condition of that type in the object's status, empty where there is none."""
    return next((found for found in items(raw, "status", "conditions") if found.get("type") == type_), {})


def holds(raw: Raw, type_: str) -> bool:
    """Whether the condition of that type is true."""
    return condition(raw, type_).get("status") == "True"


def is_going(raw: Raw) -> bool:
    """Whether the object is being deleted."""
    return bool(dig(raw, "metadata", "deletionTimestamp"))
