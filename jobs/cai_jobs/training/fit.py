"""One training run from its newest checkpoint to the saved model: what `sft` and `reward_model` have in common."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from cai_jobs.training import checkpoints, ranks
from cai_jobs.training.callbacks import LogSteps, SealCheckpoints, row_values
from cai_jobs.training.devices import resolve_device, resolve_dtype
from cai_jobs.training.disk import library_errors_named
from cai_jobs.training.flags import accumulation_steps, min_learning_rate
from cai_jobs.training.metrics import FILE, read_metrics
from cai_jobs.training.models import save_model

CHECKPOINTS = "checkpoints"
BILLION = 1_000_000_000


def trainer_settings(args: argparse.Namespace, directory: Path, model: Any) -> dict[str, Any]:
    """The flags as keyword arguments of TRL's configs (those of transformers' TrainingArguments).

    Args:
        args: with the flags of `training.flags`.
        directory: the artifact's directory; checkpoints go below it.
        model: the model to train, for its size.
    """
    device = resolve_device(args.device)
    schedule: dict[str, Any] = {"lr_scheduler_type": "constant_with_warmup"}
    if args.lr_schedule == "cosine":
        schedule = {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": min_learning_rate(args)},
        }
    big = sum(parameter.numel() for parameter in model.parameters()) >= BILLION
    return {
        "output_dir": str(directory / CHECKPOINTS),
        "per_device_train_batch_size": args.micro_batch_size,
        "per_device_eval_batch_size": args.micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps(args),
        "num_train_epochs": args.epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "adam_beta2": args.adam_beta2,
        "max_grad_norm": args.gradient_clip,
        "eval_strategy": "steps",
        "eval_steps": args.val_check_interval,
        "logging_steps": args.log_interval,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": args.save_interval,
        "seed": args.seed,
        "data_seed": args.seed,
        "bf16": resolve_dtype(args.dtype, device) == "bfloat16",
        "gradient_checkpointing": args.gradient_checkpointing == "on"
        or (args.gradient_checkpointing == "auto" and big),
        "use_cpu": device == "cpu",
        "ddp_backend": "gloo" if device == "cpu" and ranks.world_size() > 1 else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device == "cuda",
        "disable_tqdm": True,
        "report_to": "none",
        **schedule,
    }


def keep_to_one_gpu(settings: Any) -> Any:
    """The config, made to use the first GPU only where one process sees several (they are for torchrun)."""
    if settings.n_gpu > 1:
        settings._n_gpu = 1
    return settings


def fit(
    args: argparse.Namespace, directory: Path, title: str, build_trainer: Callable[[], Any], tokenizer: Any
) -> tuple[int, dict[str, float]]:
    """Train from the newest checkpoint to the end and save `model/`; the steps, and the last validation's figures.

    Args:
        args: with the flags of `training.flags` and `progress`.
        directory: the artifact's directory.
        title: what the progress bar is called.
        build_trainer: gives the trainer, whose settings are those of `trainer_settings`.
        tokenizer: saved beside the model.

    Raises:
        OSError: the disk is full; RetryableError: the GPU's memory is; InputError: the loss is not finite any more.
    """
    place = directory / CHECKPOINTS
    if ranks.is_main():
        checkpoints.prune(place)
    ranks.barrier()
    resume = checkpoints.newest(place)
    resumed_step = checkpoints.step_of(resume) if resume else 0
    with library_errors_named(directory):
        trainer = build_trainer()
        logger = LogSteps(directory, resumed_step, title, args.progress)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(logger)
        trainer.add_callback(SealCheckpoints(place))
        _train(trainer, resume)
        figures = _final_validation(trainer, directory)
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if ranks.is_main():
            dtype = resolve_dtype(args.dtype, resolve_device(args.device))
            dtype = dtype if args.save_dtype == "auto" else args.save_dtype
            unwrapped = trainer.accelerator.unwrap_model(trainer.model_wrapped)
            save_model(unwrapped, state, tokenizer, directory / "model", dtype)
            shutil.rmtree(place, ignore_errors=True)
        logger.close()
    return trainer.state.global_step, figures


def validation_metrics(figures: Mapping[str, float]) -> dict[str, float]:
    """The last validation's figures under the names of the artifact's metrics: mean_reward -> validationMeanReward."""
    return {"validation" + "".join(map(str.capitalize, name.split("_"))): value for name, value in figures.items()}


def _train(trainer: Any, resume: Path | None) -> None:
    if resume is not None:
        state = TrainerState.load_from_json(str(resume / TRAINER_STATE_NAME))
        if state.global_step >= state.max_steps:
            # the trainer would do one more step before it looks at their number
            trainer._load_from_checkpoint(str(resume))
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def _final_validation(trainer: Any, directory: Path) -> dict[str, float]:
    step = trainer.state.global_step
    rows = read_metrics(directory / FILE) if ranks.is_main() else []
    found = [row for row in rows if row["phase"] == "validation" and row["step"] == step]
    last: dict[str, float] | None = ranks.share(found[-1] if found else None)
    if last is None:
        last = row_values(trainer.evaluate())
    return {name: value for name, value in last.items() if name not in ("step", "phase", "epoch", "tokens")}
