"""The settings of NVIDIA's programs: the tutorial's, corrected where they fail, and which of them are the operator's.

The tutorial is NeMo-Aligner's "Constitutional AI" page; docs/nemo.md sets its commands beside what is rendered here.
Config files: https://github.com/NVIDIA/NeMo-Aligner/tree/main/examples/nlp/gpt/conf, and for the model server
megatron_gpt_inference.yaml of NeMo's examples/nlp/language_modeling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cai_operator.engines.nemo_hydra import Settings, bare

_ALIGNER = "/opt/NeMo-Aligner/examples/nlp/gpt"

TENSOR = "tensor_model_parallel_size"
PIPELINE = "pipeline_model_parallel_size"
SEQUENCE_LENGTH = 4096
"""Tokens of a training example, by the tutorial; its config files say the same."""


@dataclass(frozen=True)
class Program:
    """One of NVIDIA's programs.

    Attributes:
        script: where it is in the image.
        model: the name it gives the .nemo file it writes, as `exp_manager.name` of its config; None for servers.
        tutorial: what it is told besides paths, places and ports: the tutorial's values, which the manifest may change.
        owned: keys the manifest may not set -> what to do instead.
    """

    script: str
    tutorial: Settings
    owned: Mapping[str, str]
    model: str | None = None


_PATH = "nothing: the operator passes its own paths"
_ADDRESS = "the field port; hosts are the operator's"
_RESUME = "nothing: the operator resumes from the stage's own checkpoints"
_HYDRA = {"hydra": "nothing: where Hydra writes is the operator's", "defaults": "nothing: there is one config file"}
_TRAINING: Mapping[str, str] = {
    **_HYDRA,
    "trainer.num_nodes": "the field nodes",
    "trainer.devices": "the field gpusPerNode",
    # a program that leaves early ends with 0 though its work is not done
    "trainer.max_time": "nothing: a stage runs to its last step; the field deadline bounds it",
    "exp_manager.max_time_per_run": "nothing: a stage runs to its last step; the field deadline bounds it",
    "exp_manager.explicit_log_dir": _PATH,
    "exp_manager.exp_dir": _PATH,
    "exp_manager.name": "nothing: the model file is found by this name",
    "exp_manager.resume_if_exists": _RESUME,
    "exp_manager.resume_ignore_no_checkpoint": _RESUME,
    "exp_manager.resume_from_checkpoint": _RESUME,
    "exp_manager.create_checkpoint_callback": _RESUME,
    "exp_manager.checkpoint_callback_params.filename": "nothing: the step that was saved is read off it",
    "exp_manager.checkpoint_callback_params.save_nemo_on_train_end": "nothing: the model is what the stage is for",
    "model.seed": "the field spec.seed",
}

_LAST_TWO = "nothing: critic and actor keep their last two, so that both can go back to the same one"
_UNIT: Mapping[str, str] = {
    **_TRAINING,
    **{f"exp_manager.checkpoint_callback_params.{key}": _LAST_TWO for key in ("monitor", "mode", "save_top_k")},
}

SFT = Program(
    script=f"{_ALIGNER}/train_gpt_sft.py",
    model="megatron_gpt_sft",
    tutorial={
        "model.megatron_amp_O2": True,
        "model.data.num_workers": 0,
        "model.data.train_ds.micro_batch_size": 1,
        "model.data.train_ds.global_batch_size": 128,
        "model.data.train_ds.max_seq_length": SEQUENCE_LENGTH,
        "model.data.validation_ds.micro_batch_size": 1,
        "model.data.validation_ds.global_batch_size": 128,
        "model.data.chat": True,
        "model.data.chat_prompt_tokens.system_turn_start": "<extra_id_0>",
        "model.data.chat_prompt_tokens.turn_start": "<extra_id_1>",
        "model.data.chat_prompt_tokens.label_start": "<extra_id_2>",
        "model.optim.lr": 1e-6,
        "model.answer_only_loss": True,
        "trainer.sft.limit_val_batches": 40,
        "trainer.sft.val_check_interval": 50,
        "trainer.sft.save_interval": 50,
    },
    owned={
        **_TRAINING,
        "model.restore_from_path": _PATH,
        "model.resume_from_checkpoint": _RESUME,
        "model.data.train_ds.file_path": _PATH,
        "model.data.train_ds.index_mapping_dir": _PATH,
        "model.data.validation_ds.file_path": _PATH,
        "model.data.validation_ds.index_mapping_dir": _PATH,
        "model.peft": "nothing: what follows wants a whole model, not adapters to one",
    },
)

REWARD_MODEL = Program(
    script=f"{_ALIGNER}/train_reward_model.py",
    model="megatron_gpt",
    tutorial={
        "model.micro_batch_size": 1,
        "model.global_batch_size": 512,
        "++model.activations_checkpoint_granularity": "full",
        "++model.activations_checkpoint_method": "uniform",
        "++model.activations_checkpoint_num_layers": 1,
        "model.optim.bucket_cap_mb": 200,
        "model.data.seq_length": SEQUENCE_LENGTH,
        "model.data.data_impl": "json",
        "exp_manager.checkpoint_callback_params.save_top_k": 1,
        "trainer.rm.save_interval": 25,
        "trainer.rm.val_check_interval": 25,
        "trainer.rm.limit_val_batches": 100000,
    },
    owned={**_TRAINING, "pretrained_checkpoint.restore_from_path": _PATH, "model.data.data_prefix": _PATH},
)

CRITIC = Program(
    script=f"{_ALIGNER}/serve_ppo_critic.py",
    tutorial={
        "trainer.ppo.inference_micro_batch_size": 4,
        "model.offload_adam_states": True,
        "model.micro_batch_size": 1,
        "model.global_batch_size": 64,
        "model.optim.lr": 3e-7,
        "model.optim.sched.min_lr": 9e-8,
    },
    owned={
        **_UNIT,
        "pretrained_checkpoint.restore_from_path": _PATH,
        "trainer.ppo.port": _ADDRESS,
        "trainer.ppo.combine_rm_and_critic_server": "nothing: rewards and values come of one server",
    },
)

ACTOR = Program(
    script=f"{_ALIGNER}/train_gpt_ppo_actor.py",
    model="megatron_gpt_ppo_actor",
    tutorial={
        "model.data.data_impl": "json",
        "model.micro_batch_size": 1,
        "model.global_batch_size": 64,
        "++model.activations_checkpoint_granularity": "selective",
        "++model.activations_checkpoint_method": "uniform",
        # the tutorial passes these two twice, the rate with 3e-8 first: the later one is what its run had
        "model.optim.lr": 9e-8,
        "model.optim.sched.min_lr": 9e-9,
        "model.ppo.num_rollout_samples": 512,
        "model.ppo.rollout_micro_batch_size": 8,
        "model.ppo.length_params.max_length": 1024,
        "trainer.ppo.initial_policy_kl_penalty": 0.02,
    },
    owned={
        **_UNIT,
        "pretrained_checkpoint.restore_from_path": _PATH,
        "model.data.data_prefix": _PATH,
        "remote_critic_rm.critic": "spec.stages.ppo.critic.port; hosts are the operator's",
        "remote_critic_rm.reward_model": "nothing: rewards and values come of one server",
        "remote_critic_rm.combine_rm_and_critic_server": "nothing: rewards and values come of one server",
    },
)

SERVER = Program(
    script="/opt/NeMo/examples/nlp/language_modeling/megatron_gpt_eval.py",
    tutorial={"pipeline_model_parallel_split_rank": 0, "trainer.precision": "bf16"},
    owned={
        **_HYDRA,
        "gpt_model_file": _PATH,
        "checkpoint_dir": _PATH,
        "checkpoint_name": _PATH,
        "hparams_file": _PATH,
        "server": "nothing: it is started to serve",
        "port": _ADDRESS,
        "web_server": "nothing: a web page is no part of the pipeline",
        "trainer.devices": "the field gpus, or gpusPerNode of the stage serve",
        "trainer.num_nodes": "nothing: a model server has one machine",
    },
)

TRAINERS: Mapping[str, Program] = {"sft": SFT, "rewardModel": REWARD_MODEL, "ppo": ACTOR}
"""The program of each training stage."""

_HOW_IT_IS_RUN = (
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "sequence_parallel", "num_workers"),
    *("micro_batch_size", "forward_micro_batch_size", "rollout_micro_batch_size", "val_rollout_micro_batch_size"),
    *("inference_micro_batch_size", "activations_checkpoint_granularity", "activations_checkpoint_method"),
    *("activations_checkpoint_num_layers", "offload_adam_states", "bucket_cap_mb", "overlap_grad_sync"),
    *("save_interval", "save_top_k", "create_wandb_logger", "max_queue_delay_microseconds"),
)


def shaping(settings: Settings) -> dict[str, Any]:
    """What of a program's settings shapes its result: not how work is shared among GPUs, nor how often it is saved."""
    return {bare(key): value for key, value in settings.items() if bare(key).rsplit(".", 1)[-1] not in _HOW_IT_IS_RUN}


def parallel_keys(program: Program) -> tuple[str, str]:
    """How tensor and pipeline parallelism are spelled for a program."""
    if program is SERVER:
        return TENSOR, PIPELINE
    # only gpt_sft.yaml has them; the others take them over with the base model's own config
    prefix = "model." if program is SFT else "++model."
    return prefix + TENSOR, prefix + PIPELINE


def default_parallel(program: Program, gpus: int) -> tuple[int, int]:
    """Tensor and pipeline parallelism on machines of so many GPUs: a model is split over one machine.

    The tutorial's servers have 8 and 1 on 8 GPUs. Its training commands name none, and would inherit 1 and 1 from the
    converter's file; then its critic, which infers 4 examples on each of 8 data-parallel ranks, exceeds the 8 its
    actor sends it. Attention heads divide by powers of two, seldom by 6 or 7.
    """
    tensor = max((size for size in (1, 2, 4, 8) if gpus % size == 0), default=1)
    # a server has one copy of the model, on all its GPUs
    return tensor, max(gpus // tensor, 1) if program is SERVER else 1
