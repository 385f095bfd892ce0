"""The critic and the reward model: one sequence-classification network frozen, one trained from it.

The frozen one gives an answer's reward (its score at the last token); the trained one gives the value of every state.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from cai_jobs.contract.program import InputError
from cai_jobs.ppo import checkpoints, maths
from cai_jobs.ppo.device import Device
from cai_jobs.ppo.schedule import derived_seed, learning_rate
from cai_jobs.ppo.vocabulary import describe_vocabulary


@dataclass(frozen=True)
class CriticSettings:
    """How the critic is trained and saved; the flags of `serve_critic` explain each."""

    checkpoint_dir: Path
    learning_rate: float = 3e-7
    min_learning_rate: float = 9e-8
    warmup_steps: int = 10
    decay_steps: int = 0
    lr_schedule: str = "cosine"
    weight_decay: float = 0.0
    clip_gradient: float = 1.0
    value_clip: float = 0.2
    epochs: int = 1
    global_batch_size: int = 64
    micro_batch_size: int = 1
    inference_micro_batch_size: int = 4
    keep_checkpoints: int = 2
    seed: int = 1234


class WrongStepError(Exception):
    """The critic is at another step than the caller takes for granted: both must go back to a common one."""


class StoppedError(Exception):
    """The server is stopping; the call was given up."""


class Critic:
    """The two networks, the optimiser, and the step they stand at. Not for use by two threads at once.

    Attributes:
        step: how many training calls the critic's weights have seen, or what the caller numbered the last one.
        stop: set it from any thread to make a running call raise StoppedError at its next micro batch.
    """

    step: int
    updates: int
    optimizer: torch.optim.Optimizer

    def __init__(self, reward_model: Path, settings: CriticSettings, device: Device) -> None:
        self.settings, self.device = settings, device
        self.stop = threading.Event()
        self.reward = _load_network(reward_model).to(device.device).eval().requires_grad_(False)
        self.value = _load_network(reward_model).to(device.device).eval()
        self.vocabulary = describe_vocabulary(reward_model, int(self.reward.config.vocab_size))
        self._last_loss: float | None = None
        self._start_over()

    def infer(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Values float32 [B, L - 1] of every state and rewards float32 [B, 1] of the whole texts.

        Args:
            tokens: int64 [B, L], padded on the right; what the padding is does not matter.
            lengths: int64 [B], each between 1 and L. Values after a text's end are 0.
        """
        batch, length = tokens.shape
        values, rewards = np.zeros((batch, length), np.float32), np.zeros((batch, 1), np.float32)
        size = self.settings.inference_micro_batch_size
        # texts of like length share a micro batch, so that little padding is computed
        order = np.argsort(lengths, kind="stable")
        with torch.no_grad():
            for rows in (order[start : start + size] for start in range(0, batch, size)):
                self._check_stop()
                longest = int(lengths[rows].max())
                part, mask = self._to_device(tokens[rows, :longest], lengths[rows])
                ends = torch.as_tensor(lengths[rows] - 1, device=self.device.device)
                scores = self._scores(self.reward, part, mask).gather(1, ends[:, None])
                rewards[rows] = scores.cpu().numpy()
                values[rows, :longest] = (self._scores(self.value, part, mask) * mask).cpu().numpy()
        return values[:, :-1], rewards

    def train(
        self,
        tokens: NDArray[np.int64],
        returns: NDArray[np.float32],
        old_values: NDArray[np.float32],
        mask: NDArray[np.bool_],
        step: int | None,
    ) -> float:
        """Train the values on one step's rollouts and return the mean loss over the masked places.

        Args:
            tokens: int64 [B, L], padded on the right. returns, old_values, mask: [B, L - 1].
            step: the step this call leads to. Asked again for the step it stands at, the critic only repeats its loss.

        Raises:
            WrongStepError: the critic does not stand at step - 1.
        """
        if step is not None and step == self.step and self._last_loss is not None:
            return self._last_loss
        if step is not None and step != self.step + 1:
            raise WrongStepError(
                f"the critic stands at step {self.step}, training step {step} must follow step {step - 1}"
            )
        try:
            loss = self._train(tokens, returns, old_values, mask)
        except BaseException:
            # half-trained weights belong to no step
            self.restore(max(checkpoints.saved_steps(self.settings.checkpoint_dir), default=0))
            raise
        self.step += 1
        self._last_loss = loss
        return loss

    def save(self, step: int, expected: int | None = None) -> None:
        """Write a checkpoint and call it `step`.

        Raises:
            WrongStepError: `expected` is given and the critic does not stand there.
        """
        if expected is not None and expected != self.step:
            raise WrongStepError(f"the critic stands at step {self.step}, asked to save step {expected}")
        self.step = step
        state = {
            "value": self.value.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "last_loss": self._last_loss,
        }
        checkpoints.save(self.settings.checkpoint_dir, step, state, self.settings.keep_checkpoints)

    def restore(self, step: int) -> None:
        """Go back to a saved step, or to the untrained critic for step 0; checkpoints after it are removed.

        Raises:
            InputError: there is no such checkpoint, or it is of another model.
        """
        directory = self.settings.checkpoint_dir
        state = None
        if step != 0 or 0 in checkpoints.saved_steps(directory):
            state = checkpoints.load(directory, step)
        self._start_over()
        if state is not None:
            try:
                self.value.load_state_dict(state["value"])
                self.optimizer.load_state_dict(state["optimizer"])
            except (KeyError, RuntimeError, ValueError) as problem:
                raise InputError(
                    f"the checkpoint of step {step} in {directory} is of another model; remove it"
                ) from problem
            self.updates, self._last_loss = int(state["updates"]), state["last_loss"]
        self.step = step
        checkpoints.drop_after(directory, step)

    def status(self) -> dict[str, Any]:
        """What answers and metadata carry: {"step", "saved_steps", "vocab_size", "vocab_digest"}."""
        return {
            "step": self.step,
            "saved_steps": checkpoints.saved_steps(self.settings.checkpoint_dir),
            **self.vocabulary,
        }

    def _start_over(self) -> None:
        self.value.load_state_dict(self.reward.state_dict())
        options = self.settings
        self.optimizer = torch.optim.AdamW(
            self.value.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.95)
        )
        self.step, self.updates, self._last_loss = 0, 0, None

    def _train(
        self, tokens: NDArray[Any], returns: NDArray[Any], old_values: NDArray[Any], mask: NDArray[Any]
    ) -> float:
        options, total, count = self.settings, 0.0, 0
        for epoch in range(options.epochs):
            rng = np.random.default_rng(derived_seed(options.seed, "critic", self.updates, epoch))
            order = rng.permutation(len(tokens))
            for start in range(0, len(order), options.global_batch_size):
                rows = order[start : start + options.global_batch_size]
                places = int(mask[rows].sum())
                if places == 0:
                    continue
                total += self._update(tokens, returns, old_values, mask, rows, places) * places
                count += places
        return total / max(1, count)

    def _update(self, tokens: Any, returns: Any, old_values: Any, mask: Any, rows: NDArray[Any], places: int) -> float:
        """One optimiser update on `rows`, `places` masked places in all; the mean loss."""
        options = self.settings
        lengths = np.array([_last_place(mask[row]) + 2 for row in rows])
        rows, lengths = rows[np.argsort(lengths, kind="stable")], np.sort(lengths)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for start in range(0, len(rows), options.micro_batch_size):
            self._check_stop()
            part = slice(start, start + options.micro_batch_size)
            longest = int(lengths[part].max())
            inputs, attention = self._to_device(tokens[rows[part], :longest], lengths[part])
            goal, before, chosen = (
                torch.as_tensor(np.ascontiguousarray(array[rows[part], : longest - 1]), device=self.device.device)
                for array in (returns, old_values, mask)
            )
            values = self._scores(self.value, inputs, attention)[:, :-1]
            loss = (maths.value_loss(values, before, goal, options.value_clip) * chosen).sum() / places
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not np.isfinite(total):
            raise ValueError(
                f"the value loss is {total} at update {self.updates}; lower --learning-rate of serve_critic"
            )
        torch.nn.utils.clip_grad_norm_(self.value.parameters(), options.clip_gradient or float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.updates,
                options.learning_rate,
                options.min_learning_rate,
                options.warmup_steps,
                options.decay_steps,
                options.lr_schedule,
            )
        self.optimizer.step()
        self.updates += 1
        return total

    def _scores(self, network: Any, tokens: Tensor, attention: Tensor) -> Tensor:
        """The score head at every place, float32 [B, L]."""
        with self.device.autocast():
            hidden = network.base_model(input_ids=tokens, attention_mask=attention, use_cache=False).last_hidden_state
            scores: Tensor = network.score(hidden)
        return scores.squeeze(-1).float()

    def _to_device(self, tokens: NDArray[Any], lengths: NDArray[Any]) -> tuple[Tensor, Tensor]:
        inputs = torch.as_tensor(np.ascontiguousarray(tokens), device=self.device.device)
        ends = torch.as_tensor(np.ascontiguousarray(lengths), device=self.device.device)
        attention = torch.arange(inputs.shape[1], device=inputs.device) < ends[:, None]
        # padding may be any number: keep it inside the vocabulary
        return torch.where(attention, inputs, 0), attention.long()

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError("the critic server is stopping")


def _last_place(mask: NDArray[Any]) -> int:
    places = np.flatnonzero(mask)
    return int(places[-1]) if len(places) else 0


def _load_network(path: Path) -> Any:
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    if not (path / "config.json").is_file():
        raise InputError(
            f"--reward-model {path}: no config.json there; give the model directory that reward_model wrote"
        )
    try:
        network, found = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        raise InputError(f"--reward-model {path} cannot be loaded: {problem}") from problem
    if network.config.num_labels != 1 or not hasattr(network, "score"):
        raise InputError(
            f"--reward-model {path}: one label and a `score` head are wanted, it has {network.config.num_labels} labels"
        )
    if any("score" in name for name in found["missing_keys"]):
        raise InputError(
            f"--reward-model {path} has no weights of a score head; give the model that reward_model wrote"
        )
    return network
