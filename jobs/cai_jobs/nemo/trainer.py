"""A trainer under the wrapper: started, watched, judged by what it saved, its model published."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts
from cai_jobs.contract.artifacts import write_synced
from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.contract.progress import Progress
from cai_jobs.nemo import checkpoints, export, inputs, log
from cai_jobs.nemo.child import Child
from cai_jobs.nemo.commands import name_of
from cai_jobs.nemo.critic import Critic
from cai_jobs.nemo.failures import failure
from cai_jobs.nemo.unit import Beat, Meeting, Phase
from cai_jobs.training.metrics import read_metrics

STATE = "nemo_run.json"
"""Beside the model, unpublished: the number of steps the program itself gave, for after a restart."""

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
EVENTS = "events.out.tfevents.*"
LOOK_S = 1.0
SEEN_S = 10.0
"""How long one machine may take to see what another has written: file servers' clients keep what they looked at."""


def train(
    args: argparse.Namespace, command: Sequence[str], directory: Path, converter: Sequence[str] = ()
) -> dict[str, Any]:
    """Bring a trainer to its end and its model into `directory`, by a converter in Hugging Face format too.

    Returns:
        steps, and the last figures of each phase: loss, validationLoss, ...

    Raises:
        InputError: an input is not whole, the rows do not make one step, or the program refuses a setting.
        RetryableError: it failed or left before it was done.
    """
    inputs.check(args.input, args.check_inputs or "digests")
    if converter:
        export.check(args.export_from, converter, directory)
    run = _Run(args, list(command), directory, _goal(args, directory), list(converter))
    run.work.mkdir(parents=True, exist_ok=True)
    if args.critic_host is not None:
        return _with_critic(run, Critic(args, directory), Meeting(directory))
    if not run.is_done():
        run.until_done()
    return run.collect()


def _with_critic(run: _Run, critic: Critic, meeting: Meeting) -> dict[str, Any]:
    with Beat(meeting) as beat:
        # from its last step a trainer does not go on to write the model that is missing: both take that step again
        critic.settle(None if run.is_done() else run.goal)
        if not run.is_done():
            critic.serve()
            beat.tell(Phase.TRAINING)
            run.until_done(critic.problem)
        critic.finish()
        # still with a sign of life: a conversion takes longer than the critic bears silence
        return run.collect()


def follow(args: argparse.Namespace, command: Sequence[str]) -> dict[str, Any] | None:
    """Run the program's part on a node that publishes nothing; as it ends, or as the first node publishes, this does.

    Raises:
        InputError: the program refuses a setting.
        RetryableError: it failed, or left before all was done.
    """
    if _is_published(args):
        return None
    reading = log.Reading()
    # its log directory is the first node's; it must be there to run in, whoever comes first
    partial = args.artifact_dir.with_name(args.artifact_dir.name + ".partial") if args.artifact_dir else args.output_dir
    work = partial / args.work_dir
    work.mkdir(parents=True, exist_ok=True)
    published_at: float | None = None
    meeting = Meeting(partial) if args.critic_host is not None else None
    if meeting is not None and not _await_training(args, meeting):
        return None
    if meeting is None and _Run(args, list(command), partial, _goal(args, partial)).is_done():
        # started again while the first node converts: the program would wait in vain for the first node's
        return None
    with Child(command, work, args.grace_s) as child:
        while child.code is None:
            for line in child.lines(min(LOOK_S, args.poll_s)):
                reading.read(line)
            if meeting is not None and _begins_again(meeting):
                raise RetryableError("the first node begins again; so does this one")
            if published_at is None and _is_published(args):
                published_at = time.monotonic()
            if published_at is not None and time.monotonic() - published_at >= args.linger_s:
                break
        for line in child.lines(0.1):
            reading.read(line)
        code = child.code
    # once the first node has published, nothing that happens here matters
    if code and not _is_published(args):
        raise failure(name_of(command), code, reading)
    _await_outcome(_Run(args, list(command), partial, _goal(args, partial)), meeting)
    return None


def _await_outcome(run: _Run, meeting: Meeting | None) -> None:
    """The program has ended here with 0; see whether that was all, before this node ends for good.

    A pod that has ended well is not started again, and the first node would wait in vain for it.

    Raises:
        RetryableError: it was not.
    """
    again = f"{run.name} left with exit code 0 before it was done; all nodes start it again"
    since = time.monotonic()
    while not _is_published(run.args):
        if meeting is not None:  # what is saved is not all that counts: the critic must be at the same step
            if _begins_again(meeting):
                raise RetryableError(again)
        elif run.is_done():
            return
        else:
            # the model is written last, by the first node alone
            patience = run.args.linger_s if run.saved().step >= run.goal else min(SEEN_S, run.args.linger_s)
            if time.monotonic() - since > patience:
                raise RetryableError(again)
        time.sleep(min(LOOK_S, run.args.poll_s))


def _begins_again(meeting: Meeting) -> bool:
    found = meeting.actor()
    return found is not None and found[0] == Phase.SETTLING


def _await_training(args: argparse.Namespace, meeting: Meeting) -> bool:
    """Wait until the first node starts the program, which waits for the critic; False where there is nothing to do.

    torchrun would not wait that long for the first node.
    """
    first = meeting.actor()
    while not _is_published(args):
        found = meeting.actor()
        # what an earlier start of the first node left does not change any more
        if found is not None and found != first and found[0] == Phase.TRAINING:
            return True
        time.sleep(min(LOOK_S, args.poll_s))
    return False


def _is_published(args: argparse.Namespace) -> bool:
    return args.artifact_dir is not None and artifacts.read(args.artifact_dir) is not None


@dataclass
class _Run:
    args: argparse.Namespace
    command: list[str]
    directory: Path
    goal: int
    converter: list[str] = field(default_factory=list)
    reading: log.Reading = field(default_factory=log.Reading)
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.directory / str(self.args.work_dir)

    @property
    def name(self) -> str:
        return name_of(self.command)

    def saved(self) -> checkpoints.Saved:
        return checkpoints.look(self.work, self.args.model)

    def is_done(self) -> bool:
        """Whether the last step is saved, and a whole model after it."""
        saved = self.saved()
        is_there = saved.step >= self.goal and saved.model is not None and saved.is_final
        return is_there and saved.model is not None and checkpoints.is_whole(saved.model)

    def until_done(self, problem: Callable[[], str | None] = lambda: None) -> None:
        """Run the program; return when its work is done, with or without its leave.

        Args:
            problem: asked all the time: why the program must be stopped, None while it need not.
        """
        if self.saved().step >= self.goal:
            # started from its last step a trainer leaves at once, without the model: it must take that step again
            before = max((step for step in checkpoints.steps(self.work) if step < self.goal), default=0)
            gone = checkpoints.roll_back(self.work, before)
            print(
                f"the last step is saved, and no whole model: it is taken again, without {', '.join(gone)}", flush=True
            )
        started_at = self.saved().step
        metrics = _Metrics(self.directory / METRICS, started_at)
        progress = Progress(self.goal, "steps", self.name, self.args.progress, started_at)
        with progress, Child(self.command, self.work, self.args.grace_s) as child:
            watch = _Watch(self)
            while child.code is None and not watch.has_lingered():
                self._take(child.lines(LOOK_S), progress, metrics)
                why = problem()
                if why is not None and not self.is_done():
                    step = self.saved().step
                    raise RetryableError(f"{self.name} was stopped, saved at step {step} of {self.goal}: {why}")
            self._take(child.lines(0.1), progress, metrics)
            code = child.code
            if self.is_done():
                progress.advance(max(0, self.goal - progress.done))
        if self.is_done():
            if code:  # all it had to do is done and saved; what failed was its way out
                print(f"{self.name} ended with {code} after it had saved everything", flush=True)
            return
        saved = self.saved()
        where = f" at saved step {saved.step} of {self.goal}"
        if code:
            raise failure(self.name, code, self.reading, where)
        if saved.step < self.goal:
            raise RetryableError(f"{self.name} left{where} with exit code 0; the same command goes on from there")
        raise RetryableError(
            f"{self.name} saved step {saved.step} of {self.goal}, but no whole {self.args.model}.nemo after it below "
            f"{self.work / checkpoints.FOLDER}; is there room on the volume, and save_nemo_on_train_end on?"
        )

    def collect(self) -> dict[str, Any]:
        """Put what is published into place; called again it does the same."""
        saved = self.saved()
        assert saved.model is not None
        _link(saved.model, self.directory / self.args.publish)
        if self.converter:
            export.export(self.args.export_from, self.converter, self.directory, self.work, float(self.args.grace_s))
        for events in self.work.rglob(EVENTS):
            target = self.directory / TENSORBOARD / events.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(events, target)
        figures = {phase: _last(self.directory / METRICS, phase) for phase in ("train", "validation")}
        return {
            "steps": saved.step,
            **figures["train"],
            **{f"validation{name[0].upper()}{name[1:]}": value for name, value in figures["validation"].items()},
        }

    def _take(self, lines: Sequence[str], progress: Progress, metrics: _Metrics) -> None:
        for line in lines:
            step = self.reading.read(line)
            if step is None:
                continue
            if step.total > 0 and step.total != self.goal:
                # it has read the data itself, and knows better how many steps there are
                self.goal = progress.total = step.total
                write_synced(self.directory / STATE, json.dumps({"steps": step.total}))
            done = step.done
            if step.figures and step.figures != self.figures:
                done, self.figures = min(step.done + 1, step.total), step.figures
                metrics.write(done, step.figures)
            progress.advance(max(0, done - progress.done), step.figures.get("train"))


class _Watch:
    """Whether a program that is done has stayed too long; looks at the disk now and then."""

    def __init__(self, run: _Run) -> None:
        self._run, self._seen, self._since, self._next = run, (0, 0.0), 0.0, 0.0

    def has_lingered(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + float(self._run.args.poll_s)
        saved = self._run.saved()
        state = (saved.size, saved.written)
        if saved.step < self._run.goal or saved.model is None or not saved.is_final or state != self._seen:
            self._seen, self._since = state, now
            return False
        return now - self._since >= float(self._run.args.linger_s) and self._run.is_done()


class _Metrics:
    """`metrics.jsonl`: a row a step and phase, each once, also after a resume."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        kept = [row for row in read_metrics(path) if row["step"] <= resumed_step]
        write_synced(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._path = path
        self._seen = {(row["phase"], row["step"]) for row in kept}

    def write(self, step: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        fresh = {phase: values for phase, values in figures.items() if values and (phase, step) not in self._seen}
        with self._path.open("a", encoding="utf-8") as file:
            for phase, values in fresh.items():
                self._seen.add((phase, step))
                file.write(json.dumps({"step": step, "phase": phase, **values}) + "\n")


def _last(path: Path, phase: str) -> dict[str, float]:
    rows = [row for row in read_metrics(path) if row.get("phase") == phase]
    return {name: value for name, value in (rows[-1] if rows else {}).items() if name not in ("step", "phase")}


def _goal(args: argparse.Namespace, directory: Path) -> int:
    """The number of the last step: the program's own word from an earlier start, else by the rows."""
    state = directory / STATE
    if state.is_file():
        return int(json.loads(state.read_text())["steps"])
    if not args.rows.is_file():
        raise InputError(f"--rows {args.rows}: no such file")
    with args.rows.open("rb") as file:
        rows = sum(1 for line in file if line.strip()) // int(args.lines_per_row)
    # NeMo-Aligner drops the last partial batch
    steps = rows // int(args.rows_per_step) * int(args.epochs)
    if steps == 0:
        raise InputError(
            f"{args.rows}: {rows} rows do not make one step of {args.rows_per_step}; make more of them, or give the "
            "stage a smaller global batch size"
        )
    return min(steps, int(args.max_steps)) if args.max_steps >= 0 else steps


def _link(source: Path, target: Path) -> None:
    """The same file under another name; copied where the volume has no hard links."""
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        aside = target.with_name(target.name + ".new")
        shutil.copyfile(source, aside)
        aside.rename(target)
