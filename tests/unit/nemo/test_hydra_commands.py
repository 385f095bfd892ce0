"""Every command for Hydra is read by Hydra itself, against configs with the keys of NVIDIA's programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.unit.nemo.conftest import reference, settings, workloads

from cai_operator.validation import parse_pipeline

CONF = Path(__file__).with_name("conf")
EXAMPLES = Path(__file__).parents[3] / "examples"
CONFIGS = {
    "train_gpt_sft.py": "gpt_sft",
    "train_reward_model.py": "training_rm",
    "serve_ppo_critic.py": "gpt_ppo_critic",
    "train_gpt_ppo_actor.py": "gpt_ppo_actor",
    "megatron_gpt_eval.py": "megatron_gpt_inference",
}
SPECS = {
    "tutorial": {},
    "fewer GPUs": {"gpusPerNode": 4, "stages": {"serve": {"gpusPerNode": 2}, "slData": {"server": {"gpus": 6}}}},
    "several nodes": {
        "stages": {
            "sft": {"nodes": 4, "overrides": {"model.pipeline_model_parallel_size": 2}},
            "rewardModel": {"nodes": 2, "overrides": {"++model.sequence_parallel": True}},
            "ppo": {
                "nodes": 2,
                "overrides": {"model.tensor_model_parallel_size": 4, "model.ppo.rollout_micro_batch_size": 16},
                "critic": {"nodes": 2},
            },
        }
    },
    "overrides": {
        "seed": 7,
        "stages": {
            "sft": {"overrides": {"model.optim.lr": "2e-6", "++model.new.key": ["a b", 1], "trainer.sft.max_steps": 9}},
            "ppo": {"overrides": {"model.ppo.sampling_params.end_strings": ["<extra_id_1>", "it's"]}},
            "serve": {"overrides": {"megatron_amp_O2": True}},
        },
    },
}


@pytest.fixture(autouse=True)
def resolvers():
    # NeMo-Aligner's programs register these two before they read their config
    OmegaConf.register_new_resolver("multiply", lambda x, y: x * y, replace=True)
    OmegaConf.register_new_resolver("int_div", lambda x, y: x // y, replace=True)


def script(workload):
    return next(part for part in reference(workload) if part.endswith(".py")).rsplit("/", 1)[-1]


def read(workload):
    """What the program's config is once Hydra has read the command."""
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(CONFIGS[script(workload)], settings(workload))


def megatron(found):
    return {name: workload for name, workload in found.items() if "cai_jobs.nemo_run" in workload.command}


@pytest.fixture(params=[*SPECS, "mistral-7b.yaml", "llama-70b-multinode.yaml"])
def programs(request, render):
    if request.param.endswith(".yaml"):
        return megatron(workloads(parse_pipeline(yaml.safe_load((EXAMPLES / request.param).read_text()))))
    return megatron(render(**SPECS[request.param]))


def test_hydra_takes_every_command(programs):
    assert len(programs) == 10
    for workload in programs.values():
        config = read(workload)
        assert not OmegaConf.missing_keys(config), script(workload)
        OmegaConf.resolve(config)


def test_no_key_is_given_twice_and_none_forced_that_is_there(programs):
    for workload in programs.values():
        keys = [setting.split("=", 1)[0] for setting in settings(workload)]
        bare = [key.lstrip("+") for key in keys]
        assert len(set(bare)) == len(bare)
        config = yaml.safe_load((CONF / f"{CONFIGS[script(workload)]}.yaml").read_text())
        for key in keys:
            *blocks, name = key.lstrip("+").split(".")
            block = config
            for part in blocks:
                block = block.get(part, {})
            assert key.startswith("++") != (name in block), key


def test_nodes_devices_and_directories_are_always_said(programs):
    directories = []
    for workload in programs.values():
        config = read(workload)
        assert config.trainer.devices == workload.resources.gpus
        assert config.trainer.num_nodes == workload.nodes
        if "exp_manager" in config:
            directories.append(config.exp_manager.explicit_log_dir)
            assert config.exp_manager.checkpoint_callback_params.save_nemo_on_train_end is True
    assert len(set(directories)) == len(directories) == 4


def test_the_tutorials_values_arrive(render):
    found = {name: read(workload) for name, workload in megatron(render()).items()}
    sft, reward, actor, critic = found["sft"], found["rewardModel"], found["ppo"], found["ppo.critic"]
    assert sft.model.data.chat_prompt_tokens.turn_start == "<extra_id_1>"
    assert sft.model.data.chat_prompt_tokens.system_turn_start == "<extra_id_0>"
    assert (sft.model.optim.lr, sft.model.data.train_ds.max_seq_length) == (1e-6, 4096)
    assert sft.model.data.validation_ds.max_seq_length == 4096
    assert sft.model.data.train_ds.file_path != sft.model.data.validation_ds.file_path
    assert reward.model.global_batch_size == 512
    assert (actor.model.optim.lr, actor.model.optim.sched.min_lr) == (9e-8, 9e-9)
    assert (critic.model.optim.lr, critic.trainer.ppo.inference_micro_batch_size) == (3e-7, 4)
    assert critic.trainer.ppo.port == actor.remote_critic_rm.critic.port == 5567
    assert set(actor.model.data.data_prefix) == {"train", "validation", "test"}
    assert list(reward.model.data.data_prefix.validation) == list(reward.model.data.data_prefix.test)
    assert (found["slData.server"].port, found["serve"].port) == (5999, 1427)
    for config in (sft, reward, actor, critic):
        assert (config.model.tensor_model_parallel_size, config.model.pipeline_model_parallel_size) == (8, 1)


def test_overrides_arrive_as_they_were_meant(render):
    found = {name: read(workload) for name, workload in megatron(render(**SPECS["overrides"])).items()}
    assert found["sft"].model.optim.lr == 2e-6
    assert list(found["sft"].model.new.key) == ["a b", 1]
    assert list(found["ppo"].model.ppo.sampling_params.end_strings) == ["<extra_id_1>", "it's"]
    assert found["serve"].megatron_amp_O2 is True
    assert {found[name].model.seed for name in ("sft", "rewardModel", "ppo", "ppo.critic")} == {7}
