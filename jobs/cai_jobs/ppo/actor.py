"""PPO's actor: rollouts, the critic's answers, the policy's update, and the protocol that keeps both in step.

One step: every process samples answers and has the critic value them; all of them share all rollouts; rank 0 has the
critic trained while all train the policy. Both programs save the same steps, the critic first; after any crash both go
back to the newest step both have. All randomness follows from (seed, step), so a repeated step repeats itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.contract.progress import Progress
from cai_jobs.ppo import checkpoints, maths
from cai_jobs.ppo.critic_client import CriticClient, CriticMovedError
from cai_jobs.ppo.device import Device
from cai_jobs.ppo.log import RunLog
from cai_jobs.ppo.rollout import Rollouts, Sampling, add_critic_answer, generate, join, measure
from cai_jobs.ppo.schedule import derived_seed, next_kl_coefficient, prompt_indices
from cai_jobs.ppo.settings import ActorSettings
from cai_jobs.ppo.training import shape_rewards, update_policy, updates_per_step

KEPT_CHECKPOINTS = 2
ROLLBACK_LIMIT = 10


@dataclass
class Actor:
    """What PPO works on. `step`, `updates`, `kl_coefficient`, `moments` and `last_good` are saved with the weights.

    Attributes:
        last_good: with --max-kl, the weights before the newest update, whose KL was measured and good.
    """

    policy: Any
    reference: Any
    tokenizer: Any
    prompts: list[list[int]]
    validation_prompts: list[list[int]]
    settings: ActorSettings
    steps: int
    critic: CriticClient
    checkpoint_dir: Path
    log: RunLog
    device: Device
    step: int = 0
    updates: int = 0
    kl_coefficient: float = 0.0
    moments: maths.Moments = field(default_factory=maths.Moments)
    last_good: dict[str, Any] | None = None
    stopped_by_kl: bool = False
    optimizer: torch.optim.Optimizer = field(init=False)
    # not closed by a `with`: a program told to stop must not wait for a call to a critic that is gone
    courier: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def run(self, progress_mode: str) -> None:
        """Train until `steps` are done or the KL is too large; the policy then holds the result."""
        self.resume()
        rollbacks = 0
        mode = progress_mode if self.device.rank == 0 else "none"
        with Progress(self.steps, "steps", "PPO", mode, done=self.step) as progress:
            while self.step < self.steps and not self.stopped_by_kl:
                before = self.step
                try:
                    figures = self.do_step()
                except CriticMovedError as moved:
                    rollbacks += 1
                    if rollbacks > ROLLBACK_LIMIT:
                        raise RetryableError(
                            f"went back {ROLLBACK_LIMIT} times because the critic was restarted: {moved}"
                        ) from moved
                    print(f"the critic was restarted ({moved}); going back to the newest step both have", flush=True)
                    self.resume()
                    progress.advance(self.step - before)
                    continue
                progress.advance(1, {name: float(figures[name]) for name in ("reward_mean", "kl")})

    def resume(self) -> None:
        """Bring actor and critic to the newest step both have saved; 0 is the beginning.

        Raises:
            InputError: a checkpoint is of another model.
            RetryableError: the critic is unreachable.
        """
        step = None
        if self.device.rank == 0:
            theirs = self.critic.metadata()["saved_steps"]
            ours = checkpoints.saved_steps(self.checkpoint_dir)
            step = max(({0} | set(ours)) & ({0} | set(theirs)))
            checkpoints.drop_after(self.checkpoint_dir, step)
            self.critic.load(step)
            self.log.go_back(step)
        step = self.device.from_first(step)
        if step == 0:
            self._start_over()
        else:
            self._restore(checkpoints.load(self.checkpoint_dir, step), step)
        if step == 0 and self._validates():
            self._validate()

    def do_step(self) -> dict[str, float | bool | str]:
        """One PPO step, saved and validated where it is due; its metrics row.

        Raises:
            CriticMovedError: on all processes, if the critic turns out to stand elsewhere; the step is then lost.
        """
        settings, step, clock = self.settings, self.step + 1, _Clock()
        chosen = prompt_indices(len(self.prompts), settings.num_rollout_samples, step, settings.seed)
        rollouts = self._collect(self.prompts, chosen, self._sampling(greedy=False), step, clock)
        figures = describe(rollouts)
        if settings.max_kl > 0 and figures["kl"] > settings.max_kl and self.last_good is not None:
            return self._stop_by_kl(step, figures)
        if settings.max_kl > 0:
            self.last_good = {name: tensor.detach().cpu().clone() for name, tensor in self.policy.state_dict().items()}
        shaped = shape_rewards(rollouts, settings, self.kl_coefficient, self.moments)
        training = self._send_training(rollouts, shaped.returns, step)
        updates, update_figures = update_policy(
            self.policy,
            self.optimizer,
            rollouts,
            shaped.advantages,
            settings,
            step=step,
            updates=self.updates,
            total_updates=self.steps * updates_per_step(settings),
            device=self.device,
        )
        clock.mark("train")
        value_loss = self._agreed(training)
        clock.mark("critic_wait")
        row: dict[str, float | bool | str] = {
            **figures,
            "kl_coef": self.kl_coefficient,
            **update_figures,
            "value_loss": value_loss,
            "advantage_std": shaped.advantage_deviation,
        }
        self.step, self.updates, self.moments = step, updates, shaped.moments
        self.kl_coefficient = next_kl_coefficient(
            self.kl_coefficient, figures["kl"], settings.kl_target, len(chosen), settings.kl_horizon
        )
        is_last = step == self.steps
        if self.device.rank == 0:
            self.log.metrics(step, "train", {**row, **clock.seconds})
            if settings.sample_interval and (step % settings.sample_interval == 0 or is_last or step == 1):
                self.log.samples(self._sample_rows(rollouts, self.prompts, step, "train"))
        if self._validates() and (step % settings.val_check_interval == 0 or is_last):
            self._validate()
        if step % settings.save_interval == 0 or is_last:
            self._save()
        return row

    def _collect(
        self, prompts: list[list[int]], chosen: list[int], sampling: Sampling, step: int, clock: _Clock
    ) -> Rollouts:
        """The rollouts of all processes on prompts[chosen], valued by the critic while the next ones are drawn."""
        mine = sorted(chosen[self.device.rank :: self.device.world], key=lambda index: (len(prompts[index]), index))
        size = self.settings.rollout_micro_batch_size
        parts: list[Rollouts] | None = []
        problem = ""
        asked: list[tuple[Rollouts, Future[Any]]] = []
        for start in range(0, len(mine), size):
            indices = mine[start : start + size]
            seed = derived_seed(self.settings.seed, "rollout", step, self.device.rank, start)
            batch = [prompts[index] for index in indices]
            answers = generate(self.policy, self.tokenizer, batch, sampling, seed, self.device)
            texts = [(index, prompt, *answer) for index, prompt, answer in zip(indices, batch, answers, strict=True)]
            clock.mark("generate")
            part = measure(self.policy, self.reference, texts, self.settings.temperature, self.device)
            clock.mark("log_probs")
            call = self.courier.submit(self.critic.infer, part.tokens.numpy(), part.lengths.numpy(), self.step)
            asked.append((part, call))
        try:
            parts = [add_critic_answer(part, *call.result()) for part, call in asked]
        except CriticMovedError as moved:
            parts, problem = None, str(moved)
            for _, call in asked:
                call.cancel()
        clock.mark("critic_infer")
        everyones = self.device.everyone((parts, problem))
        for part_list, trouble in everyones:
            if part_list is None:
                raise CriticMovedError(trouble)
        return join([part for part_list, _ in everyones for part in part_list])

    def _send_training(self, rollouts: Rollouts, returns: torch.Tensor, step: int) -> Future[float] | None:
        if self.device.rank != 0:
            return None
        return self.courier.submit(
            self.critic.train,
            rollouts.tokens.numpy(),
            returns.numpy(),
            rollouts.values.numpy(),
            rollouts.mask.numpy(),
            step,
        )

    def _agreed(self, call: Future[Any] | None) -> Any:
        """The result of rank 0's call to the critic on every process, or its CriticMovedError on every process."""
        result: tuple[Any, str | None] = (None, None)
        if call is not None:
            try:
                result = (call.result(), None)
            except CriticMovedError as moved:
                result = (None, str(moved))
        value, trouble = self.device.from_first(result)
        if trouble is not None:
            raise CriticMovedError(trouble)
        return value

    def _save(self) -> None:
        self._agreed(self.courier.submit(self.critic.save, self.step) if self.device.rank == 0 else None)
        if self.device.rank == 0:
            state = {
                "policy": self.policy.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "updates": self.updates,
                "kl_coefficient": self.kl_coefficient,
                "moments": list(self.moments),
                "last_good": self.last_good,
            }
            checkpoints.save(self.checkpoint_dir, self.step, state, KEPT_CHECKPOINTS)
        # nobody goes on before the step is safe: a process that reads checkpoints must find it
        self.device.everyone(None)

    def _restore(self, state: Mapping[str, Any], step: int) -> None:
        self._start_over()
        try:
            self.policy.load_state_dict(state["policy"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as problem:
            raise InputError(
                f"the checkpoint of step {step} in {self.checkpoint_dir} is of another model; remove it"
            ) from problem
        self.step, self.updates, self.kl_coefficient = step, state["updates"], state["kl_coefficient"]
        self.moments, self.last_good = maths.Moments(*state["moments"]), state["last_good"]

    def _start_over(self) -> None:
        self.policy.load_state_dict(self.reference.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            betas=(0.9, 0.95),
        )
        self.step, self.updates, self.kl_coefficient = 0, 0, self.settings.kl_penalty
        self.moments, self.last_good = maths.Moments(), None

    def _stop_by_kl(self, step: int, figures: dict[str, float]) -> dict[str, float | bool | str]:
        """Keep the policy before the newest update: the newest one whose KL was within bounds."""
        assert self.last_good is not None
        self.policy.load_state_dict(self.last_good)
        self.stopped_by_kl = True
        kept = self.step - 1
        row: dict[str, float | bool | str] = {**figures, "stopped_by_kl": True, "kept_step": float(kept)}
        if self.device.rank == 0:
            self.log.metrics(step, "train", row)
            print(
                f"stopped at step {step}: KL {figures['kl']:.3g} nats an answer is above --max-kl "
                f"{self.settings.max_kl:g}; "
                f"the policy of step {kept} is kept",
                flush=True,
            )
        return row

    def _validates(self) -> bool:
        return bool(self.validation_prompts) and self.settings.val_check_interval > 0

    def _validate(self) -> None:
        chosen = list(range(len(self.validation_prompts)))
        clock = _Clock()
        rollouts = self._collect(self.validation_prompts, chosen, self._sampling(greedy=True), self.step, clock)
        if self.device.rank == 0:
            self.log.metrics(self.step, "validation", {**describe(rollouts), **clock.seconds})
            self.log.samples(self._sample_rows(rollouts, self.validation_prompts, self.step, "validation"))

    def _sampling(self, greedy: bool) -> Sampling:
        options = self.settings
        return Sampling(
            options.temperature, options.top_k, options.top_p, options.answer_tokens, options.end_string, greedy
        )

    def _sample_rows(self, rollouts: Rollouts, prompts: list[list[int]], step: int, phase: str) -> list[dict[str, Any]]:
        kl = answer_kl(rollouts)
        rows = []
        for row in torch.argsort(rollouts.index, stable=True)[: self.settings.samples].tolist():
            prompt = prompts[int(rollouts.index[row])]
            answer = rollouts.tokens[row, len(prompt) : int(rollouts.lengths[row])].tolist()
            rows.append(
                {
                    "step": step,
                    "phase": phase,
                    "prompt": self.tokenizer.decode(prompt),
                    "answer": self.tokenizer.decode(answer),
                    "reward": float(rollouts.scores[row]),
                    "kl": float(kl[row]),
                    "ended": bool(rollouts.ended[row]),
                }
            )
        return rows


def answer_kl(rollouts: Rollouts) -> torch.Tensor:
    """KL of policy to reference in nats an answer, float32 [B]: summed over the places of the answer drawn."""
    return rollouts.divergence.sum(dim=1)


def describe(rollouts: Rollouts) -> dict[str, float]:
    """Figures of a step's rollouts: raw rewards, KL in nats an answer (exact at each place) and a token (k1, k3),
    lengths in tokens, the share of answers that ended.
    """
    k1, k3 = (
        float(maths.masked_mean(estimate(rollouts.log_probs, rollouts.reference), rollouts.mask))
        for estimate in (maths.kl_k1, maths.kl_k3)
    )
    return {
        "reward_mean": float(rollouts.scores.mean()),
        "reward_std": float(rollouts.scores.std(unbiased=False)),
        "kl": float(answer_kl(rollouts).mean()),
        "kl_token_k1": k1,
        "kl_token_k3": k3,
        "value_mean": float(maths.masked_mean(rollouts.values, rollouts.mask)),
        "response_length": float(rollouts.mask.sum(dim=1).float().mean()),
        "ended_share": float(rollouts.ended.float().mean()),
    }


class _Clock:
    """Seconds by part: `mark(name)` counts what has passed since the last mark to `seconds_<name>`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        key = f"seconds_{name}"
        self.seconds[key] = round(self.seconds.get(key, 0.0) + now - self._last, 4)
        self._last = now
