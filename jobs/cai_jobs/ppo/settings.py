"""The actor's settings: what the flags of `ppo_actor` say, without paths and addresses."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ActorSettings:
    """How PPO is done; the flags of `ppo_actor` explain each. Defaults are the tutorial's where it names one."""

    max_steps: int = -1
    num_rollout_samples: int = 512
    rollout_micro_batch_size: int = 8
    global_batch_size: int = 64
    micro_batch_size: int = 1
    ppo_epochs: int = 1
    max_length: int = 1024
    max_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    end_string: str = "<extra_id_1>"
    learning_rate: float = 9e-8
    min_learning_rate: float = 9e-9
    lr_schedule: str = "cosine"
    warmup_steps: int = 10
    weight_decay: float = 0.0
    clip_gradient: float = 1.0
    policy_clip: float = 0.2
    entropy_bonus: float = 0.0
    discount: float = 1.0
    gae_lambda: float = 0.95
    kl_penalty: float = 0.02
    kl_target: float = 0.0
    kl_horizon: int = 10_000
    kl_stop: float = 0.0
    max_kl: float = 0.0
    reward_scaling: str = "none"
    reward_clip: float = 0.0
    unfinished_penalty: float = 1.0
    save_interval: int = 10
    val_check_interval: int = 10
    validation_samples: int = 64
    sample_interval: int = 10
    samples: int = 4
    seed: int = 1234

    @property
    def answer_tokens(self) -> int:
        """The longest answer in tokens: --max-new-tokens, or half of --max-length."""
        return self.max_new_tokens or self.max_length // 2

    def problem(self) -> str | None:
        """A sentence on the first setting that cannot be, or None."""
        least_one = (
            "num_rollout_samples",
            "rollout_micro_batch_size",
            "global_batch_size",
            "micro_batch_size",
            "ppo_epochs",
            "save_interval",
            "kl_horizon",
        )
        for name in least_one:
            if getattr(self, name) < 1:
                return f"{_flag(name)} is {getattr(self, name)}, at least 1 is wanted"
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0 and field.name != "max_steps":
                return f"{_flag(field.name)} is {value}, it cannot be negative"
        if self.temperature == 0:
            return "--temperature is 0, PPO must sample: give a number above 0"
        if not 0 < self.top_p <= 1:
            return f"--top-p is {self.top_p}, a number above 0 and at most 1 is wanted"
        if self.max_length < 4:
            return f"--max-length is {self.max_length}, at least 4 is wanted"
        if self.max_new_tokens > self.max_length - self.max_length // 2:
            room = self.max_length - self.max_length // 2
            return f"--max-new-tokens is {self.max_new_tokens}, beside the longest prompts --max-length leaves {room}"
        return None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
