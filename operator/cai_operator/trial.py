"""What `helm test` runs: apply a pipeline, wait until it is Ready, take it away again.

    python -m cai_operator.trial FILE [--timeout SECONDS]

Exit 0: it became Ready. 1: it did not, and what its status says is printed. 2: the file or the login will not do. All
it needs is to create pipelines, and to read and delete this one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cai_jobs.contract.program import EXIT_INPUT, EXIT_RETRY, InputError
from cai_operator.api import CAIPipeline
from cai_operator.cluster import Cluster, Conflict, LoginFailed, Refused, Unavailable, login
from cai_operator.conditions import READY
from cai_operator.manifests.kinds import PIPELINE
from cai_operator.observing.objects import holds
from cai_operator.status import Phase
from cai_operator.validation import parse_pipeline

POLL_S = 1.0
ENDS = (Phase.SUCCEEDED, Phase.FAILED)
NOT_FOUND = 404


class Failed(Exception):
    """The pipeline did not become Ready; the message says why."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trial and exit."""
    parser = argparse.ArgumentParser(prog="python -m cai_operator.trial", allow_abbrev=False)
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML with one CAIPipeline that names its namespace")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="default: 900")
    arguments = parser.parse_args(argv)
    try:
        document = yaml.safe_load(arguments.file.read_text(encoding="utf-8"))
        pipeline = parse_pipeline(document)
        login()
    except (InputError, LoginFailed, OSError, yaml.YAMLError) as problem:
        print(f"error: {arguments.file}: {problem}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    try:
        asyncio.run(_run(Cluster(), document, pipeline, time.monotonic() + arguments.timeout))
    except (Failed, Conflict, Refused, Unavailable) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(EXIT_RETRY)


async def _run(cluster: Cluster, document: dict[str, Any], pipeline: CAIPipeline, end: float) -> None:
    namespace, name = pipeline.metadata.namespace, pipeline.name
    try:
        await _delete(cluster, namespace, name, end)  # one that an earlier trial left
        print(f"applying pipeline {name} in namespace {namespace}", flush=True)
        try:
            await cluster.send("POST", PIPELINE.path(namespace), document)
            await _wait(cluster, namespace, name, end)
        finally:
            await _delete(cluster, namespace, name, max(end, time.monotonic() + 60))
        print("it became Ready, and is taken away again", flush=True)
    finally:
        await cluster.close()


async def _wait(cluster: Cluster, namespace: str, name: str, end: float) -> None:
    told = ""
    while True:
        try:
            found = await cluster.get(PIPELINE, namespace, name)
        except Unavailable as problem:
            print(f"waiting: {problem}", flush=True)
        else:
            status = (found or {}).get("status") or {}
            if found is None:
                raise Failed(f"somebody else deleted pipeline {name}")
            if holds(found, READY):
                return
            if (said := _sentence(status)) != told:
                print(told := said, flush=True)
            if status.get("phase") in ENDS:
                raise Failed(f"the pipeline ended and is not Ready:\n{_shown(status)}")
            if time.monotonic() > end:
                raise Failed(f"the pipeline was not Ready in time:\n{_shown(status)}")
        await asyncio.sleep(POLL_S)


async def _delete(cluster: Cluster, namespace: str, name: str, end: float) -> None:
    """Delete the pipeline, its children first, and return once it is gone."""
    path = PIPELINE.path(namespace, name)
    try:
        await cluster.send("DELETE", path, {"propagationPolicy": "Foreground"})
    except Refused as problem:
        if problem.code == NOT_FOUND:
            return
        raise
    while await cluster.get(PIPELINE, namespace, name) is not None:
        if time.monotonic() > end:
            raise Failed(f"pipeline {name} is being deleted and does not go: kubectl get caip {name} -n {namespace}")
        await asyncio.sleep(POLL_S)


def _sentence(status: Mapping[str, Any]) -> str:
    if not status:
        return "the operator has not looked at it yet"
    parts = (status.get(field) for field in ("phase", "progress", "activity"))
    return " ".join(str(part) for part in parts if part)


def _shown(status: Mapping[str, Any]) -> str:
    if not status:
        return "no operator has looked at it: is it running, and does it serve this namespace?"
    return yaml.safe_dump(dict(status), sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    main()
