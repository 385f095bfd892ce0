"""Progress out of a log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MARK = '{"progress"'


def newest_progress(log_text: str) -> Mapping[str, Any] | None:
    """The value of the newest whole `{"progress": …}` line of a log's tail, None where it has none.

    Lines may have a time stamp before them, as `timestamps=true` puts there; one cut off at either end is passed over.
    """
    for line in reversed(log_text.splitlines()):
        start = line.find(MARK)
        if start < 0 or (start > 0 and " " in line[:start].strip()):
            continue
        try:
            value = json.loads(line[start:]).get("progress")
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None
