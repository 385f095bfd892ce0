"""How much faster the data generators are than the reference's, how busy they keep servers, and what CPU they take.

    python -m benchmarks.generators

The servers are stand-ins with the service times of real ones, a tenth as long: a step of the model takes 4 ms for one
sequence and twice that for 256, a verdict 50 ms. An answer has 64 tokens on average and 256 at most; it ends at every
token with the same probability.

- `locked` is the reference's server: one request at a time, at most 128 sentences, as slow as its longest answer.
- `continuous` has 256 slots that are filled again as they become free.

The baseline does what the reference does (`baseline`), against a server of the same kind. Rates are rows by the time
from the first request's arrival at a server to the last answer's leaving; a server's busy share is that of its slots,
or of its lock. CPU is the generator's process without its start, as measured by `--help`; the last column is what 500
rows a second would take of one core. A process that is woken for each single answer spends more on it than a busy one,
so the second table has the CPU at four times the speed of the servers, nearer to 500 rows a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.harness.stand_in import StandInServer

from benchmarks.generators.baseline import Baseline
from cai_jobs.formats import constitution
from cai_jobs.formats.chat import EXTRA_ID

MEAN_TOKENS, MOST_TOKENS = 64, 256
JUDGE_S, JUDGE_PLACES = 0.05, 64
TEMPERATURES = [0.01, 0.51, 1.01, 1.51]
END = EXTRA_ID.eos_token or ""
BASELINE_ROWS = 64
TEMPLATE_FLAGS = [
    *("--user_format", EXTRA_ID.user_format, "--assistant_format", EXTRA_ID.assistant_format),
    *("--system_format", EXTRA_ID.system_format, "--system_default_message", "", "--eos_token", END),
    *("--response_extract_pattern", EXTRA_ID.response_extract_pattern, "--apply_chat_template", "True"),
]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        kind: "SL" or "RL".
        engine: "locked" or "continuous".
        rows: how many the generator makes; the baseline makes fewer.
        wanted: the ratio that is aimed at, if one is.
    """

    kind: str
    engine: str
    replicas: int
    rows: int
    wanted: float | None = None

    @property
    def server(self) -> str:
        return self.engine if self.replicas == 1 else f"{self.replicas} x {self.engine}"


CASES = (
    Case("SL", "locked", 1, 256, 1.5),
    Case("SL", "locked", 4, 1024, 4.0),
    Case("SL", "continuous", 1, 1280, 8.0),
    Case("RL", "locked", 1, 256),
    Case("RL", "continuous", 1, 1280, 20.0),
)

BUSY_CASES = (Case("SL", "continuous", 1, 5120), Case("RL", "continuous", 1, 5120))
QUICKER = 4


@dataclass(frozen=True)
class Measured:
    """Rows a second, the shares of servers and judge that were busy, and the client's CPU seconds a row."""

    rate: float
    server_busy: float
    judge_busy: float
    cpu_s: float


def main() -> None:
    """Measure every case and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-s", type=float, default=0.004, help="seconds a token takes a sequence running alone")
    parser.add_argument("--only", choices=["SL", "RL"], help="only these data")
    options = parser.parse_args()
    began = monotonic()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the first run\n", flush=True)
    print(
        "| data | server | baseline rows/s | rows/s | ratio | wanted | server busy | judge busy | CPU ms/row | cores |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    baselines: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="cai-generators-") as name:
        for case in CASES:
            if options.only not in (None, case.kind):
                continue
            bench = Bench(Path(name), case, options.step_s)
            base = baselines.setdefault((case.kind, case.engine), 0.0) or bench.baseline()
            baselines[case.kind, case.engine] = base
            print(_line(case, base, bench.generator()), flush=True)
        print("\n| data | server | rows/s | server busy | CPU ms/row | cores at 500 rows/s |")
        print("|---|---|---|---|---|---|")
        for case in BUSY_CASES:
            if options.only in (None, case.kind):
                found = Bench(Path(name), case, options.step_s / QUICKER).generator()
                print(
                    f"| {case.kind} | {case.server} | {found.rate:.0f} | {found.server_busy:.0%} "
                    f"| {found.cpu_s * 1000:.2f} | {found.cpu_s * 500:.2f} |",
                    flush=True,
                )
    print(f"\n{monotonic() - began:.0f} s in all")


def _line(case: Case, base: float, ours: Measured) -> str:
    wanted = f"{case.wanted:g}" if case.wanted else "-"
    judge = f"{ours.judge_busy:.0%}" if case.kind == "RL" else "-"
    ratio = ours.rate / base
    return (
        f"| {case.kind} | {case.server} | {base:.1f} | {ours.rate:.1f} | {ratio:.1f} | {wanted} "
        f"| {ours.server_busy:.0%} | {judge} | {ours.cpu_s * 1000:.2f} | {ours.cpu_s * 500:.2f} |"
    )


class Bench:
    """Runs one case."""

    def __init__(self, directory: Path, case: Case, step_s: float) -> None:
        self.case, self._directory, self._step_s = case, directory, step_s
        self._log = directory / "servers.log"
        self._prompts = [
            f"Question {number}: what would you do about it, and why would you?" for number in range(case.rows)
        ]

    def baseline(self) -> float:
        """The baseline's rows a second."""
        with ExitStack() as stack:
            server = stack.enter_context(self._server("megatron"))
            judge = stack.enter_context(self._judge()) if self.case.kind == "RL" else None
            options = {"tokens_to_generate": MOST_TOKENS, "end_strings": [END], "greedy": self.case.kind == "SL"}
            page = None if judge is None else f"{judge.url}/v1/chat/completions"
            client = Baseline(server.url, page, EXTRA_ID, {**options, "temperature": 1.0, "top_k": 0, "top_p": 1.0})
            prompts = self._prompts[:BASELINE_ROWS]
            if judge is None:
                few_shots = constitution.read_few_shots(constitution.FEW_SHOTS)
                principles = constitution.read_principles(constitution.INSTRUCTIONS)
                rows = client.critique_and_revise(prompts, few_shots, principles)
            else:
                system = constitution.read_judge_prompt(constitution.JUDGE_PROMPT)
                rows = client.candidates_and_preferences(prompts, TEMPERATURES, system)
            return rows / _window([server, *([judge] if judge else [])])

    def generator(self) -> Measured:
        """The generator's figures."""
        with ExitStack() as stack:
            speaks = "megatron" if self.case.engine == "locked" else "openai"
            servers = [stack.enter_context(self._server(speaks)) for _ in range(self.case.replicas)]
            judge = stack.enter_context(self._judge())
            module, flags = (self._sl if self.case.kind == "SL" else self._rl)(judge)
            hosts = ",".join(server.address for server in servers)
            common = ["--host", hosts, "--tokens_to_generate", str(MOST_TOKENS), "--end_strings", END]
            start_cpu_s = _cpu_of([module, "--help"])
            cpu_s = _cpu_of([module, *flags, *common, "--top_p", "1.0", "--progress", "none"])
            window = _window([*servers, *([judge] if self.case.kind == "RL" else [])])
            busy = sum(server.statistics()["busy_s"] for server in servers) / len(servers) / window
            judged = judge.statistics()["judge_busy_s"] / window
        return Measured(self.case.rows / window, busy, judged, (cpu_s - start_cpu_s) / self.case.rows)

    def _server(self, speaks: str) -> StandInServer:
        times = ["--step-s", str(self._step_s), "--mean-tokens", str(MEAN_TOKENS)]
        return StandInServer(self._log, "--speaks", speaks, "--engine", self.case.engine, *times)

    def _judge(self) -> StandInServer:
        return StandInServer(self._log, "--judge-s", str(JUDGE_S), "--judge-places", str(JUDGE_PLACES))

    def _sl(self, _: StandInServer) -> tuple[str, list[str]]:
        output = Path(tempfile.mkdtemp(dir=self._directory)) / "sl.jsonl"
        flags = ["--red-teaming-prompts-dataset-path", str(self._red_team()), "--output-filepath", str(output)]
        return "cai_jobs.generate_sl_cai_dataset", [*flags, "--batch_size", "128", *map(str, TEMPLATE_FLAGS)]

    def _rl(self, judge: StandInServer) -> tuple[str, list[str]]:
        output = Path(tempfile.mkdtemp(dir=self._directory))
        flags = ["--red-teaming-file-path", str(self._red_team()), "--output-dir", str(output), "--batch-size", "128"]
        judging = ["--ngc-url", f"{judge.url}/v1/chat/completions", "--judge-concurrency", str(JUDGE_PLACES)]
        temperatures = ["--temperatures", *map(str, TEMPERATURES)]
        return "cai_jobs.generate_rl_cai_dataset", [*flags, *judging, *temperatures, "--top_k", "0"]

    def _red_team(self) -> Path:
        path = self._directory / "red_team.jsonl"
        rows = ({"transcript": f"\n\nHuman: {prompt}\n\nAssistant: No."} for prompt in self._prompts)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path


def _window(servers: list[StandInServer]) -> float:
    found = [server.statistics() for server in servers]
    return max(one["last_s"] for one in found) - min(one["first_s"] for one in found)


def _cpu_of(arguments: list[str]) -> float:
    """Run a module and return its CPU seconds; its output is shown if it fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments[0]} failed:\n{output[-4000:]}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
