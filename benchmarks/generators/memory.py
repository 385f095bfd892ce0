"""What the data generators take of memory and time for a million prompts, over HTTP.

    python -m benchmarks.generators.memory [--rows 100000 1000000] [--only SL] [--server-api openai]

Short prompts, short answers from a stand-in server that takes no time, and a judge of the same kind, each a process
of its own, so that only the generator's work is seen. Peak memory is the resident set of the generator's process at its
largest; the bytes a row are what lies above that of a run with few rows, yet enough to fill its window. By NeMo's
protocol 128 sentences share a request, by OpenAI's RL data take a request a sentence. A million rows take some 5 GB of
disk in the directory of temporary files.
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

from benchmarks.generators.__main__ import TEMPLATE_FLAGS
from cai_jobs.formats.chat import EXTRA_ID
from cai_jobs.formats.jsonl import write_jsonl

WANTED_MB = 1000
FEW_ROWS = {"megatron": 2000, "openai": 4000}
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
    """Run the generators and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="one run each")
    parser.add_argument("--only", choices=["SL", "RL"], help="only these data")
    parser.add_argument(
        "--server-api", choices=["megatron", "openai"], default="megatron", help="the server's protocol"
    )
    options = parser.parse_args()
    print("| data | protocol | rows | peak memory | wanted | bytes a row | rows/s | CPU ms/row |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("SL", "RL"):
        if options.only not in (None, kind):
            continue
        few = FEW_ROWS[options.server_api]
        least = measure(kind, few, options.server_api).peak_bytes
        for rows in options.rows:
            found = measure(kind, rows, options.server_api)
            added = (found.peak_bytes - least) / max(1, rows - few)
            print(
                f"| {kind} | {options.server_api} | {rows:,} | {found.peak_bytes / MIB:.0f} MB | {WANTED_MB} MB "
                f"| {added:.0f} | {rows / found.wall_s:.0f} | {found.cpu_s * 1000 / rows:.2f} |",
                flush=True,
            )


def measure(kind: str, rows: int, api: str) -> Measured:
    """One run of the generator of a kind ("SL" or "RL") with a server that speaks "megatron" or "openai"."""
    with tempfile.TemporaryDirectory(prefix="cai-memory-") as name, ExitStack() as stack:
        directory = Path(name)
        prompts = directory / "red_team.jsonl"
        write_jsonl(prompts, ({"transcript": f"\n\nHuman: Question {n}?\n\nAssistant: No."} for n in range(rows)))
        speaks = "openai" if api == "openai" else "ours"
        flags = ["--engine", "instant", "--mean-tokens", "4", "--speaks", speaks]
        server, judge = (stack.enter_context(StandInServer(directory / "log", *flags)) for _ in range(2))
        arguments = [*COMMON, "--host", "127.0.0.1", "--port", str(server.port)]
        if kind == "SL":
            module = "cai_jobs.generate_sl_cai_dataset"
            arguments += ["--red-teaming-prompts-dataset-path", str(prompts), "--batch_size", "128"]
            arguments += ["--output-filepath", str(directory / "sl" / "rows.jsonl"), *TEMPLATE_FLAGS]
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
