"""Work that GPUs cannot share is found in the manifest, with the field that is to change."""

from __future__ import annotations

import pytest
from tests.unit.nemo.conftest import settings

from cai_operator.engines.nemo_parallel import critic, trainer
from cai_operator.validation import InvalidResource


def problems(pipeline, **spec):
    with pytest.raises(InvalidResource) as caught:
        pipeline(**spec)
    return {problem.path: f"{problem.found}; {problem.allowed}" for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("spec", "where", "sentence"),
    [
        (
            {"stages": {"sft": {"overrides": {"model.tensor_model_parallel_size": 3}}}},
            "spec.stages.sft.overrides.model.tensor_model_parallel_size",
            "tensor 3 x pipeline 1 = 3, on 1 x 8 GPUs; a product that divides 8",
        ),
        (
            {"stages": {"rewardModel": {"nodes": 2, "overrides": {"++model.pipeline_model_parallel_size": 3}}}},
            "spec.stages.rewardModel.overrides.model.tensor_model_parallel_size",
            "tensor 8 x pipeline 3 = 24, on 2 x 8 GPUs; a product that divides 16",
        ),
        (
            {"stages": {"sft": {"nodes": 3}}},
            "spec.stages.sft.overrides.model.data.train_ds.global_batch_size",
            "128, with model.data.train_ds.micro_batch_size 1 on 3 data-parallel groups; a multiple of 3",
        ),
        (
            {"stages": {"sft": {"overrides": {"model.data.validation_ds.micro_batch_size": 5}}}},
            "spec.stages.sft.overrides.model.data.validation_ds.global_batch_size",
            "128, with model.data.validation_ds.micro_batch_size 5 on 1 data-parallel groups; a multiple of 5",
        ),
        (
            {"stages": {"ppo": {"overrides": {"model.ppo.rollout_micro_batch_size": 24}}}},
            "spec.stages.ppo.overrides.model.ppo.num_rollout_samples",
            "512, with model.ppo.rollout_micro_batch_size 24 on 1 data-parallel groups; a multiple of 24",
        ),
        (
            {"stages": {"ppo": {"overrides": {"model.ppo.num_rollout_samples": 96}}}},
            "spec.stages.ppo.overrides.model.ppo.num_rollout_samples",
            "96; a multiple of model.global_batch_size, 64",
        ),
        (
            {"stages": {"ppo": {"critic": {"overrides": {"trainer.ppo.inference_micro_batch_size": 16}}}}},
            "spec.stages.ppo.critic.overrides.trainer.ppo.inference_micro_batch_size",
            "16 on 1 data-parallel groups, 16 together; together at most what the actor sends",
        ),
        (
            {"stages": {"ppo": {"critic": {"overrides": {"model.tensor_model_parallel_size": 1}}}}},
            "spec.stages.ppo.critic.overrides.trainer.ppo.inference_micro_batch_size",
            "4 on 8 data-parallel groups, 32 together",
        ),
        (
            {"stages": {"ppo": {"overrides": {"remote_critic_rm.pad_to_length": 2048}}}},
            "spec.stages.ppo.overrides.remote_critic_rm.pad_to_length",
            "2048; at least model.encoder_seq_length, 4096",
        ),
        (
            {"stages": {"slData": {"server": {"overrides": {"tensor_model_parallel_size": 4}}}}},
            "spec.stages.slData.server.overrides.tensor_model_parallel_size",
            "tensor 4 x pipeline 1, on 8 GPUs; a product of 8",
        ),
        (
            {"stages": {"rewardModel": {"gpusPerNode": 0}}},
            "spec.stages.rewardModel.gpusPerNode",
            "0; at least 1: Megatron's programs need GPUs",
        ),
        (
            {"stages": {"rlData": {"server": {"gpus": 0}}}},
            "spec.stages.rlData.server.gpus",
            "0; at least 1",
        ),
        (
            {"stages": {"sft": {"overrides": {"model.tensor_model_parallel_size": "eight"}}}},
            "spec.stages.sft.overrides.model.tensor_model_parallel_size",
            '"eight"; a whole number, at least 1',
        ),
        (
            {"stages": {"ppo": {"critic": {"overrides": {"trainer.ppo.inference_micro_batch_size": 0}}}}},
            "spec.stages.ppo.critic.overrides.trainer.ppo.inference_micro_batch_size",
            "0; a whole number, at least 1",
        ),
        (
            {"stages": {"rlData": {"maxSeqLength": 8192}}},
            "spec.stages.rlData.maxSeqLength",
            "8192; at most 4096, the sequence length of the reward model and of PPO",
        ),
    ],
)
def test_what_cannot_be_shared(pipeline, spec, where, sentence):
    found = problems(pipeline, **spec)
    assert next(iter(found)) == where
    assert sentence in found[where]


def test_rows_are_filtered_to_the_length_that_is_trained_on(pipeline, render):
    shorter = {"overrides": {"model.data.train_ds.max_seq_length": 2048}}
    command = render(stages={"sft": shorter})["slData"].command
    assert command[command.index("--max-seq-length") + 1] == "2048"
    found = problems(pipeline, stages={"sft": shorter, "slData": {"maxSeqLength": 4096}})
    assert found == {"spec.stages.slData.maxSeqLength": "4096; at most 2048, the sequence length of sft"}


def test_pairs_are_filtered_to_the_length_that_is_trained_on(render):
    command = render(stages={"rewardModel": {"overrides": {"model.data.seq_length": 2048}}})["rlData"].command
    assert command[command.index("--max-seq-length") + 1] == "2048"


def test_gpus_are_shared_within_a_machine(pipeline):
    for gpus, tensor, groups in ((1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1), (16, 8, 2)):
        rollouts = {"overrides": {"model.ppo.rollout_micro_batch_size": 64}}
        spec = pipeline(gpusPerNode=gpus, stages={"ppo": rollouts}).spec
        for use in (trainer(spec, "sft"), critic(spec)):
            assert (use.tensor, use.groups) == (tensor, groups)


def test_a_server_uses_all_its_gpus(render):
    for gpus, tensor, pipeline_size in ((8, 8, 1), (6, 2, 3), (16, 8, 2), (1, 1, 1)):
        told = settings(render(stages={"serve": {"gpusPerNode": gpus}})["serve"])
        assert f"tensor_model_parallel_size={tensor}" in told
        assert f"pipeline_model_parallel_size={pipeline_size}" in told
        assert f"trainer.devices={gpus}" in told
