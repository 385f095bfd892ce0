"""Generators without servers, in a process of their own, for `test_memory`: prints the process's peak memory in bytes.

python -m tests.unit.generation.flat_memory SL|RL ROWS DIRECTORY
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.formats.chat import EXTRA_ID, Message
from cai_jobs.formats.constitution import Principle
from cai_jobs.formats.spool import Spool
from cai_jobs.generation import rl, rl_outputs, sl, sl_outputs
from cai_jobs.generation.journal import Journal
from cai_jobs.generation.judging.decision import Decision, Outcome
from cai_jobs.generation.rejected import RejectedRows

ANSWER = "an answer of some length, " * 40
TEMPERATURES = [0.5, 1.0]


class Server:
    """Answers at once."""

    group, capacity = 1, 64

    async def answers(self, step: str, rows: Sequence[int], dialogues: Sequence[list[Message]], *_: Any) -> list[str]:
        await asyncio.sleep(0)
        return [f"{step} of {row}: {ANSWER}" for row, _ in zip(rows, dialogues, strict=True)]

    def statistics(self) -> dict[str, float]:
        return {}


class Judge:
    """Prefers the first candidate to the last at once."""

    async def decide(self, row: int, prompt: str, candidates: Mapping[str, str]) -> list[Decision]:
        await asyncio.sleep(0)
        shown = list(candidates)
        return [Decision(Outcome.PAIR, shown, shown[0], shown[-1], f"of {row}", (f"reply to {prompt}",))]

    def statistics(self) -> dict[str, float]:
        return {}


def make_revisions(prompts: Sequence[str], directory: Path) -> None:
    """The supervised stage's data."""
    principle = Principle("kindness", "What is unkind in it?", "Make it kind.")
    how = sl_outputs.Blending([], None, None, None, 0.1, "exact", seed=1)
    with Journal(directory / "journal", {}) as journal:
        rows, chosen = sl.Rows(prompts, [], lambda _: [principle], 1, True, journal), range(len(prompts))
        asyncio.run(sl.generate(rows, chosen, Server()))
        rejected = RejectedRows(len(prompts), 0.0)
        cai_rows, _ = sl_outputs.write_samples(rows, chosen, rejected, directory)
        sl_outputs.write_sets(cai_rows, how, directory / "train.jsonl", directory / "validation.jsonl")


def make_preferences(prompts: Sequence[str], directory: Path) -> None:
    """The reinforcement stage's data."""
    plan = rl_outputs.Plan(directory, "x", EXTRA_ID, {"train": 0.8, "test": 0.2}, shuffle=True, seed=1)
    with Journal(directory / "journal", {}) as journal:
        rows = rl.Rows(prompts, TEMPERATURES, journal)
        asyncio.run(rl.generate(rows, Server(), Judge(), window=64))
        rl_outputs.write_outputs(rows, plan)


def main() -> None:
    kind, rows, directory = sys.argv[1:]
    make = {"SL": make_revisions, "RL": make_preferences}[kind]
    make(Spool(f"Question {number}?" for number in range(int(rows))), Path(directory))
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


if __name__ == "__main__":
    main()
