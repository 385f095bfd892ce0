"""TRL's SFT and reward trainers, bent only where they would add to the files' tokens or write what is not asked for."""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardTrainer, SFTTrainer

from cai_jobs.formats.sft_rows import IGNORED
from cai_jobs.training.sampling import WholeBatches

BLANK_ROW = {"input_ids": [0, 0], "labels": [IGNORED, IGNORED]}
"""Nothing in it is trained: it adds 0 to a step's loss and to the tokens that the loss is divided by."""


class DialogueTrainer(SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` that takes the same steps on any number of processes, without model cards in its checkpoints.

    Give it tokenised rows, to which it then adds no EOS, and BLANK_ROW as the last of `train_dataset`.
    """

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """No card: the artifact's manifest says what the model is."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss; a micro batch of nothing but blank rows is no part of the averages that are logged."""
        is_blank = self.model.training and bool((inputs["labels"] == IGNORED).all())
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if is_blank:
            for name in ("entropy", "mean_token_accuracy"):
                if len(self._metrics["train"][name]) > 1:  # of the first process, whose averages are logged, all are
                    self._metrics["train"][name].pop()
        return result

    def _get_train_sampler(self, train_dataset: Any = None) -> WholeBatches:
        rows = len(self.train_dataset if train_dataset is None else train_dataset) - 1
        args = self.args
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return WholeBatches(rows, batch, args.data_seed)


class ComparisonTrainer(RewardTrainer):  # type: ignore[misc]
    """`RewardTrainer` that keeps the rewards of an evaluation, so that its figures are over the whole set.

    TRL averages the averages of batches, which the last, shorter batch falsifies.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        super().__init__(*args, **kwargs)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """No card: the artifact's manifest says what the model is."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss -log sigmoid(chosen - rejected) of a batch whose first half are the chosen texts."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        chosen, rejected = outputs.logits.detach().squeeze(-1).float().chunk(2)
        training = self.model.training
        mode = "train" if training else "eval"
        if training:
            # the mean of both, as TRL logs it, hides whether the two move apart
            self._metrics[mode]["chosen_reward"].append(chosen.mean().item())
            self._metrics[mode]["rejected_reward"].append(rejected.mean().item())
        else:
            pair = (self.accelerator.gather_for_metrics(chosen), self.accelerator.gather_for_metrics(rejected))
            self._seen.append((pair[0].cpu(), pair[1].cpu()))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the rewards' figures over the whole validation set."""
        if self._seen and not self.model.training:
            self._metrics["eval"] = type(self._metrics["eval"])(list)
            figures = reward_figures(torch.cat([c for c, _ in self._seen]), torch.cat([r for _, r in self._seen]))
            logs.update({f"eval_{name}": value for name, value in figures.items()})
            self._seen.clear()
        super().log(logs, start_time)


def reward_figures(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, float]:
    """What is told of the rewards of pairs.

    Args:
        chosen, rejected: float32 [pairs].

    Returns:
        accuracy: share of pairs whose chosen text has the higher reward; margin: mean of chosen - rejected;
        chosen_reward, rejected_reward, mean_reward: means; reward_std: over all texts.
    """
    rewards = torch.cat([chosen, rejected])
    return {
        "accuracy": (chosen > rejected).float().mean().item(),
        "margin": (chosen - rejected).mean().item(),
        "chosen_reward": chosen.mean().item(),
        "rejected_reward": rejected.mean().item(),
        "mean_reward": rewards.mean().item(),
        "reward_std": rewards.std(correction=0).item(),
    }
