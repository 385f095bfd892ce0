"""What the data generators take of memory and time for a million prompts.

    python -m benchmarks.generators.memory [--rows 1000000] [--only SL]

Short prompts, short answers from a stand-in server that takes no time, and a judge of the same kind, so that only the
generator's own work is seen. Peak memory is the resident set of the generator's process at its largest; the bytes a row
are what lies above that of a run with few rows, yet enough to fill its window. A million rows take some 5 GB of disk in
the directory of temporary files, and an hour for each generator on two cores that have other work.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.harness.stand_in import StandInServer

from cai_jobs.formats.chat import EXTRA_ID
from cai_jobs.formats.jsonl import write_jsonl

WANTED_MB = 1000
FEW_ROWS = 2000
MIB = 1 << 20
END = EXTRA_ID.eos_token or ""
COMMON = ["--tokens_to_generate", "16", "--end_strings", END, "--progress", "none"]


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    peak_bytes: int
    cpu_s: float
    wall_s: float


def main() -> None:
    """Run both generators and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["SL", "RL"], help="only these data")
    options = parser.parse_args()
    print("| data | rows | peak memory | wanted | bytes a row | rows/s | CPU ms/row |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("SL", "RL"):
        if options.only in (None, kind):
            least = measure(kind, FEW_ROWS).peak_bytes
            found = measure(kind, options.rows)
            added = (found.peak_bytes - least) / max(1, options.rows - FEW_ROWS)
            print(
                f"| {kind} | {options.rows:,} | {found.peak_bytes / MIB:.0f} MB | {WANTED_MB} MB | {added:.0f} "
                f"| {options.rows / found.wall_s:.0f} | {found.cpu_s * 1000 / options.rows:.2f} |",
                flush=True,
            )


def measure(kind: str, rows: int) -> Measured:
    """One run of the generator of a kind ("SL" or "RL")."""
    with tempfile.TemporaryDirectory(prefix="cai-memory-") as name, ExitStack() as stack:
        directory = Path(name)
        prompts = directory / "red_team.jsonl"
        write_jsonl(prompts, ({"transcript": f"\n\nHuman: Question {n}?\n\nAssistant: No."} for n in range(rows)))
        flags = ["--engine", "instant", "--mean-tokens", "4"]
        server, judge = (stack.enter_context(StandInServer(directory / "log", *flags)) for _ in range(2))
        arguments = [*COMMON, "--host", "127.0.0.1", "--port", str(server.port)]
        if kind == "SL":
            module = "cai_jobs.generate_sl_cai_dataset"
            arguments += ["--red-teaming-prompts-dataset-path", str(prompts), "--batch_size", "128"]
            arguments += ["--output-filepath", str(directory / "sl" / "rows.jsonl")]
        else:
            module = "cai_jobs.generate_rl_cai_dataset"
            arguments += ["--red-teaming-file-path", str(prompts), "--batch-size", "128"]
            arguments += ["--output-dir", str(directory / "rl")]
            arguments += ["--ngc-url", f"{judge.url}/v1/chat/completions", "--judge-concurrency", "64"]
        return _run([sys.executable, "-m", module, *arguments])


def _run(command: list[str]) -> Measured:
    began = monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-4000:]}")
    return Measured(usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime, monotonic() - began)


if __name__ == "__main__":
    main()
