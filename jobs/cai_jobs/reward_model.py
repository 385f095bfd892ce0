"""Train a reward model on comparisons: one score for a whole dialogue, read at its last token.

The loss is -log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; Ouyang et al. 2022, "Training language models
to follow instructions with human feedback", equation 1). The body is that of the SL-CAI model, the score's weights are
new.

    python -m cai_jobs.reward_model --model sft/model --train-comparisons a.jsonl --validation-comparisons b.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import program
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.formats.comparisons import read_pairs
from cai_jobs.training import ranks
from cai_jobs.training.flags import Defaults, add_training_flags, check_training_flags
from cai_jobs.training.startup import heavy_imports

DEFAULTS = Defaults(
    learning_rate=9e-6,
    weight_decay=0.1,
    global_batch_size=512,
    val_check_interval=25,
    limit_val_batches=-1,
    save_interval=25,
)
STATISTICS = "reward_statistics.json"


def build_parser() -> Parser:
    """The program's flags."""
    parser = Parser("reward_model", "Train a reward model on pairs of a chosen and a rejected dialogue.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory (the SL-CAI model)")
    parser.add_argument("--train-comparisons", type=Path, required=True, help="two lines a pair, chosen then rejected")
    parser.add_argument("--validation-comparisons", type=Path, required=True, help="the same, held out")
    parser.add_argument(
        "--long-pairs",
        choices=["drop", "refuse"],
        default="drop",
        help="pairs with a text longer than --max-seq-length: left out (and counted), or an error",
    )
    parser.add_argument(
        "--center-rewards-coefficient",
        type=float,
        default=0.0,
        help="weight of the squared sum of a pair's rewards in the loss, which keeps their mean near 0",
    )
    add_training_flags(parser, DEFAULTS)
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program; returns the last word."""
    args = build_parser().parse_args(argv)
    check_training_flags(args)
    if args.center_rewards_coefficient < 0:
        raise InputError(f"--center-rewards-coefficient is {args.center_rewards_coefficient}; 0 or more is wanted")
    return ranks.publish_from_main(args, ("checkpoints",), lambda directory: train(args, directory))


def train(args: argparse.Namespace, directory: Path) -> dict[str, float]:
    """Train as the flags say, writing `model/`, `metrics.jsonl`, `tensorboard/` into `directory`.

    `model/reward_statistics.json` holds the rewards' mean and standard deviation over the validation texts, and the
    means of the chosen and of the rejected ones, for whoever wants to centre or scale them.

    Returns:
        steps, validationLoss, validationAccuracy, validationMargin, validationChosenReward, validationRejectedReward,
        validationMeanReward, validationRewardStd, trainPairs, validationPairs, droppedPairs.

    Raises:
        InputError: a file or the model is not as it should be.
    """
    train_pairs = list(read_pairs(args.train_comparisons))
    validation_pairs = list(read_pairs(args.validation_comparisons))
    with heavy_imports():
        from datasets import Dataset
        from trl import RewardConfig

        from cai_jobs.training import fit
        from cai_jobs.training.models import load_scoring_model, load_tokenizer
        from cai_jobs.training.trainers import ComparisonTrainer

    tokenizer = load_tokenizer(args.model)
    train_set, dropped = tokenize_pairs(args, args.train_comparisons, train_pairs, tokenizer)
    validation_set, _ = tokenize_pairs(args, args.validation_comparisons, validation_pairs, tokenizer)
    if args.limit_val_batches > 0:
        validation_set = validation_set[: args.limit_val_batches * args.global_batch_size]
    model = load_scoring_model(args.model, tokenizer.pad_token_id, args.seed)

    def build_trainer() -> ComparisonTrainer:
        settings = RewardConfig(
            **fit.trainer_settings(args, directory, model),
            max_length=None,
            center_rewards_coefficient=args.center_rewards_coefficient or None,
        )
        return ComparisonTrainer(
            model=model,
            args=fit.keep_to_one_gpu(settings),
            train_dataset=Dataset.from_list(train_set),
            eval_dataset=Dataset.from_list(validation_set),
            processing_class=tokenizer,
        )

    steps, figures = fit.fit(args, directory, "reward model", build_trainer, tokenizer)
    if ranks.is_main():
        statistics = {
            "mean": figures["mean_reward"],
            "std": figures["reward_std"],
            "chosen_mean": figures["chosen_reward"],
            "rejected_mean": figures["rejected_reward"],
            "pairs": len(validation_set),
        }
        (directory / "model" / STATISTICS).write_text(json.dumps(statistics, indent=1) + "\n")
    counts = {"trainPairs": len(train_set), "validationPairs": len(validation_set), "droppedPairs": dropped}
    return {"steps": steps, **fit.validation_metrics(figures), **counts}


def tokenize_pairs(
    args: argparse.Namespace, path: Path, pairs: Sequence[tuple[str, str]], tokenizer: Any
) -> tuple[list[dict[str, list[int]]], int]:
    """Pairs as `{"chosen_ids", "rejected_ids"}`, exactly the texts' tokens, and how many were left out as too long.

    Raises:
        InputError: --long-pairs refuse and a pair is too long, no pair is left, or a text ends with the padding token
            (the score could not be read there).
    """
    texts = [text for pair in pairs for text in pair]
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    limit = args.max_seq_length
    tokenised = []
    for index, (chosen, rejected) in enumerate(zip(ids[::2], ids[1::2], strict=True)):
        line = 2 * index + 1
        longest = max(len(chosen), len(rejected))
        if longest > limit and args.long_pairs == "refuse":
            raise InputError(
                f"{path}:{line}: {longest} tokens, --max-seq-length is {limit}; filter them or take --long-pairs drop"
            )
        if longest > limit:
            continue
        for offset, text_ids in enumerate((chosen, rejected)):
            if text_ids[-1] == tokenizer.pad_token_id:
                raise InputError(
                    f"{path}:{line + offset}: the text ends with the padding token {tokenizer.pad_token!r}; "
                    "end it with the turn token instead"
                )
        tokenised.append({"chosen_ids": chosen, "rejected_ids": rejected})
    if not tokenised:
        raise InputError(f"{path}: no pair is left: all {len(pairs)} are longer than --max-seq-length {limit}")
    return tokenised, len(pairs) - len(tokenised)


if __name__ == "__main__":
    program.run(main)
