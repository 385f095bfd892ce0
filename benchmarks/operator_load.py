"""What the operator costs a cluster and how fast it reacts, with one pipeline and with very many.

    python -m benchmarks.operator_load [--pipelines 1 300]

A real API server with an audit log, the operator as a process of its own under the role we ship, and pods that are
played: every program takes a second. Each run goes through the same phases:

1. All pipelines come, some a second, and go on until each one's sft runs; then nothing happens for a while ("at work").
2. Ten are let go on to their ends, three seconds apart ("a few"); the others follow together ("all at once").
3. All have succeeded, and nothing happens again ("at rest").

The operator's own looks at everything, one every four or five minutes for each pipeline, fall where they fall.

Reaction is the time from the API server's answer to whoever writes that a Job is complete or a server ready, to the
arrival of the operator's next write for that pipeline: both by the API server's clock, from its audit log.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.control_plane import HOUSEKEEPING, ControlPlane
from tests.harness.operator_process import OperatorProcess
from tests.harness.pipelines import pocket

from benchmarks.audit_log import POLICY, Call, Calls, read_calls
from benchmarks.played_programs import Programs
from cai_operator.manifests.kinds import LEASE, PIPELINE

ROOT = Path(__file__).parents[1]
ROLE = ("1-namespace.yaml", "2-service-account.yaml", "3-role.yaml")
OPERATOR = "system:serviceaccount:cai-system:cai-operator"
HELD = "sft"
FEW = 10
FEW_EVERY_S = 3.0
COMING_PER_S = 5.0
WINDOW_S = 40.0
SETTLE_S = 12.0
BUSY = ("coming", "a few", "all at once")
QUIET = ("at work", "at rest")


@dataclass
class Window:
    """A stretch of time, and the CPU time the operator took in it."""

    begin: float = 0.0
    end: float = 0.0
    cpu_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass
class Run:
    """What was measured with so many pipelines."""

    count: int
    empty_mib: float = 0.0
    windows: dict[str, Window] = field(default_factory=dict)
    memory_mib: dict[str, float] = field(default_factory=dict)
    calls: Calls = field(default_factory=lambda: Calls(()))

    def calls_in(self, *windows: str) -> list[Call]:
        """The operator's requests in these stretches, watches and the Lease left out."""
        found: list[Call] = []
        for name in windows:
            calls = self.calls.within(self.windows[name].begin, self.windows[name].end)
            found += [call for call in calls if call.user == OPERATOR]
        return [call for call in found if call.verb != "watch" and call.resource != "leases"]

    def reactions(self, window: str) -> list[float]:
        """Seconds, in order of size."""
        return sorted(self.calls.reactions(OPERATOR, self.windows[window].begin, self.windows[window].end))


def main() -> None:
    """Measure with every number of pipelines, and print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", type=int, nargs="+", default=[1, 300], help="how many at a time")
    parser.add_argument("--window", type=float, default=WINDOW_S, help="seconds of each stretch without work")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the first run\n", flush=True)
    runs = [measure(count, options.window) for count in options.pipelines]
    print("\n".join(table(runs)))


def measure(count: int, window_s: float) -> Run:
    """One run with so many pipelines, from an empty cluster on."""
    with tempfile.TemporaryDirectory(prefix="cai-load-") as name:
        directory = Path(name)
        audit = directory / "audit.log"
        (directory / "policy.yaml").write_text(POLICY)
        flags = [f"--audit-policy-file={directory / 'policy.yaml'}", f"--audit-log-path={audit}"]
        with ControlPlane(controllers=HOUSEKEEPING, apiserver_flags=flags) as plane, plane.namespace() as namespace:
            plane.install_crds(ROOT / "crds")
            for file in ROLE:
                plane.kubectl("apply", "-f", str(ROOT / "operator" / "install" / file))
            token = plane.token("cai-system", "cai-operator", seconds=7200)
            settings = {"CAI_LEASE_NAMESPACE": "cai-system"}
            with OperatorProcess(
                directory / "operator", plane.url, token, plane.ca, settings, forked=False
            ) as operator:
                run = asyncio.run(_go_through(plane, namespace, operator, count, window_s))
        run.calls = read_calls(audit)
        return run


async def _go_through(
    plane: ControlPlane, namespace: str, operator: OperatorProcess, count: int, window_s: float
) -> Run:
    run = Run(count)
    names = [f"p{number:04}" for number in range(count)]
    async with Programs(plane, namespace, HELD) as programs:
        await programs.until(lambda: _is_there(programs, LEASE.path("cai-system", "cai-operator")))
        await asyncio.sleep(3)
        run.empty_mib = _memory_mib(operator.pid, "VmRSS")

        coming = _begin(operator)
        for name in names:
            await programs.send("POST", PIPELINE.path(namespace), pocket(name))
            await asyncio.sleep(1 / COMING_PER_S)
        await programs.until(lambda: len(programs.held) == count)
        run.windows["coming"] = _end(operator, coming)
        await asyncio.sleep(SETTLE_S)
        run.windows["at work"] = await _stretch(operator, window_s)
        run.memory_mib["at work"] = _memory_mib(operator.pid, "VmRSS")

        few = _begin(operator)
        for name in names[:FEW]:
            programs.let_go(name)
            await asyncio.sleep(FEW_EVERY_S)
        for name in names[:FEW]:
            await programs.until(lambda name=name: _has_succeeded(programs, namespace, name))
        run.windows["a few"] = _end(operator, few)
        together = _begin(operator)
        for name in names[FEW:]:
            programs.let_go(name)
        for name in names:
            await programs.until(lambda name=name: _has_succeeded(programs, namespace, name))
        run.windows["all at once"] = _end(operator, together)
        await asyncio.sleep(SETTLE_S)
        run.windows["at rest"] = await _stretch(operator, window_s)
        run.memory_mib["at rest"] = _memory_mib(operator.pid, "VmRSS")
        run.memory_mib["most"] = _memory_mib(operator.pid, "VmHWM")
    return run


def table(runs: Sequence[Run]) -> list[str]:
    """A Markdown table: a row a figure, a column a run, and last the ratio of the last run to the first."""
    columns = [figures(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    counts = " | ".join(f"{run.count} pipeline{'s' * (run.count > 1)}" for run in runs)
    lines = [f"| | {counts} | ratio |", "|---" * (len(runs) + 2) + "|"]
    for name in names:
        found = [column.get(name, 0.0) for column in columns]
        ratio = f"{found[-1] / found[0]:.2f}" if len(found) > 1 and found[0] else ""
        lines.append(f"| {name} | {' | '.join(f'{figure:.3g}' for figure in found)} | {ratio} |")
    return lines


def figures(run: Run) -> dict[str, float]:
    """Everything that is told of a run, by what it is."""
    found = {"memory without pipelines, MiB": run.empty_mib}
    found |= {f"memory {when}, MiB": mib for when, mib in run.memory_mib.items()}
    for name in QUIET:
        window = run.windows[name]
        found[f"CPU {name}, % of a core"] = 100 * window.cpu_s / window.seconds
        found[f"calls {name}, a minute and pipeline"] = len(run.calls_in(name)) * 60 / window.seconds / run.count
    found["CPU in a pipeline's life, s"] = sum(run.windows[name].cpu_s for name in BUSY) / run.count
    life = run.calls_in(*BUSY)
    found["calls in a pipeline's life"] = len(life) / run.count
    for what in sorted({call.what for call in life}):
        found[f"of these {what}"] = sum(call.what == what for call in life) / run.count
    for name in BUSY:
        times = run.reactions(name)
        for percent in (50, 95) if times else ():
            found[f"reaction {name}, p{percent}, ms"] = _quantile(times, percent)
    return found


def _quantile(ordered: Sequence[float], percent: int) -> float:
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


async def _is_there(programs: Programs, path: str) -> bool:
    return await programs.get(path) is not None


async def _has_succeeded(programs: Programs, namespace: str, name: str) -> bool:
    found = await programs.get(PIPELINE.path(namespace, name))
    return found is not None and found.get("status", {}).get("phase") == "Succeeded"


def _begin(operator: OperatorProcess) -> Window:
    return Window(begin=time.time(), cpu_s=_cpu_s(operator.pid))


def _end(operator: OperatorProcess, window: Window) -> Window:
    return Window(window.begin, time.time(), _cpu_s(operator.pid) - window.cpu_s)


async def _stretch(operator: OperatorProcess, seconds: float) -> Window:
    window = _begin(operator)
    await asyncio.sleep(seconds)
    return _end(operator, window)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int, line: str) -> float:
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = text.partition(":")
        if name == line:
            return int(value.split()[0]) / 1024
    raise KeyError(line)


if __name__ == "__main__":
    main()
