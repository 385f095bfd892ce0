"""What is being worked on now, short enough for a column of `kubectl get`."""

from __future__ import annotations

from collections.abc import Iterable

from cai_operator.status import NodeStatus, Progress, State

MOST_NODES = 2


def activity(nodes: Iterable[NodeStatus]) -> str:
    """What each node that is under way does: "sft 40/60 (67 %), 2m left; evaluateBase starting"; empty if none is.

    It follows the nodes' states, reasons and progress alone, so that it changes no more often than they do.
    """
    words = [f"{node.name} {found}" for node in nodes if (found := _of(node))]
    return "; ".join(words[:MOST_NODES]) + ("; …" if len(words) > MOST_NODES else "")


def _of(node: NodeStatus) -> str:
    if node.state == State.STARTING:
        return node.reason or "starting"
    if node.state != State.RUNNING or node.name == "serve":
        return ""
    return _progress(node.progress) if node.progress is not None else node.reason or "running"


def _progress(progress: Progress) -> str:
    if not progress.total:
        return f"{progress.done} {progress.unit}".rstrip()
    if progress.done >= progress.total:
        return f"{progress.done}/{progress.total} (100 %)"
    words = f"{progress.done}/{progress.total} ({min(99, round(100 * progress.done / progress.total))} %)"
    return words if progress.eta_seconds is None else f"{words}, {_duration(progress.eta_seconds)} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if hours < 24 else f"{hours // 24}d{hours % 24}h"
