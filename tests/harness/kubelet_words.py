"""What the kubelet makes of a container's command, arguments and variables: `$(NAME)` in them is a reference.

After the API reference of `Container.command` and `EnvVar.value`: a reference to a variable that is not there stays as
it is, and `$$` is a `$` that begins none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"\$(?:(\$)|\(([^)]*)\))", re.DOTALL)


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """The text a program gets."""

    def put(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        return variables.get(found[2], found[0])

    return _REFERENCE.sub(put, text)


def variables_of(container: Mapping[str, Any]) -> dict[str, str]:
    """The plain variables of a container as its program sees them; each may refer to those before it.

    One that comes of a Secret or of the pod's own fields has its source in brackets for a value.
    """
    found: dict[str, str] = {}
    for item in container.get("env", ()):
        source = item.get("valueFrom")
        found[item["name"]] = expanded(item.get("value", ""), found) if source is None else f"[{source}]"
    return found


def argv_of(container: Mapping[str, Any]) -> list[str]:
    """The argument vector the program is started with."""
    words = [*container.get("command", ()), *container.get("args", ())]
    variables = variables_of(container)
    return [expanded(word, variables) for word in words]
