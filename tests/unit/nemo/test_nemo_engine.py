"""What engine nemo renders: which files each program reads, where models come from, what it refuses and why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.unit.nemo.conftest import LLAMA, reference, settings

from cai_operator import texts
from cai_operator.engines import EngineError, engine_of, nemo, options, require_local
from cai_operator.engines.run import Run
from cai_operator.manifests.children import places_of
from cai_operator.plan import node_keys
from cai_operator.stages import active
from cai_operator.workloads import Probe

SECRET = {"name": "s", "key": "k"}


def own(workload):
    """The namespace our program makes of its part of a command."""
    command = list(workload.command)
    head = command[: command.index("--")] if "--" in command else command
    assert head[:2] == ["/opt/cai/bin/python", "-m"]
    return options.parses(head[2].removeprefix("cai_jobs."), head[3:])


def converters(workload):
    """Each converter's script and flags."""
    parts = " ".join(workload.command).split(" -- ")[1:]
    return [part.split("/convert_")[1] for part in parts]


def test_every_command_is_one_our_programs_take(render):
    for workload in render().values():
        own(workload)


def test_stages_read_what_earlier_ones_wrote(render):
    found = render()

    def base(node):
        return f"/artifacts/tiny/{node}/{found[node].key}"

    sft = dict(setting.split("=", 1) for setting in settings(found["sft"]))
    assert sft["model.restore_from_path"] == f"{base('models')}/base/model.nemo"
    assert sft["model.data.train_ds.file_path"] == f"{base('slData')}/sl_cai_train.jsonl"
    assert sft["exp_manager.explicit_log_dir"] == f"{base('sft')}.partial/nemo"
    assert f"gpt_model_file={base('models')}/assistant/model.nemo" in settings(found["slData.server"])
    assert f"gpt_model_file={base('models')}/base/model.nemo" in settings(found["evaluateBase.server"])
    assert f"gpt_model_file={base('sft')}/model.nemo" in settings(found["rlData.server"])
    assert f"gpt_model_file={base('ppo')}/model.nemo" in settings(found["serve"])
    assert f"pretrained_checkpoint.restore_from_path={base('rewardModel')}/model.nemo" in settings(found["ppo.critic"])
    actor = own(found["ppo"])
    assert [str(path) for path in actor.input] == [base("sft"), base("rlData"), base("rewardModel")]
    assert (actor.model, actor.rows_per_step) == ("megatron_gpt_ppo_actor", 512)
    critic = own(found["ppo.critic"])
    assert (critic.serves, critic.stop_signal) == (actor.artifact_dir, "INT")
    assert (actor.critic_dir, actor.critic_nodes) == ("critic", 1)
    assert found["ppo.critic"].name in actor.critic_host
    assert own(found["rewardModel"]).lines_per_row == 2
    assert str(own(found["slData"]).tokenizer_model) == f"{base('models')}/base/tokenizer"
    assert own(found["slData"]).max_seq_length == own(found["rlData"]).max_seq_length == 4096


def test_the_wrapper_is_told_how_many_steps_there_are(render):
    overrides = {"trainer.sft.max_steps": 7, "trainer.sft.max_epochs": 2, "model.data.train_ds.global_batch_size": 64}
    told = own(render(stages={"sft": {"overrides": overrides}})["sft"])
    assert (told.max_steps, told.epochs, told.rows_per_step) == (7, 2, 64)
    told = own(render()["sft"])
    assert (told.max_steps, told.epochs, told.rows_per_step) == (-1, 1, 128)


def test_servers_and_their_probes(render):
    found = render(stages={"slData": {"server": {"port": 6001, "replicas": 3}}, "ppo": {"critic": {"port": 6002}}})
    assert found["slData.server"].probe == Probe(6001)
    assert found["slData.server"].replicas == 3
    assert {name for name, workload in found.items() if workload.headless} == {
        *("slData.server", "rlData.server", "evaluateBase.server", "evaluateSlCai.server", "evaluateRlCai.server")
    }
    assert found["ppo.critic"].probe == Probe(6002, "/v2/models/critic_save/ready", is_life=False)
    assert found["serve"].probe == Probe(1427)
    assert own(found["slData"]).port == 6001
    host = own(found["slData"]).host
    assert host == f"{found['slData.server'].name}.lab.svc"
    assert f"remote_critic_rm.critic.ip={found['ppo.critic'].name}.lab.svc" in settings(found["ppo"])
    assert "remote_critic_rm.critic.port=6002" in settings(found["ppo"])
    assert own(found["ppo.critic"]).stop_signal == "INT"
    assert own(found["slData.server"]).stop_signal == "TERM"


def test_replicas_that_stand_apart_are_all_named_to_the_generator(pipeline):
    found = pipeline(stages={"slData": {"server": {"port": 6001, "replicas": 3}}})
    keys, _ = node_keys(found.spec, {})
    places = replace(places_of(found), replicas_apart=True)
    run = Run(found, active(found.spec)["slData"], keys, texts.of_node(found.spec, "slData", {}), None, places)
    servers = nemo.servers(run)
    assert [server.replicas for server in servers] == [1, 1, 1]
    assert own(nemo.job(run)).host == ",".join(f"{server.name}.lab.svc:6001" for server in servers)


def test_the_generators_have_the_options_they_have_with_the_other_engine(render):
    stages = {
        "slData": {
            "critique": False,
            "principleWeights": {"stealth": 0},
            "removeDuplicates": "near",
            "blendRatio": 0.5,
            "validationShare": 0.25,
            "maxRejected": 0,
        },
        "rlData": {
            "judging": {"mode": "principle", "chainOfThought": True, "comparisonsPerPrompt": -1, "rate": 2.5},
            "maxRejected": 0.5,
        },
    }
    found = render(stages=stages)
    told = own(found["slData"])
    assert (told.critique, told.remove_duplicates, told.blend_ratio) == (False, "near", 0.5)
    assert (told.validation_split, told.max_rejected) == (0.25, 0)
    assert json.loads(told.principle_weights) == {"stealth": 0}
    told = own(found["rlData"])
    assert (told.judge_mode, told.judge_chain_of_thought) == ("principle", True)
    assert told.comparisons_per_prompt is None  # which is all
    assert (told.judge_rate, told.judge_concurrency, told.max_rejected) == (2.5, 8, 0.5)
    assert str(told.comparison_principles_path) == "/texts/comparison_principles.json"
    assert not any(part.startswith("--sys-prompt") for part in found["rlData"].command)
    assert set(found["rlData"].texts) == {"comparison_principles.json"}
    assert str(own(found["report"]).comparison_principles) == "/texts/comparison_principles.json"


ALONE = {"url": None, "model": None, "apiKeySecret": None}
NVIDIA = "https://integrate.api.nvidia.com/v1/chat/completions"


def test_a_panel_votes_and_its_first_judge_labels(render):
    panel = [{"url": "https://one/v1", "model": "a"}, {"url": NVIDIA, "model": "b", "apiKeySecret": SECRET}]
    found = render(judge={**ALONE, "panel": panel})
    assert json.loads(own(found["rlData"]).judge_endpoints) == [
        {"url": "https://one/v1", "model": "a"},
        {"url": NVIDIA, "model": "b", "key_variable": "JUDGE_API_KEY_2"},
    ]
    assert set(found["rlData"].secrets) == {"JUDGE_API_KEY_2"}
    evaluate = found["evaluateRlCai"]
    assert (own(evaluate).judge_url, own(evaluate).judge_model, dict(evaluate.secrets)) == ("https://one/v1", "a", {})


def test_environment_and_resources(render):
    found = render()
    for name in ("sft", "rewardModel", "ppo", "ppo.critic", "serve", "models"):
        environment = found[name].environment
        assert environment["HYDRA_FULL_ERROR"] == "1"
        assert environment["PYTHONPATH"] == "/opt/NeMo-Aligner"
        assert ("NCCL_ALGO" in environment) == name.startswith("ppo")
    assert (found["models"].resources.gpus, found["sft"].resources.gpus) == (1, 8)
    assert found["datasets"].resources.gpus == found["slData"].resources.gpus == 0
    assert render(stages={"models": {"gpusPerNode": 0}})["models"].resources.gpus == 0
    ready = render(models={"base": {"path": "a.nemo"}, "assistant": {"path": "b.nemo"}})
    assert ready["models"].resources.gpus == 0


def test_several_nodes_are_started_by_torchrun_and_one_by_lightning(render):
    found = render(stages={"sft": {"nodes": 4}, "ppo": {"critic": {"nodes": 2}}})
    assert reference(found["sft"])[:3] == ["torchrun", "--nnodes=4", "--nproc-per-node=8"]
    assert reference(found["ppo.critic"])[:3] == ["torchrun", "--nnodes=2", "--nproc-per-node=8"]
    assert found["ppo.critic"].nodes == 2
    assert reference(found["rewardModel"])[0] == "python"


def test_models_from_the_hub_a_directory_or_a_ready_file(render):
    hub = render()["models"]
    assert [line.split()[0] for line in converters(hub)] == ["mistral_7b_hf_to_nemo.py"] * 2
    work = f"/artifacts/tiny/models/{hub.key}.partial/nemo"
    assert converters(hub)[1].split()[1:] == [
        *("--input_name_or_path", f"{work}/assistant", "--output_path", f"{work}/assistant.nemo")
    ]
    mixed = render(models={"base": {"path": "models/Mistral-7B"}, "assistant": {"path": "/ready/chat.nemo"}})["models"]
    [line] = converters(mixed)
    assert "--input_name_or_path /artifacts/models/Mistral-7B --output_path" in line
    assert json.loads(own(mixed).base) == {"path": "/artifacts/models/Mistral-7B"}
    assert json.loads(own(mixed).assistant) == {"path": "/artifacts/ready/chat.nemo"}
    one = render(models={"base": {"path": "x.nemo"}, "assistant": {"path": "x.nemo"}})
    assert own(one["models"]).assistant is None
    assert "--" not in one["models"].command
    assert any(part.endswith("/base/model.nemo") for part in settings(one["slData.server"]))


@pytest.mark.parametrize(
    ("repo", "overrides", "scaled"),
    [
        ("meta-llama/Llama-2-7b-hf", {}, False),
        ("meta-llama/Meta-Llama-3-8B", {}, False),
        ("meta-llama/Llama-3.1-8B", {}, True),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", {}, True),
        ("me/llama-mine", {"llama31": True}, True),
        ("me/mine", {"converter": "llama", "precision": "bf16"}, False),
    ],
)
def test_llamas_are_told_about_their_positions(render, repo, overrides, scaled):
    source = {"huggingFace": {"repo": repo}}
    found = render(models={"base": source, "assistant": source}, stages={"models": {"overrides": overrides}})
    [line] = converters(found["models"])
    assert line.startswith("llama_hf_to_nemo.py")
    assert ("--llama31=" in line) != scaled
    assert ("--precision bf16" in line) == ("precision" in overrides)


def test_only_llamas_need_the_hub_to_load(render):
    token = {"name": "hub", "key": "token"}
    llama = {"models": {**LLAMA, "assistant": LLAMA["base"]}, "hubTokenSecret": token}
    assert "HF_TOKEN" in render(**llama)["sft"].secrets
    assert "HF_TOKEN" in render(**llama)["serve"].secrets
    assert "HF_TOKEN" not in render(hubTokenSecret=token)["sft"].secrets
    assert "HF_TOKEN" in render(hubTokenSecret=token)["models"].secrets


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"models": {"base": {"pocket": {}}}}, "spec.models.base.pocket: the pocket model is for engine hf"),
        (
            {"models": {"base": {"huggingFace": {"repo": "a/gemma"}}}},
            "spec.models.base: the name a/gemma tells no converter",
        ),
        ({"judge": {"self": True}}, "spec.judge"),
        ({"stages": {"evaluate": {"classifier": "rule"}}}, "spec.stages.evaluate.classifier"),
    ],
)
def test_what_it_has_not_is_refused_with_the_field(pipeline, spec, sentence):
    if "judge" in spec:
        spec = {"judge": {"self": True, "url": None, "model": None, "apiKeySecret": None}}
    with pytest.raises(EngineError) as caught:
        node_keys(pipeline(**spec).spec, {})
    assert sentence in str(caught.value)


def test_nvidias_endpoint_wants_a_key(pipeline):
    with pytest.raises(EngineError, match=r"spec\.judge\.apiKeySecret"):
        node_keys(pipeline(judge=None).spec, {})
    panel = [{"url": "https://one/v1", "model": "a"}, {"url": NVIDIA, "model": "b"}]
    with pytest.raises(EngineError, match=r"spec\.judge\.panel\[1\]\.apiKeySecret: NVIDIA's endpoint wants a key"):
        node_keys(pipeline(judge={**ALONE, "panel": panel}).spec, {})


def test_for_clusters_only(pipeline):
    spec = pipeline().spec
    assert engine_of(spec).parameters(spec, "sft")["seed"] == 1234
    with pytest.raises(EngineError, match="apply it to a cluster"):
        require_local(spec)


@pytest.mark.parametrize(
    ("spec", "changed"),
    [
        ({"stages": {"sft": {"nodes": 2, "overrides": {"model.tensor_model_parallel_size": 4}}}}, set()),
        ({"stages": {"sft": {"overrides": {"model.data.train_ds.micro_batch_size": 2}}}}, set()),
        ({"stages": {"ppo": {"critic": {"port": 9}}, "serve": {"replicas": 2}}}, set()),
        ({"stages": {"slData": {"server": {"gpus": 4, "replicas": 4}}}}, set()),
        # greedy answers do not depend on the other rows of a request, sampled ones of Megatron's server do
        ({"stages": {"slData": {"batchSize": 64}}}, set()),
        ({"stages": {"rlData": {"batchSize": 64}}}, {"rlData", "rewardModel", "ppo", "evaluateRlCai", "serve"}),
        ({"stages": {"serve": {"overrides": {"megatron_amp_O2": True}}}}, {"serve"}),
        ({"stages": {"ppo": {"critic": {"overrides": {"model.optim.lr": 1e-7}}}}}, {"ppo", "evaluateRlCai", "serve"}),
        (
            {"stages": {"rewardModel": {"overrides": {"model.optim.lr": 1e-5}}}},
            {"rewardModel", "ppo", "evaluateRlCai", "serve"},
        ),
    ],
)
def test_what_shapes_a_result_is_in_its_key(pipeline, spec, changed):
    before, _ = node_keys(pipeline().spec, {})
    after, _ = node_keys(pipeline(**spec).spec, {})
    assert {name for name in before if before[name] != after[name]} - {"report"} == changed
