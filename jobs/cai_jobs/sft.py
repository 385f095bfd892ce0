"""Fine-tune a causal model on SFT rows (the SL-CAI model of the paper's supervised stage).

Each row is one dialogue; only the answers and the turn token that ends them are in the loss, as in NeMo-Aligner's
`train_gpt_sft.py` with `model.data.chat=True` (`formats/sft_rows.py` has the layout). Paper: Bai et al. 2022,
"Constitutional AI: Harmlessness from AI Feedback", section 3.

    python -m cai_jobs.sft --model base/ --train-file sl_cai_train.jsonl --validation-file sl_cai_validation.jsonl
    torchrun --nproc-per-node 8 -m cai_jobs.sft ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import program
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.formats import sft_rows
from cai_jobs.formats.jsonl import read_jsonl
from cai_jobs.training import ranks
from cai_jobs.training.flags import Defaults, add_training_flags, check_training_flags
from cai_jobs.training.startup import heavy_imports

DEFAULTS = Defaults(
    learning_rate=1e-6,
    weight_decay=0.01,
    global_batch_size=128,
    val_check_interval=50,
    limit_val_batches=40,
    save_interval=50,
)


def build_parser() -> Parser:
    """The program's flags."""
    parser = Parser("sft", "Fine-tune a causal language model on SFT rows.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory to start from")
    parser.add_argument("--train-file", type=Path, required=True, help="SFT rows, JSONL")
    parser.add_argument("--validation-file", type=Path, required=True, help="SFT rows, JSONL")
    parser.add_argument(
        "--long-rows",
        choices=["truncate", "drop", "refuse"],
        default="truncate",
        help="rows longer than --max-seq-length: cut at the end, left out (and counted), or an error",
    )
    add_training_flags(parser, DEFAULTS)
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program; returns the last word."""
    args = build_parser().parse_args(argv)
    check_training_flags(args)
    return ranks.publish_from_main(args, ("checkpoints",), lambda directory: train(args, directory))


def train(args: argparse.Namespace, directory: Path) -> dict[str, float]:
    """Train as the flags say, writing `model/`, `metrics.jsonl`, `tensorboard/` into `directory`.

    Returns:
        steps, validationLoss, validationTokenAccuracy, trainRows, validationRows, truncatedRows, droppedRows.

    Raises:
        InputError: a file or the model is not as it should be.
    """
    train_rows = read_rows(args.train_file)
    validation_rows = read_rows(args.validation_file)
    with heavy_imports():
        from datasets import Dataset
        from trl import SFTConfig

        from cai_jobs.training import fit
        from cai_jobs.training.models import load_causal_model, load_tokenizer
        from cai_jobs.training.trainers import BLANK_ROW, DialogueTrainer

    tokenizer = load_tokenizer(args.model)
    train_set, train_long = tokenize_rows(args, args.train_file, train_rows, tokenizer)
    validation_set, _ = tokenize_rows(args, args.validation_file, validation_rows, tokenizer)
    if args.limit_val_batches > 0:
        validation_set = validation_set[: args.limit_val_batches * args.global_batch_size]
    model = load_causal_model(args.model)

    def build_trainer() -> DialogueTrainer:
        settings = SFTConfig(
            **fit.trainer_settings(args, directory, model),
            max_length=None,
            packing=False,
            # the rows are tokenised and labelled already; TRL's own preparation would append EOS to texts
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        return DialogueTrainer(
            model=model,
            args=fit.keep_to_one_gpu(settings),
            train_dataset=Dataset.from_list([*train_set, BLANK_ROW]),
            eval_dataset=Dataset.from_list(validation_set),
            processing_class=tokenizer,
        )

    steps, figures = fit.fit(args, directory, "sft", build_trainer, tokenizer)
    counts = {"trainRows": len(train_set), "validationRows": len(validation_set), **train_long}
    return {"steps": steps, **fit.validation_metrics(figures), **counts}


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number, row) of a file of SFT rows, each one validated.

    Raises:
        InputError: as `jsonl.read_jsonl` and `sft_rows.validate`.
    """
    rows = []
    for number, row in read_jsonl(path):
        sft_rows.validate(row, f"{path}:{number}")
        rows.append((number, row))
    return rows


def tokenize_rows(
    args: argparse.Namespace, path: Path, rows: Sequence[tuple[int, dict[str, Any]]], tokenizer: Any
) -> tuple[list[dict[str, list[int]]], dict[str, int]]:
    """Rows as `{"input_ids", "labels"}` of at most --max-seq-length tokens, and how many were cut or left out.

    A cut row of which no trained token is left is left out.

    Raises:
        InputError: --long-rows refuse and a row is too long, or no row is left.
    """
    tokenised = []
    counts = {"truncatedRows": 0, "droppedRows": 0}
    limit = args.max_seq_length
    for number, row in rows:
        ids, labels = sft_rows.tokenize(row, tokenizer)
        if len(ids) > limit and args.long_rows == "refuse":
            raise InputError(
                f"{path}:{number}: {len(ids)} tokens, --max-seq-length is {limit}; shorten it or take --long-rows drop"
            )
        # the first token is predicted from nothing, so its label never counts
        nothing_left = all(label == sft_rows.IGNORED for label in labels[1:limit])
        if nothing_left or (len(ids) > limit and args.long_rows == "drop"):
            counts["droppedRows"] += 1
            continue
        counts["truncatedRows"] += len(ids) > limit
        tokenised.append({"input_ids": ids[:limit], "labels": labels[:limit]})
    if not tokenised:
        raise InputError(f"{path}: no row is left: all {len(rows)} are longer than --max-seq-length {limit}")
    return tokenised, counts


if __name__ == "__main__":
    program.run(main)
