"""PPO: train the SL-CAI policy against the reward model and critic that `serve_critic` serves.

    python -m cai_jobs.ppo_actor --model DIR --train-prompts F --critic-port 5567 --artifact-dir DIR --artifact-header
    JSON

Several GPUs or processes: `torchrun --nproc-per-node N -m cai_jobs.ppo_actor ...`. The algorithm: `ppo/actor.py`; its
formulas: `ppo/maths.py`. Publishes `model/`, `metrics.jsonl`, `samples.jsonl`, `tensorboard/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts, program
from cai_jobs.ppo.settings import ActorSettings
from cai_jobs.training.startup import heavy_imports

CHECKPOINTS = "checkpoints"


def build_parser() -> program.Parser:
    """The flags; defaults are the tutorial's where it names one."""
    parser = program.Parser("ppo_actor", "Train a policy by PPO against a critic server.")
    add, default = parser.add_argument, ActorSettings()

    def tune(name: str, help_text: str, choices: Sequence[str] | None = None) -> None:
        value = getattr(default, name)
        parser.add_argument(
            "--" + name.replace("_", "-"), type=type(value), default=value, choices=choices, help=help_text
        )

    add(
        "--model",
        type=Path,
        required=True,
        help="the SL-CAI model directory: start of the policy and its frozen reference",
    )
    add("--train-prompts", type=Path, required=True, help='JSONL of {"text": prompt}')
    add("--validation-prompts", type=Path, help="prompts answered greedily at every validation")
    add("--output-dir", type=Path, default=Path("ppo_output"), help="where to write without --artifact-dir")
    add("--checkpoint-dir", type=Path, default=Path(CHECKPOINTS), help="relative: below the output")
    add("--critic-host", default="127.0.0.1", help="where serve_critic runs")
    add("--critic-port", type=int, default=5567, help="its port")
    add("--critic-timeout", type=float, default=600.0, help="seconds the critic may be unreachable or loading")
    add("--critic-call-timeout", type=float, default=7200.0, help="seconds one call to the critic may take")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="precision of forward passes")
    tune("max_steps", "PPO steps; -1: one pass over the prompts")
    tune("num_rollout_samples", "answers sampled in a step, by all processes together")
    tune("rollout_micro_batch_size", "answers sampled together by one process")
    tune("global_batch_size", "answers of one optimiser update, over all processes")
    tune("micro_batch_size", "answers of one training forward pass")
    tune("ppo_epochs", "passes over a step's rollouts")
    tune("max_length", "tokens of prompt and answer; prompts longer than half of it are left out")
    tune("max_new_tokens", "tokens of an answer; 0: half of --max-length")
    tune("temperature", "sampling temperature")
    tune("top_k", "sample from the k likeliest tokens; 0: from all")
    tune("top_p", "sample from the likeliest tokens that hold this probability")
    tune("end_string", "an answer ends with it, or with EOS")
    tune("learning_rate", "peak learning rate")
    tune("min_learning_rate", "learning rate at the last step")
    tune("lr_schedule", "shape of the way down", ["cosine", "linear", "constant"])
    tune("warmup_steps", "optimiser updates of linear warm-up")
    tune("weight_decay", "AdamW's weight decay")
    tune("clip_gradient", "largest norm of the gradient; 0 does not clip")
    tune("policy_clip", "PPO's epsilon: how far the probability ratio may move")
    tune("entropy_bonus", "weight of the entropy in the loss")
    tune("discount", "gamma")
    tune("gae_lambda", "lambda of the advantage estimate")
    tune("kl_penalty", "coefficient of the KL penalty to the frozen SL-CAI policy")
    tune("kl_target", "nats an answer that the coefficient is steered to; 0 keeps it fixed")
    tune("kl_horizon", "answers over which the coefficient is steered")
    tune("kl_stop", "end a step's updates when they moved the policy by this KL (nats a token); 0: never")
    tune("max_kl", "end the training when the KL (nats an answer) passes it, keeping the policy before; 0: never")
    tune("reward_scaling", "scale rewards by their running mean and deviation", ["none", "running"])
    tune("reward_clip", "largest absolute reward; 0 does not clip")
    tune("unfinished_penalty", "taken from the reward of an answer that did not end")
    tune("save_interval", "steps between checkpoints")
    tune("val_check_interval", "steps between validations; 0: none")
    tune("validation_samples", "how many validation prompts are used; 0: all")
    tune("sample_interval", "steps between rollouts kept in samples.jsonl; 0: none")
    tune("samples", "rollouts kept each time")
    tune("seed", "seed of everything drawn")
    return parser


def main(argv: Sequence[str] | None = None) -> Mapping[str, Any] | None:
    """Train and publish.

    Raises:
        InputError: a file, model or setting is wrong, or critic and policy have different tokenizers.
        RetryableError: the critic is unreachable or failed; the same command goes on from the last checkpoint.
    """
    options = build_parser().parse_args(argv)
    settings = ActorSettings(**{name: getattr(options, name) for name in ActorSettings.__dataclass_fields__})
    problem = settings.problem()
    if problem is not None:
        raise program.InputError(problem)
    if not (options.model / "config.json").is_file():
        raise program.InputError(
            f"--model {options.model}: there is no config.json; give a Hugging Face model directory"
        )

    with heavy_imports():
        from cai_jobs.ppo.actor_setup import is_first_process, train

    if not is_first_process():
        # torchrun's other processes train along and publish nothing
        target = options.artifact_dir
        if target is None or artifacts.read(target) is None:
            train(
                options, settings, options.output_dir if target is None else target.with_name(target.name + ".partial")
            )
        return None
    scratch = () if options.checkpoint_dir.is_absolute() else (str(options.checkpoint_dir),)
    with artifacts.open_artifact(
        options.artifact_dir, options.artifact_header, options.output_dir, scratch
    ) as artifact:
        if artifact is None:
            found = artifacts.read(options.artifact_dir)
            return artifacts.last_word(found) if found else None
        artifact.metrics.update(train(options, settings, artifact.path))
        return artifact.publish()


if __name__ == "__main__":
    program.run(main)
