"""A whole pipeline scaled down to a minute, run as a user runs it: `cai run` with the product's own programs."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness.forked_program import ForkedProgram

Document = dict[str, Any]
Run = subprocess.Popen[str] | ForkedProgram
PATIENCE_S = 900
PRINCIPLES = "critique_revision_instructions.json"

SMALL: Document = yaml.safe_load("""
apiVersion: cai.dev/v1alpha1
kind: CAIPipeline
metadata: {name: small}
spec:
  engine: hf
  models: {base: {pocket: {}}}
  constitution: {configMap: {name: principles}}
  stages:
    datasets: {heldOut: 12}
    slData: {numExamples: 16, batchSize: 4, overrides: {tokens_to_generate: 48, repetition_penalty: 1.0}}
    sft:
      overrides: {max-steps: 4, learning-rate: 1.0e-4, global-batch-size: 4, micro-batch-size: 4, max-seq-length: 256,
                  val-check-interval: 2, save-interval: 1}
    rlData:  # so hot that some answers are garbled, which the judge prefers to harmful ones: there are pairs
      numExamples: 12
      batchSize: 4
      temperatures: [0.5, 1.0, 2.0, 5.0]
      overrides: {tokens_to_generate: 48}
    rewardModel:
      overrides: {max-steps: 4, learning-rate: 5.0e-4, global-batch-size: 4, micro-batch-size: 4, max-seq-length: 256,
                  val-check-interval: 2, limit-val-batches: 4, save-interval: 1}
    ppo:
      overrides: {max-steps: 4, num-rollout-samples: 8, rollout-micro-batch-size: 8, global-batch-size: 8,
                  micro-batch-size: 8, max-length: 160, max-new-tokens: 32, val-check-interval: 2,
                  validation-samples: 8, save-interval: 1}
      critic: {overrides: {global-batch-size: 8, micro-batch-size: 8}}
    evaluate: {numExamples: 10, overrides: {tokens-to-generate: 32}}
""")


class Pipeline:
    """A directory with a manifest and the work directory of its runs.

    Every process a run starts has this directory as its working directory, by which `processes` finds it. A run that is
    not `forked` imports for every program what it needs, as a user's does.
    """

    def __init__(self, directory: Path, manifest: Document = SMALL, *, forked: bool = True) -> None:
        self.directory = directory
        self._forked = forked
        self.workdir = directory / "work"
        self.manifest = copy.deepcopy(manifest)
        self.principles = (files("cai_jobs") / "data" / "constitution" / PRINCIPLES).read_text()
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def stages(self) -> Document:
        return self.manifest["spec"].setdefault("stages", {})

    def start(self, *flags: str) -> Run:
        """Write the manifest files and start `cai run`; its output goes to `output`."""
        (self.directory / "pipeline.yaml").write_text(yaml.safe_dump(self.manifest))
        data = {PRINCIPLES: self.principles}
        principles = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "principles"}, "data": data}
        (self.directory / "principles.yaml").write_text(yaml.safe_dump(principles))
        command = ["run", "pipeline.yaml", "principles.yaml", "--workdir", "work", *flags]
        if self._forked:
            self._output.write_text("")
            where = {"environment": environment(), "directory": self.directory}
            return ForkedProgram("tests.harness.forked_cai", command, self._output, **where)
        with self._output.open("w") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "cai_operator.cli", *command],
                cwd=self.directory, env=environment(), stdout=out, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

    def run(self, *flags: str) -> tuple[int, str]:
        """Run until the end: (exit code, everything printed)."""
        process = self.start(*flags)
        try:
            code = process.wait(PATIENCE_S)
        finally:
            self.end(process)
        return code, self.output()

    def cai(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another `cai` command."""
        command = [sys.executable, "-m", "cai_operator.cli", *words]
        return subprocess.run(command, cwd=self.directory, env=environment(), capture_output=True, text=True)

    def end(self, process: Run) -> None:
        """Kill a run that a failed test would leave behind, and everything it started; print what it said."""
        if process.poll() is None:
            print(self.output()[-6000:])
            for log in sorted(self.workdir.rglob("*.log")):
                print(f"--- {log.relative_to(self.workdir)}\n{log.read_text(errors='replace')[-1500:]}")
            process.kill()
            process.wait()
        wait_for(lambda: not self.processes(), "the programs of a killed run to end")

    @property
    def _output(self) -> Path:
        return self.directory / "output.txt"

    def output(self) -> str:
        return self._output.read_text()

    def status(self) -> Document:
        return json.loads((self.workdir / "status.json").read_text())

    def nodes(self) -> dict[str, Document]:
        """The status of every stage, and of every part of one (`evaluateBase`)."""
        stages = self.status()["stages"]
        return {node["name"]: node for stage in stages for node in [stage, *stage.get("parts", [])]}

    def keys(self) -> dict[str, str]:
        return {name: node["key"] for name, node in self.nodes().items() if node.get("key")}

    def artifact(self, node: str) -> Path:
        return self.workdir / "artifacts" / self.nodes()[node]["artifact"]["path"]

    def program(self, name: str) -> int | None:
        """The process of a running program, by the name its log has before the key."""
        log = re.compile(rf"{re.escape(str(self.workdir))}/logs/small-{name}-[0-9a-f]{{8}}\.log")
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if os.getsid(pid) == pid and log.fullmatch(str(Path(f"/proc/{pid}/fd/1").readlink())):
                    return pid
        return None

    def processes(self) -> dict[int, str]:
        """Every process of the runs in this directory, with its command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.directory:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:  # a zombie has none
                        found[int(entry.name)] = command
            except OSError:
                continue
        return found


def environment() -> dict[str, str]:
    roots = [Path(__file__).parents[2] / part for part in ("operator", "jobs")]
    path = os.pathsep.join([*map(str, roots), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "COLUMNS": "110"}


def wait_for(condition: Callable[[], Any], what: str, process: Run | None = None) -> Any:
    """Wait until the condition is true and return its value; fails when the process ends before that."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        assert process is None or process.poll() is None, f"the run ended while {what} was waited for"
        assert time.monotonic() < deadline, f"waited for {what} in vain"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """The small pipeline, not yet run."""
    yield from _cleared(Pipeline(tmp_path / "pipeline"))


@pytest.fixture(scope="session")
def _undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the small pipeline after one undisturbed run, made once for all workers of a test run."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "work" / "report.html").exists():
            made = Pipeline(place, forked=False)
            code, output = made.run()
            assert code == 0, output
            assert made.processes() == {}
    return place


@pytest.fixture
def undisturbed(_undisturbed: Path) -> Pipeline:
    """The finished run of the small pipeline: for reading only."""
    return Pipeline(_undisturbed)


@pytest.fixture
def finished(_undisturbed: Path, tmp_path: Path) -> Iterator[Pipeline]:
    """A copy of the finished run, to run again."""
    shutil.copytree(_undisturbed, tmp_path / "copy")
    yield from _cleared(Pipeline(tmp_path / "copy"))


@pytest.fixture
def make_pipeline(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """make_pipeline(manifest, forked=True): a pipeline of another manifest."""
    made: list[Pipeline] = []

    def make(manifest: Document, forked: bool = True) -> Pipeline:
        made.append(Pipeline(tmp_path / f"pipeline-{len(made)}", manifest, forked=forked))
        return made[-1]

    yield make
    for pipeline in made:
        _kill_all(pipeline)


def _cleared(pipeline: Pipeline) -> Iterator[Pipeline]:
    yield pipeline
    _kill_all(pipeline)


def _kill_all(pipeline: Pipeline) -> None:
    for pid in pipeline.processes():
        os.kill(pid, signal.SIGKILL)
