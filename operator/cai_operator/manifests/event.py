"""An Event (core/v1) about a pipeline, as a dict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cai_operator.names import MANAGED_BY
from cai_operator.summary import Event

LONGEST_MESSAGE = 1024  # bytes, of core/v1 Event
LONGEST_REASON = 128


def event_object(
    pipeline: Mapping[str, Any], event: Event, number: int, now: datetime, identity: str
) -> dict[str, Any]:
    """The Event object of what happened between two statuses.

    Args:
        pipeline: the object as the status write answered it; names and versions make the event's name.
        event: what happened.
        number: which of the events of that write it is.
        now: the time, aware.
        identity: the operator that saw it.
    """
    metadata = pipeline["metadata"]
    stamp = now.isoformat(timespec="seconds").replace("+00:00", "Z")
    digest = hashlib.sha256(f"{metadata['uid']}/{metadata['resourceVersion']}/{number}".encode()).hexdigest()[:16]
    message = event.message.encode()[:LONGEST_MESSAGE].decode(errors="ignore")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": pipeline["apiVersion"],
            "kind": pipeline["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason[:LONGEST_REASON],
        "message": message,
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "reportingInstance": identity[:128],
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
