"""`cai status`, `retry`, `suspend` and `resume` of a pipeline on a cluster, by its name."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from cai_jobs.contract.program import EXIT_RETRY, InputError, RetryableError
from cai_operator import conditions, kubectl
from cai_operator.api import RETRY_ANNOTATION, parse_status
from cai_operator.api_base import OBJECT_NAME_PATTERN
from cai_operator.kubectl import Target
from cai_operator.live_view import LiveView, PlainView
from cai_operator.status import NodeStatus, Phase, PipelineStatus, State
from cai_operator.status_table import print_status, trouble

WATCH_S = 2.0
PLAIN_WIDTH = 110

UNSEEN = "no operator has looked at it yet; is one running? kubectl get deployment -n cai-system"
BEHIND = "the operator has not looked at the last change yet"

View = tuple[PipelineStatus, bool]
"""A status, and whether it is about the pipeline as it is now."""


def add_commands(commands: Any) -> None:
    """Add the commands that only a cluster has to the subparsers of `cai`."""
    command = _command(commands, "retry", "start the failed stages of a pipeline on a cluster anew", _retry)
    command.add_argument("--force", action="store_true", help="ask for another try even where nothing has failed")
    _command(commands, "suspend", "stop a pipeline on a cluster, to go on from there later", _suspend)
    _command(commands, "resume", "let a suspended pipeline on a cluster go on", _resume)


def add_target_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags that say which cluster and namespace are meant."""
    command.add_argument("-n", "--namespace", help="the pipeline's namespace (default: kubectl's)")
    command.add_argument("--context", help="the kubeconfig's context (default: kubectl's)")
    command.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig (default: kubectl's)")


def target_of(arguments: argparse.Namespace) -> Target:
    """The cluster and namespace that the flags say."""
    return Target(arguments.namespace, arguments.context, arguments.kubeconfig)


def read(name: str, target: Target) -> dict[str, Any]:
    """The pipeline of that name as the API server has it.

    Raises:
        InputError: there is no such pipeline, no such resource, no cluster or no kubectl.
        RetryableError: the cluster cannot be reached.
    """
    if not re.search(OBJECT_NAME_PATTERN, name):
        raise InputError(
            f"{name!r} is neither a directory nor a name a pipeline can have "
            "(lower case letters, digits, '-' and '.', with a letter or digit first and last)"
        )
    return kubectl.get_pipeline(name, target)


def print_pipeline(document: dict[str, Any], target: Target) -> None:
    """Print how a pipeline stands, for people."""
    metadata, status = document["metadata"], parse_status(document.get("status"))
    endings = []
    if status.endpoint:
        address = urlsplit(status.endpoint)
        forward = f"kubectl port-forward -n {metadata['namespace']} service/{(address.hostname or '').split('.')[0]}"
        endings.append(f"endpoint: {status.endpoint} (from outside the cluster: {forward} {address.port})")
    if status.report:
        endings.append(f"report: {status.report} on the pipeline's volume")
    for node in _failed(status):
        endings += [f"log of {node.name}: {node.log}"] if node.log else []
    if _failed(status):
        endings.append(f"to start it anew: {_cai('retry', metadata['name'], target)}")
    print_status(status, _remarks(document, status), endings)


def follow(name: str, look: Callable[[], View]) -> int:
    """Show a pipeline's stages until it has ended: 0 where it succeeded, 1 where it failed.

    What cannot be reached for a while is said once, and asked again.
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    view = LiveView(console, name) if console.is_terminal else PlainView(console)
    said: list[str] = []
    with view:
        while True:
            try:
                status, is_current = look()
            except RetryableError as problem:
                sentences = [str(problem)]
            else:
                view.show(status, {})
                if is_current and status.phase in (Phase.SUCCEEDED, Phase.FAILED):
                    break
                sentences = trouble(status)
            for sentence in sentences:
                if sentence not in said:
                    view.say(sentence)
            said = sentences
            time.sleep(WATCH_S)
    if status.message:
        console.print(status.message, highlight=False, markup=False, soft_wrap=True)
    return 0 if status.phase == Phase.SUCCEEDED else EXIT_RETRY


def view_of(document: dict[str, Any]) -> View:
    """The status of a pipeline as read from the cluster, and whether it is about its present spec and retry."""
    status = parse_status(document.get("status"))
    asked = document["metadata"].get("annotations", {}).get(RETRY_ANNOTATION)
    is_seen = (status.observed_generation or 0) >= document["metadata"].get("generation", 0)
    return status, is_seen and asked in (None, status.retry)


def _command(commands: Any, name: str, what: str, function: Callable[[argparse.Namespace], int]) -> Any:
    command = commands.add_parser(name, help=what, allow_abbrev=False)
    command.add_argument("name", metavar="NAME", help="the pipeline")
    add_target_flags(command)
    command.set_defaults(command=function)
    return command


def _retry(arguments: argparse.Namespace) -> int:
    name, target = arguments.name, target_of(arguments)
    document = read(name, target)
    status = parse_status(document.get("status"))
    failed = _failed(status)
    if not failed and not arguments.force:
        raise InputError(_nothing_failed(name, status))
    kubectl.annotate(name, RETRY_ANNOTATION, datetime.now(UTC).isoformat(), target)
    for node in failed:
        print(f"{node.name} is started anew; it had failed: {node.message}")
    if not failed:
        print(f"{name}: another try is asked for, though nothing has failed so far")
    if document["spec"].get("suspend"):
        print(f"the pipeline is suspended; to let it go on: {_cai('resume', name, target)}")
    else:
        print(f"to see it: {_cai('status', name, target)} --watch")
    return 0


def _nothing_failed(name: str, status: PipelineStatus) -> str:
    gate = next((stage for stage in status.stages if stage.state == State.FAILED), None)
    if gate is not None:
        return (
            f"{name}: no program failed, but a gate is not met: {gate.message}; the same models would be found wanting "
            "again: change spec.stages.evaluate.gates, or what they are trained with"
        )
    message = f": {status.message}" if status.message else ""
    return f"{name}: no stage has failed (it is {status.phase}{message}); --force asks for another try all the same"


def _suspend(arguments: argparse.Namespace) -> int:
    return _set_suspend(arguments, True)


def _resume(arguments: argparse.Namespace) -> int:
    return _set_suspend(arguments, False)


def _set_suspend(arguments: argparse.Namespace, suspend: bool) -> int:
    name, target = arguments.name, target_of(arguments)
    if bool(read(name, target)["spec"].get("suspend")) == suspend:
        print(f"{name} is {'suspended already' if suspend else 'not suspended'}")
        return 0
    kubectl.patch_spec(name, {"suspend": suspend}, target)
    if suspend:
        print(f"{name}: its jobs and servers are stopped; to let it go on from there: {_cai('resume', name, target)}")
    else:
        print(f"{name} goes on; to see it: {_cai('status', name, target)} --watch")
    return 0


def _failed(status: PipelineStatus) -> list[NodeStatus]:
    """Nodes whose program, or server, failed: not a stage that only misses its gate."""
    nodes = (node for stage in status.stages for node in stage.parts or (stage,))
    return [node for node in nodes if node.state == State.FAILED]


def _remarks(document: dict[str, Any], status: PipelineStatus) -> Sequence[str]:
    metadata = document["metadata"]
    if "deletionTimestamp" in metadata:
        return ["it is being deleted"]
    if "status" not in document:
        return [UNSEEN]
    if not view_of(document)[1]:
        return [BEHIND]
    suspended = next((found for found in status.conditions if found.type == conditions.SUSPENDED), None)
    if suspended is None or suspended.status != "True":
        return []
    return [f"suspended since {suspended.last_transition_time:%Y-%m-%d %H:%M:%S %Z}"]


def _cai(command: str, name: str, target: Target) -> str:
    """The command that does this to the same pipeline."""
    short = [flag.replace("--namespace=", "-n ") for flag in map(shlex.quote, target.flags())]
    return " ".join(["cai", command, name, *short])
