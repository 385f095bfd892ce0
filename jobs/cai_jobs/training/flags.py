"""The hyperparameters every trainer takes, with the tutorial's values for a 7B model as defaults."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from cai_jobs.contract.program import InputError

MIN_LEARNING_RATE = 9e-7


@dataclass(frozen=True)
class Defaults:
    """Where the tutorial's SFT and reward model runs differ."""

    learning_rate: float
    weight_decay: float
    global_batch_size: int
    val_check_interval: int
    limit_val_batches: int
    save_interval: int


def add_training_flags(parser: argparse.ArgumentParser, defaults: Defaults) -> None:
    """Add the flags for optimiser, batches, length, validation, checkpoints and device."""
    add = parser.add_argument_group("steps and batches").add_argument
    add("--epochs", type=float, default=1.0, help="times over the training file, unless --max-steps is given")
    add("--max-steps", type=int, default=-1, help="so many steps, however often over the file; -1: --epochs decides")
    add("--global-batch-size", type=int, default=defaults.global_batch_size, help="rows a step, over all processes")
    add("--micro-batch-size", type=int, default=1, help="rows at a time on a device; a step's rest is accumulated")
    add("--max-seq-length", type=int, default=4096, help="in tokens")

    add = parser.add_argument_group("optimiser").add_argument
    add("--learning-rate", type=float, default=defaults.learning_rate, help="the highest")
    add("--min-learning-rate", type=float, help=f"where the cosine ends; {MIN_LEARNING_RATE} or the rate, if lower")
    add("--lr-schedule", choices=["cosine", "constant"], default="cosine", help="after the warm-up")
    add("--warmup-steps", type=int, default=10, help="steps of linear rise from 0")
    add("--weight-decay", type=float, default=defaults.weight_decay, help="AdamW's")
    add("--adam-beta2", type=float, default=0.98, help="AdamW's second moment decay; the first is 0.9")
    add("--gradient-clip", type=float, default=1.0, help="largest norm of the gradient; 0: not clipped")
    add("--seed", type=int, default=1234, help="for the order of rows and new weights")

    add = parser.add_argument_group("validation, logs and checkpoints").add_argument
    add("--val-check-interval", type=int, default=defaults.val_check_interval, help="in steps; and at the end")
    add("--limit-val-batches", type=int, default=defaults.limit_val_batches, help="in global batches; -1: all")
    add("--log-interval", type=int, default=1, help="in steps")
    add("--save-interval", type=int, default=defaults.save_interval, help="in steps; the newest checkpoint is kept")

    precisions = ["auto", "float32", "bfloat16"]
    add = parser.add_argument_group("device").add_argument
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda where there is one")
    add(
        "--dtype",
        choices=precisions,
        default="auto",
        help="of the computation (weights and optimiser stay float32); auto: bfloat16 on a GPU that has it",
    )
    add("--save-dtype", choices=precisions, default="auto", help="of the saved weights; auto: that of the computation")
    add(
        "--gradient-checkpointing",
        choices=["auto", "on", "off"],
        default="auto",
        help="recompute activations to save memory; auto: for models of a billion parameters and more",
    )
    parser.add_argument("--output-dir", type=Path, default=Path(), help="where outputs go without --artifact-dir")


def check_training_flags(args: argparse.Namespace) -> None:
    """Refuse settings that contradict each other, before anything slow is done.

    Raises:
        InputError: naming the flag, what it is and what it may be.
    """
    for name in ("global_batch_size", "micro_batch_size", "val_check_interval", "log_interval", "save_interval"):
        _want(args, name, getattr(args, name) >= 1, "at least 1")
    _want(args, "max_seq_length", args.max_seq_length >= 2, "at least 2")
    _want(args, "max_steps", args.max_steps == -1 or args.max_steps >= 1, "-1 or at least 1")
    _want(args, "epochs", args.epochs > 0, "above 0")
    _want(args, "limit_val_batches", args.limit_val_batches == -1 or args.limit_val_batches >= 1, "-1 or at least 1")
    _want(args, "learning_rate", args.learning_rate > 0, "above 0")
    _want(args, "warmup_steps", args.warmup_steps >= 0, "0 or more")
    _want(args, "weight_decay", args.weight_decay >= 0, "0 or more")
    _want(args, "gradient_clip", args.gradient_clip >= 0, "0 or more")
    _want(args, "adam_beta2", 0 < args.adam_beta2 < 1, "between 0 and 1")
    if args.min_learning_rate is not None:
        allowed = 0 <= args.min_learning_rate <= args.learning_rate
        _want(args, "min_learning_rate", allowed, f"from 0 to the learning rate, {args.learning_rate}")
    accumulation_steps(args)


def accumulation_steps(args: argparse.Namespace) -> int:
    """Micro batches a process works through for one step.

    Raises:
        InputError: the global batch cannot be dealt out evenly.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    at_once = args.micro_batch_size * world
    if args.global_batch_size % at_once:
        raise InputError(
            f"--global-batch-size {args.global_batch_size} is not a multiple of --micro-batch-size "
            f"{args.micro_batch_size} x {world} processes"
        )
    return int(args.global_batch_size // at_once)


def min_learning_rate(args: argparse.Namespace) -> float:
    """Where the cosine ends."""
    if args.min_learning_rate is not None:
        return float(args.min_learning_rate)
    return float(min(MIN_LEARNING_RATE, args.learning_rate))


def _want(args: argparse.Namespace, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; {allowed} is wanted")
