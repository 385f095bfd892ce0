"""The training stages of engine nemo: what each trainer is told, and how the wrapper knows that it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai_operator.engines import nemo_models, shared
from cai_operator.engines.addresses import server_address
from cai_operator.engines.nemo_hydra import merged, value_of
from cai_operator.engines.nemo_models import MODEL_FILE
from cai_operator.engines.nemo_parallel import Use, critic, trainer
from cai_operator.engines.nemo_programs import WRAPPER, reference, wrapped
from cai_operator.engines.run import Run

WORK = "nemo"
"""Below an unfinished artifact: checkpoints to go on from, logs and indexes. It is not published."""

CRITIC_WORK = "critic"
"""The critic's, beside the actor's: both are found again together, and go when the model is published.

The config files give all programs one directory, /results, in which they would take each other's checkpoints.
"""

_LAST_TWO = {
    # the critic's config keeps its last checkpoint only, the actor's its best: after a crash between their two saves
    # there would be no step that both can go back to
    "exp_manager.checkpoint_callback_params.monitor": "step",
    "++exp_manager.checkpoint_callback_params.mode": "max",
    "exp_manager.checkpoint_callback_params.save_top_k": 2,
}


def command(run: Run, contract: Mapping[str, Any]) -> tuple[str, ...]:
    """The job of a training stage: the wrapper and NVIDIA's whole command."""
    node = run.node.name
    this = trainer(run.pipeline.spec, node)
    paths, goal = {"sft": _sft, "rewardModel": _reward_model, "ppo": _ppo}[node](run, this)
    settings = merged({**paths, **places(this), "model.seed": run.pipeline.spec.seed}, this.settings)
    flags = {
        **contract,
        "input": [run.input(name) for name in run.node.inputs],
        "model": this.program.model,
        "publish": MODEL_FILE,
        "work_dir": WORK,
        **goal,
    }
    if node == "ppo":
        host, port = server_address(run, "critic")
        nodes = critic(run.pipeline.spec).nodes
        flags |= {"critic_host": host, "critic_port": port, "critic_nodes": nodes, "critic_dir": CRITIC_WORK}
    training = reference(this.program, settings, this.nodes, this.gpus)
    if node not in run.pipeline.spec.stages.exporting:
        return wrapped(WRAPPER, flags, training)
    return wrapped(WRAPPER, {**flags, "export_from": run.input("models", "base")}, training, nemo_models.export(run))


def critic_command(run: Run, port: int) -> tuple[str, ...]:
    """The critic's server. It never ends by itself: SIGINT is what it ends on."""
    this = critic(run.pipeline.spec)
    own = {
        "pretrained_checkpoint.restore_from_path": run.input("rewardModel", MODEL_FILE),
        "trainer.ppo.port": port,
        "exp_manager.explicit_log_dir": f"{run.artifact()}.partial/{CRITIC_WORK}",
        **_LAST_TWO,
        "model.seed": run.pipeline.spec.seed,
    }
    settings = merged({**own, **places(this)}, this.settings)
    flags = {"serve": True, "stop_signal": "INT", "serves": run.artifact(), "input": [run.input("rewardModel")]}
    return wrapped(WRAPPER, flags, reference(this.program, settings, this.nodes, this.gpus))


def places(this: Use) -> dict[str, Any]:
    """Machines and GPUs. Always said: training_rm.yaml and gpt_ppo_actor.yaml take 8 machines of 8 for granted."""
    return {"trainer.num_nodes": this.nodes, "trainer.devices": this.gpus}


def _sft(run: Run, this: Use) -> tuple[dict[str, Any], dict[str, Any]]:
    work = _work(run)
    rows = run.input("slData", shared.SL_TRAIN)
    paths = {
        "model.restore_from_path": run.input("models", f"base/{MODEL_FILE}"),
        # the length filter's result: the tutorial's command trains on the file before it
        "model.data.train_ds.file_path": rows,
        # rows of their own: the tutorial validates on what it trains on
        "model.data.validation_ds.file_path": run.input("slData", shared.SL_VALIDATION),
        # else beside the data, in another stage's published artifact
        "model.data.train_ds.index_mapping_dir": f"{work}/index",
        "model.data.validation_ds.index_mapping_dir": f"{work}/index",
        "exp_manager.explicit_log_dir": work,
        # gpt_sft.yaml says False, and the file that every later command of the tutorial reads is never written
        "exp_manager.checkpoint_callback_params.save_nemo_on_train_end": True,
    }
    return paths, {
        "rows": rows,
        "rows_per_step": value_of(this.settings, "model.data.train_ds.global_batch_size"),
        **_bounds(this, "sft"),
    }


def _reward_model(run: Run, this: Use) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = shared.preferences(run, "train", "comparisons")
    paths = {
        "pretrained_checkpoint.restore_from_path": run.input("sft", MODEL_FILE),
        "model.data.data_prefix": _splits(run, "comparisons"),
        "exp_manager.explicit_log_dir": _work(run),
        "exp_manager.checkpoint_callback_params.save_nemo_on_train_end": True,
    }
    per_step = value_of(this.settings, "model.global_batch_size")
    return paths, {"rows": rows, "lines_per_row": 2, "rows_per_step": per_step, **_bounds(this, "rm")}


def _ppo(run: Run, this: Use) -> tuple[dict[str, Any], dict[str, Any]]:
    host, port = server_address(run, "critic")
    rows = shared.preferences(run, "train", "prompts")
    paths = {
        "pretrained_checkpoint.restore_from_path": run.input("sft", MODEL_FILE),
        "model.data.data_prefix": _splits(run, "prompts"),
        "exp_manager.explicit_log_dir": _work(run),
        **_LAST_TWO,
        "remote_critic_rm.critic.ip": host,
        "remote_critic_rm.critic.port": port,
    }
    per_step = value_of(this.settings, "model.ppo.num_rollout_samples")
    return paths, {"rows": rows, "rows_per_step": per_step, **_bounds(this, "ppo")}


def _splits(run: Run, kind: str) -> dict[str, list[str]]:
    train, test = (shared.preferences(run, split, kind) for split in ("train", "test"))
    return {"train": [train], "validation": [test], "test": [test]}


def _bounds(this: Use, block: str) -> dict[str, Any]:
    """How many steps the program will take, as far as overrides say."""
    named = {"max_steps": f"trainer.{block}.max_steps", "epochs": f"trainer.{block}.max_epochs"}
    return {flag: value_of(this.settings, key) for flag, key in named.items()}


def _work(run: Run) -> str:
    return f"{run.artifact()}.partial/{WORK}"
