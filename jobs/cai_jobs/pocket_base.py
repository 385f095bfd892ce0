"""Train the pocket base model and the pocket judge from scratch (docs/pocket.md): what `make pocket-base` runs.

    python -m cai_jobs.pocket_base --output DIR

Writes DIR/model (Hugging Face directory of a helpful-only chat model of a million parameters) and DIR/judge.json. The
defaults reproduce the shipped ones on the same kind of machine; training uses one thread, for the sums' order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import program
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.contract.progress import Progress


def build_parser() -> Parser:
    """The program's flags."""
    parser = Parser("pocket_base", "Train the pocket base model and judge from scratch.", artifact=False)
    parser.add_argument("--output", type=Path, required=True, help="directory for model/ and judge.json")
    parser.add_argument("--seed", type=int, default=1, help="seed of texts, weights and order")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps, about 2,100 tokens each")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="highest learning rate of the schedule")
    parser.add_argument("--judge-questions", type=int, default=500, help="questions of each sort the judge learns from")
    parser.add_argument(
        "--measure-questions", type=int, default=200, help="held-out questions of each sort; 0 measures nothing"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, save, measure; the last word's metrics hold the figures.

    Raises:
        InputError: a setting out of range.
    """
    options = build_parser().parse_args(argv)
    if min(options.steps, options.judge_questions) < 1 or options.measure_questions < 0:
        raise InputError("--steps and --judge-questions must be at least 1 and --measure-questions at least 0")
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from cai_jobs.pocket.judge import save_judge
    from cai_jobs.pocket.judge_training import train_judge
    from cai_jobs.pocket.measure import measure
    from cai_jobs.pocket.pretrain import Recipe, train_base

    torch.set_num_threads(1)
    save_judge(train_judge(options.seed, options.judge_questions), options.output / "judge.json")
    recipe = Recipe(seed=options.seed, steps=options.steps, learning_rate=options.learning_rate)
    with Progress(options.steps, "steps", "pocket base", options.progress) as progress:
        loss = train_base(options.output / "model", recipe, lambda _, loss: progress.advance(1, {"loss": loss}))
    metrics = {"loss": loss}
    if options.measure_questions:
        metrics |= measure(options.output / "model", options.measure_questions, options.seed)
    for name, value in metrics.items():
        print(f"{name:24} {value:.3f}")
    return {"metrics": metrics}


if __name__ == "__main__":
    program.run(main)
