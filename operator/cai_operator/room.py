"""Who waits where the cluster has no room for all at once.

A node takes room in two steps: its servers, and when they are ready its job. So two nodes may each hold the room of a
server and wait for ever for that of a job. Here one of them goes first, and the others give up what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping

from cai_operator import conditions
from cai_operator.api import PipelineStatus, State
from cai_operator.outlook import Known, Outlook
from cai_operator.stages import Node
from cai_operator.workloads import JobState, Kind


def make_room(
    nodes: Mapping[str, Node], known: Mapping[str, Known], outlooks: Mapping[str, Outlook], status: PipelineStatus
) -> dict[str, Outlook]:
    """The outlooks, with those nodes yielding that must for others to get on.

    A node is settled when its job and its servers are placed. Where one that is not lacks room, the first of these in
    order goes on, and of the others those yield that hold room or have not begun. One that yielded does so as long as
    an unsettled one is before it: else it would take the room it just gave up. The kept server comes last of all, and
    having yielded waits for all jobs; but once a pipeline was complete it is left alone: somebody may use it.

    Args:
        nodes: the pipeline's nodes, in the order of the graph.
        known: what is known of each.
        outlooks: what might be done about each if there were room.
        status: the last status.
    """
    found = dict(outlooks)
    going = [name for name, node in nodes.items() if outlooks[name] == Outlook.GO and node.kind == Kind.JOB]
    unsettled = [name for name in going if not _is_settled(known[name])]
    unsettled.sort(key=lambda name: (not _job_is_placed(known[name]), nodes[name].rank))
    is_short = any(_lacks_room(known[name]) for name in unsettled)
    for name in unsettled[1:]:
        this = known[name]
        if _has_yielded(this) or (is_short and (_holds_room(this) or not _has_begun(this))):
            found[name] = Outlook.YIELDS
    for name, node in nodes.items():
        if node.kind == Kind.SERVER and outlooks[name] == Outlook.GO and not _was_complete(known[name], status):
            yields = is_short or (bool(going) and _has_yielded(known[name]))
            found[name] = Outlook.YIELDS if yields else Outlook.GO
    return found


def _is_settled(this: Known) -> bool:
    return _job_is_placed(this) and not any(server.lacks_room and not server.ready for server in this.servers)


def _job_is_placed(this: Known) -> bool:
    return this.is_alive and this.job is not None and not this.job.lacks_room


def _lacks_room(this: Known) -> bool:
    lacking_servers = any(server.lacks_room and not server.ready for server in this.servers)
    return lacking_servers or (this.job is not None and this.job.lacks_room)


def _has_begun(this: Known) -> bool:
    return this.is_alive or bool(this.servers)


def _holds_room(this: Known) -> bool:
    # a job of several nodes may have some of its pods
    has_part = this.job is not None and this.job.state == JobState.RUNNING
    return has_part or _job_is_placed(this) or any(server.ready or not server.lacks_room for server in this.servers)


def _has_yielded(this: Known) -> bool:
    previous = this.previous
    return previous is not None and previous.state == State.WAITING and previous.reason == conditions.QUEUED


def _was_complete(this: Known, status: PipelineStatus) -> bool:
    ready = next((condition for condition in status.conditions if condition.type == conditions.READY), None)
    since = [server.started for server in this.servers if server.started is not None]
    if ready is None or not since:
        return False
    return ready.status == "True" or ready.last_transition_time > min(since)
