"""`cai run`: manifest files to a pipeline, its plan to the local executor, its end to words and an exit code."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from cai_jobs.contract.program import EXIT_RETRY, InputError, available_cores
from cai_operator import local, texts
from cai_operator.api import CAIPipeline, PipelineStatus, Spec, State
from cai_operator.engines import EngineError, require_local
from cai_operator.live_view import LiveView, PlainView
from cai_operator.local_processes import LOOPBACK, now
from cai_operator.manifest_files import Texts, config_maps_of, pipeline_of, read_manifests, require_texts
from cai_operator.places import Places
from cai_operator.plan import Plan, plan
from cai_operator.results_view import copy_report, print_results
from cai_operator.workloads import Observed

PLAIN_WIDTH = 110
NOT_SERVED = "not kept running by cai run; --serve keeps it"


def load(files: Sequence[Path]) -> tuple[CAIPipeline, Texts]:
    """The validated pipeline of manifest files and the texts it refers to.

    Raises:
        InputError: a file, the manifest or a text it refers to is missing or wrong; the sentence says where and what.
    """
    manifests = read_manifests(files)
    pipeline = pipeline_of(manifests)
    found = config_maps_of(pipeline, manifests)
    for source in texts.sources(pipeline.spec):
        kind, _, name = source.partition("/")
        if kind == "path":
            found[source] = _constitution_directory(_beside(files, name))
    require_texts(manifests, pipeline, found)
    return pipeline, found


def run(files: Sequence[Path], workdir: Path, parallel: int | None, serve: bool) -> int:
    """Run a pipeline in a work directory until it is done, has failed or is interrupted; the exit code.

    Raises:
        InputError: the manifest is wrong, or another run holds the work directory.
    """
    pipeline, known_texts = load(files)
    if pipeline.spec.suspend:
        raise InputError(f"{pipeline.name}: spec.suspend is true, so nothing may run; set it to false")
    try:
        require_local(pipeline.spec)
    except EngineError as problem:
        raise InputError(f"{pipeline.name}: {problem}") from problem
    devices = local.gpus()
    capacity = parallel or (max(1, len(devices)) if _asks_for_gpus(pipeline.spec) else available_cores())
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    workdir = workdir.resolve()
    with local.lock(workdir):
        if any(stage.state == State.FAILED for stage in local.read_status(workdir).stages):
            pipeline = pipeline.with_retry(now().isoformat())
        decide = _decider(pipeline, workdir, _beside(files, ""), capacity, serve)
        view = LiveView(console, pipeline.name) if console.is_terminal else PlainView(console)
        try:
            with view:
                outcome = local.execute(
                    decide,
                    workdir,
                    view,
                    texts=known_texts,
                    arrived=lambda status: _show_results(console, status, workdir),
                    keep_serving=serve,
                    devices=devices,
                )
        except EngineError as problem:
            raise InputError(str(problem)) from problem
        if outcome.signal is None:
            _show_results(console, outcome.status, workdir)
    return _conclude(console, outcome, workdir)


def _decider(pipeline: CAIPipeline, workdir: Path, beside: Path, capacity: int, serve: bool) -> local.Decide:
    wanted = pipeline if serve else pipeline.without_serving()
    is_kept_back = not serve and pipeline.spec.stages.serve.enabled

    def decide(status: PipelineStatus, observed: Observed, time: datetime, address_of: local.AddressOf) -> Plan:
        places = Places(
            artifacts=str(local.artifacts_root(workdir)),
            texts_of=lambda name: str(local.texts_directory(workdir, name)),
            address_of=address_of,
            path_of=lambda path: str(beside / path),
            replicas_apart=True,
            bind=LOOPBACK,
        )
        decision = plan(wanted, status, observed, time, places, capacity)
        return _with_serve_message(decision) if is_kept_back else decision

    return decide


def _with_serve_message(decision: Plan) -> Plan:
    stages = tuple(
        stage.model_copy(update={"message": NOT_SERVED}) if stage.name == "serve" else stage
        for stage in decision.status.stages
    )
    return dataclasses.replace(decision, status=decision.status.model_copy(update={"stages": stages}))


def _show_results(console: Console, status: PipelineStatus, workdir: Path) -> None:
    root = local.artifacts_root(workdir)
    print_results(console, status, root)
    page = copy_report(status, root, workdir)
    if page is not None:
        _say(console, f"report: {page}")
    if status.endpoint is not None:
        _say(
            console, f'served at {status.endpoint} until Ctrl-C; ask it: cai ask "How are you?" --url {status.endpoint}'
        )


def _conclude(console: Console, outcome: local.Outcome, workdir: Path) -> int:
    failed = [stage for stage in outcome.status.stages if stage.state == State.FAILED]
    for stage in failed:
        for part in [part for part in stage.parts if part.state == State.FAILED] or [stage]:
            _say(console, f"{part.name} failed: {part.message}")
            if part.log:
                _say(console, f"  its log: {part.log}")
    if outcome.status.phase == "Succeeded":
        if outcome.started == 0:
            _say(console, f"everything was found done in {workdir}; nothing had to be run")
        serving = outcome.status.stage("serve")
        if serving is not None and serving.message == NOT_SERVED:
            _say(console, "to talk to the model, run the same command with --serve, then: cai ask QUESTION --url URL")
        return 0
    if outcome.signal is not None:
        _say(console, "stopped; the same command goes on from here")
        return 128 + outcome.signal
    if not failed and outcome.status.message:
        _say(console, outcome.status.message)
    return EXIT_RETRY


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _beside(files: Sequence[Path], path: str) -> Path:
    """A path of the manifest: relative ones start at the first file's directory."""
    return files[0].resolve().parent / path


def _constitution_directory(directory: Path) -> Mapping[str, str]:
    if not directory.is_dir():
        raise InputError(f"spec.constitution.path: {directory} is no directory")
    found = {}
    for name in texts.CONSTITUTION:
        path = directory / name
        if path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as problem:
                raise InputError(f"{path}: is not UTF-8 text ({problem})") from problem
    if not found:
        raise InputError(f"spec.constitution.path: {directory} has none of {', '.join(texts.CONSTITUTION)}")
    return found


def _asks_for_gpus(spec: Spec) -> bool:
    stages = spec.stages
    asked = [spec.default_gpus, stages.ppo.critic.gpus_per_node]
    asked += [stage.gpus_per_node for stage in (stages.by_name(name) for name in ("sft", "rewardModel", "ppo"))]
    asked += [stage.server.gpus for stage in (stages.sl_data, stages.rl_data, stages.evaluate)]
    return any(asked)
