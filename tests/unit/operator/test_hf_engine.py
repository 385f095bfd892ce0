"""Every command the hf engine writes is one its program takes, with the paths, secrets and resources it should have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cai_operator.engines import hf_options, options
from cai_operator.validation import parse_pipeline

EXAMPLES = Path(__file__).parents[3] / "examples"
HUB = {"models": {"base": {"huggingFace": {"repo": "org/base"}}, "assistant": {"path": "models/chat"}}}
PANEL = [
    {"url": "https://one/v1", "model": "a", "apiKeySecret": {"name": "first", "key": "api-key"}},
    {"url": "https://two/v1", "model": "b"},
    {"url": "https://three/v1", "model": "c", "apiKeySecret": {"name": "third", "key": "api-key"}},
]
GENERATORS = {
    "slData": {
        "critique": False,
        "principleWeights": {"stealth": 0, "-odd name": 2.5},
        "removeDuplicates": "near",
        "blendRatio": 0.5,
        "validationShare": 0.25,
        "maxRejected": 0,
    },
    "rlData": {
        "judging": {
            "mode": "principle",
            "chainOfThought": True,
            "comparisonsPerPrompt": 3,
            "concurrency": 64,
            "rate": 2.5,
        },
        "maxRejected": 0.5,
    },
}
NO_BASE = {"models": {"base": {"pocket": None, "huggingFace": {"repo": "org/base"}}}}


def arguments(workload):
    """The namespace its program makes of a workload's command."""
    place = max(index for index, part in enumerate(workload.command) if part == "-m")
    program = workload.command[place + 1].removeprefix("cai_jobs.")
    return options.parses(program, workload.command[place + 2 :])


def by_name(run):
    """Every workload a whole run asked for: jobs by node, servers by node and role."""
    found = {}
    for workload in run.workloads.values():
        role = "" if workload.kind == "job" else "." + workload.command[2].removeprefix("cai_jobs.")
        found[workload.node + role] = workload
    return found


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"judge": {"self": True}},
        {"judge": {"model": "m", "url": "https://host/v1/chat/completions", "apiKeySecret": {"name": "s", "key": "k"}}},
        NO_BASE,
        {**NO_BASE, "judge": {"pocket": {}}, "gpusPerNode": 2, "stages": {"sft": {"nodes": 3}}},
        {"stages": {"slData": {"maxSeqLength": 64}, "rlData": {"maxSeqLength": 64}, "datasets": {"heldOut": 5}}},
        {"stages": {"ppo": {"enabled": False}}},
        {"stages": GENERATORS},
        {**NO_BASE, "judge": {"panel": PANEL}, "stages": {"rlData": {"judging": {"mode": "principle"}}}},
    ],
)
def test_every_command_parses(executor, pipeline, spec):
    run = executor(pipeline(spec))
    run.run()
    for workload in run.workloads.values():
        arguments(workload)
        assert workload.command[0] == "python"
    assert len(run.workloads) > 10


@pytest.mark.parametrize("name", ["pocket", "one-gpu"])
def test_examples_run_to_the_end(executor, name):
    run = executor(parse_pipeline(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())))
    assert run.run().phase == "Succeeded"
    for workload in run.workloads.values():
        arguments(workload)


def test_the_tutorial_example_is_valid():
    spec = parse_pipeline(yaml.safe_load((EXAMPLES / "mistral-7b.yaml").read_text())).spec
    assert spec.engine == "nemo"
    assert spec.default_gpus == 8


def test_stages_read_what_earlier_ones_wrote(executor, pipeline):
    run = executor(pipeline())
    run.run()
    found = by_name(run)

    def base(node):
        return f"/artifacts/tiny/{node}/{found[node].key}"

    sl_data = arguments(found["slData"])
    assert str(sl_data.red_teaming_prompts_dataset_path) == f"{base('datasets')}/red_team_train.jsonl"
    assert str(sl_data.helpfulness_dataset_path) == f"{base('datasets')}/helpfulness.jsonl"
    assert (sl_data.host, sl_data.port) == (found["slData.serve"].name, 5999)
    assert str(arguments(found["slData.serve"]).model) == f"{base('models')}/base"
    sft = arguments(found["sft"])
    assert str(sft.train_file) == f"{base('slData')}/{sl_data.output_filepath}"
    assert str(sft.validation_file) == f"{base('slData')}/{sl_data.validation_output_filepath}"
    assert str(arguments(found["rlData.serve"]).model) == f"{base('sft')}/model"
    rl_data = arguments(found["rlData"])
    assert rl_data.ngc_url == f"http://{found['rlData.pocket_judge'].name}:5998/v1/chat/completions"
    rm = arguments(found["rewardModel"])
    assert rm.train_comparisons.name == "blend_preference_with_cai_rlaif_train_comparisons_with_chat_prompt.jsonl"
    assert str(rm.train_comparisons.parent) == base("rlData")
    ppo, critic = arguments(found["ppo"]), arguments(found["ppo.serve_critic"])
    assert (ppo.critic_host, ppo.critic_port) == (found["ppo.serve_critic"].name, 5567)
    assert str(critic.reward_model) == f"{base('rewardModel')}/model"
    assert str(critic.checkpoint_dir) == f"{base('ppo')}.partial/{ppo.checkpoint_dir}/critic"
    assert not ppo.checkpoint_dir.is_absolute()
    rl_cai = arguments(found["evaluateRlCai"])
    assert str(rl_cai.baseline) == f"{base('evaluateBase')}/transcripts.jsonl"
    assert (rl_cai.model_name, rl_cai.classifier) == ("rlCai", "rule")
    assert arguments(found["evaluateBase"]).baseline is None
    report = arguments(found["report"])
    assert json.loads(report.inputs)["ppo"] == base("ppo")
    assert set(json.loads(report.inputs)) == {
        *("models", "datasets", "slData", "sft", "rlData", "rewardModel", "ppo"),
        *("evaluateBase", "evaluateSlCai", "evaluateRlCai"),
    }


def test_the_header_names_stage_key_parameters_and_inputs(executor, pipeline):
    run = executor(pipeline())
    run.run()
    found = by_name(run)
    header = json.loads(arguments(found["sft"]).artifact_header)
    assert header["stage"] == "sft"
    assert header["key"] == found["sft"].key
    assert header["inputs"] == {"models": found["models"].key, "slData": found["slData"].key}
    assert header["parameters"]["options"]["seed"] == 1234
    assert str(arguments(found["sft"]).artifact_dir) == f"/artifacts/{found['sft'].artifact}"


def test_texts_are_laid_where_the_command_looks(executor, pipeline):
    run = executor(
        pipeline(
            {
                "constitution": {"configMap": {"name": "mine"}},
                "datasets": {"redTeam": {"configMap": {"name": "prompts", "key": "rows"}}},
            }
        ),
        texts={"configMap/mine": {"judge_system_prompt.txt": "Be kind."}, "configMap/prompts": {"rows": "{}\n"}},
    )
    run.run()
    found = by_name(run)
    sl_data, rl_data, datasets = found["slData"], found["rlData"], found["datasets"]
    assert rl_data.texts == {"judge_system_prompt.txt": "Be kind."}
    where = arguments(rl_data).sys_prompt_constitution_file_path
    assert str(where) == f"/texts/{rl_data.name}/judge_system_prompt.txt"
    assert set(sl_data.texts) == {"critique_revision_instructions.json", "few_shot_samples.json"}
    assert json.loads(arguments(datasets).red_team) == {"path": f"/texts/{datasets.name}/red_team.jsonl"}
    assert datasets.texts == {"red_team.jsonl": "{}\n"}


def test_secrets_are_never_in_a_command(executor, pipeline):
    secret = {"name": "ngc", "key": "api-key"}
    run = executor(
        pipeline(
            {
                **NO_BASE,
                "judge": {"url": "https://host/v1/chat/completions", "model": "m", "apiKeySecret": secret},
                "hubTokenSecret": {"name": "hub", "key": "token"},
            }
        )
    )
    run.run()
    holders = {node: set(workload.secrets) for node, workload in by_name(run).items() if workload.secrets}
    assert holders == {
        **{node: {"HF_TOKEN"} for node in ("models", "datasets")},
        **{node: {"NGC_API_KEY"} for node in ("rlData", "evaluateBase", "evaluateSlCai", "evaluateRlCai")},
    }
    assert not any("api-key" in part for workload in run.workloads.values() for part in workload.command)


def test_the_generators_options_reach_their_programs(executor, pipeline):
    run = executor(pipeline({"stages": GENERATORS}))
    run.run()
    sl_data, rl_data = (arguments(by_name(run)[node]) for node in ("slData", "rlData"))
    assert sl_data.critique is False
    assert json.loads(sl_data.principle_weights) == {"stealth": 0, "-odd name": 2.5}
    assert (sl_data.remove_duplicates, sl_data.blend_ratio) == ("near", 0.5)
    assert (sl_data.validation_split, sl_data.max_rejected) == (0.25, 0)
    assert (rl_data.judge_mode, rl_data.judge_chain_of_thought) == ("principle", True)
    assert (rl_data.comparisons_per_prompt, rl_data.judge_concurrency, rl_data.judge_rate) == (3, 64, 2.5)
    assert rl_data.max_rejected == 0.5
    every = executor(pipeline({"stages": {"rlData": {"judging": {"mode": "principle", "comparisonsPerPrompt": -1}}}}))
    every.run()
    assert arguments(by_name(every)["rlData"]).comparisons_per_prompt is None


def test_what_is_left_out_is_the_programs_own_default(executor, pipeline):
    run = executor(pipeline())
    run.run()
    for node in ("slData", "rlData"):
        workload = by_name(run)[node]
        given = vars(arguments(workload))
        program = hf_options.PROGRAMS[node]
        required = ["--red-teaming-prompts-dataset-path" if node == "slData" else "--red-teaming-file-path", "x"]
        defaults = vars(options.parses(program, required))
        for name in hf_options.OWNED[program]:
            is_a_field = hf_options.OWNED[program][name].startswith("the field spec.stages")
            if is_a_field and name not in ("batch_size", "validation_split", "splits"):
                assert given[name] == defaults[name], name


def test_a_judge_that_goes_by_principles_is_given_them_and_no_system_prompt(executor, pipeline):
    spec = {
        "constitution": {"configMap": {"name": "mine"}},
        "stages": {"rlData": {"judging": {"mode": "principle"}}},
    }
    run = executor(pipeline(spec), texts={"configMap/mine": {"comparison_principles.json": "[]"}})
    run.run()
    rl_data, report = by_name(run)["rlData"], by_name(run)["report"]
    assert rl_data.texts == {"comparison_principles.json": "[]"}
    where = f"/texts/{rl_data.name}/comparison_principles.json"
    assert str(arguments(rl_data).comparison_principles_path) == where
    assert not any(part.startswith("--sys-prompt") for part in rl_data.command)
    assert set(report.texts) == {"critique_revision_instructions.json", "comparison_principles.json"}
    assert arguments(report).comparison_principles.name == "comparison_principles.json"


def test_a_panel_votes_with_keys_from_secrets_and_its_first_judge_labels(executor, pipeline):
    run = executor(pipeline({**NO_BASE, "judge": {"panel": PANEL}}))
    run.run()
    found = by_name(run)
    assert json.loads(arguments(found["rlData"]).judge_endpoints) == [
        {"url": "https://one/v1", "model": "a", "key_variable": "JUDGE_API_KEY_1"},
        {"url": "https://two/v1", "model": "b"},
        {"url": "https://three/v1", "model": "c", "key_variable": "JUDGE_API_KEY_3"},
    ]
    secrets = {variable: (secret.name, secret.key) for variable, secret in found["rlData"].secrets.items()}
    assert secrets == {"JUDGE_API_KEY_1": ("first", "api-key"), "JUDGE_API_KEY_3": ("third", "api-key")}
    evaluate = found["evaluateRlCai"]
    assert (arguments(evaluate).judge_url, arguments(evaluate).judge_model) == ("https://one/v1", "a")
    assert {variable: secret.name for variable, secret in evaluate.secrets.items()} == {"NGC_API_KEY": "first"}
    assert not any("api-key" in part for workload in run.workloads.values() for part in workload.command)


REPLICAS = {"stages": {"slData": {"server": {"replicas": 3, "port": 6001}}, "evaluate": {"server": {"replicas": 2}}}}


def test_replicas_behind_one_name_are_looked_up_by_it(executor, pipeline):
    run = executor(pipeline(REPLICAS))
    run.run()
    found = by_name(run)
    assert (found["slData.serve"].replicas, found["slData.serve"].headless) == (3, True)
    assert (arguments(found["slData"]).host, arguments(found["slData"]).port) == (found["slData.serve"].name, 6001)
    assert found["rlData.serve"].headless
    headless = {workload.command[2] for workload in run.workloads.values() if workload.headless}
    assert headless == {"cai_jobs.serve"}
    assert not found["serve.serve"].headless


def test_replicas_apart_are_servers_of_their_own_and_their_client_knows_all(executor, pipeline):
    run = executor(pipeline(REPLICAS), replicas_apart=True)
    assert run.run().phase == "Succeeded"
    assert run.problems == []
    by_node = {}
    for workload in run.workloads.values():
        if workload.kind == "server" and workload.command[2] == "cai_jobs.serve":
            by_node.setdefault(workload.node, []).append(workload)
    assert {node: len(servers) for node, servers in by_node.items()} == {
        **{"slData": 3, "rlData": 1, "serve": 1},
        **{"evaluateBase": 2, "evaluateSlCai": 2, "evaluateRlCai": 2},
    }
    assert all(server.replicas == 1 for servers in by_node.values() for server in servers)
    names = [server.name for server in by_node["slData"]]
    assert arguments(by_name(run)["slData"]).host == ",".join(f"{name}:6001" for name in names)
    assert len({server.key for server in by_node["slData"]}) == 1
    assert not run.servers.keys() & set(names)  # they go when their job is done


def test_a_hub_assistant_is_asked_in_its_own_template_and_pocket_in_ours(executor, pipeline):
    own = executor(pipeline())
    own.run()
    assert arguments(by_name(own)["slData"]).apply_chat_template is True
    assert arguments(by_name(own)["slData"]).eos_token == "<extra_id_1>"
    hub = executor(
        pipeline(
            {
                **NO_BASE,
                "models": {
                    "base": {"pocket": None, "huggingFace": {"repo": "org/base"}},
                    "assistant": {"path": "chat"},
                },
            }
        )
    )
    hub.run()
    found = by_name(hub)
    assert arguments(found["slData"]).apply_chat_template is False
    assert str(arguments(found["slData.serve"]).model).endswith("/assistant")
    assert json.loads(arguments(found["models"]).assistant) == {"path": "chat"}
    assert json.loads(arguments(found["datasets"]).red_team) == {
        "huggingFace": {"repo": "Anthropic/hh-rlhf", "dataDirs": ["red-team-attempts"]}
    }


def test_one_judge_for_all_models_where_the_model_judges_itself(executor, pipeline):
    run = executor(pipeline({**NO_BASE, "judge": {"self": True}}))
    run.run()
    found = by_name(run)
    assert arguments(found["rlData"]).judge == "self"
    judges = [w for w in run.workloads.values() if w.node.startswith("evaluate") and "-judge-" in w.name]
    assert len(judges) == 3
    assert len({str(arguments(judge).model) for judge in judges}) == 1
    evaluate = arguments(found["evaluateRlCai"])
    assert evaluate.classifier == "judge"
    assert evaluate.judge_model == arguments(judges[0]).served_model_name


def test_threads_resources_and_launcher(executor, pipeline):
    run = executor(
        pipeline(
            {
                "gpusPerNode": 2,
                "stages": {
                    "sft": {"nodes": 3, "resources": {"cpu": 4}, "deadline": "1d12h", "retries": 1, "image": "mine:1"},
                    "rlData": {"resources": {"cpu": "2500m"}, "server": {"gpus": 0, "replicas": 2}},
                },
            }
        )
    )
    run.run()
    found = by_name(run)
    sft = found["sft"]
    assert (sft.nodes, sft.resources.gpus, sft.resources.cpu, sft.resources.memory) == (3, 2, "4", "64Gi")
    assert (sft.deadline_s, sft.retries, sft.image) == (129600, 1, "mine:1")
    assert sft.command[:6] == ("python", "-m", "cai_jobs.launch", "--nodes=3", "--processes=2", "-m")
    assert sft.environment == {}
    assert found["rewardModel"].command[2:6] == ("cai_jobs.launch", "--nodes=1", "--processes=2", "-m")
    assert found["rlData"].resources.gpus == 0
    assert found["rlData"].environment == {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    assert found["rlData.serve"].replicas == 2
    assert found["rlData.serve"].environment["OMP_WAIT_POLICY"] == "passive"
    assert found["slData.serve"].resources.gpus == 2
    assert found["ppo.serve_critic"].command[2] == "cai_jobs.serve_critic"


def test_servers_have_probes_and_listen_where_they_are_reached(executor, pipeline):
    run = executor(pipeline({"stages": {"slData": {"server": {"port": 6001}}, "ppo": {"critic": {"port": 6002}}}}))
    run.run()
    found = by_name(run)
    assert (
        arguments(found["slData.serve"]).port
        == arguments(found["slData"]).port
        == found["slData.serve"].probe.port
        == 6001
    )
    assert found["slData.serve"].probe.path == "/health/ready"
    assert arguments(found["ppo.serve_critic"]).port == arguments(found["ppo"]).critic_port == 6002
    assert found["ppo.serve_critic"].probe.path == "/v2/health/ready"
    assert arguments(found["serve.serve"]).port == 1427
    assert arguments(found["serve.serve"]).served_model_name == "tiny"


def test_overrides_reach_their_programs_and_win(executor, pipeline):
    run = executor(
        pipeline(
            {
                "stages": {
                    "slData": {"overrides": {"tokens-to-generate": 32, "end_strings": ["</s>", "##"]}},
                    "sft": {"overrides": {"learning_rate": "1e-4"}},
                    "ppo": {"critic": {"overrides": {"learning-rate": 1e-3}}},
                    "rlData": {"server": {"overrides": {"max-batch-size": 7}}},
                }
            }
        )
    )
    run.run()
    found = by_name(run)
    assert arguments(found["slData"]).tokens_to_generate == 32
    assert arguments(found["slData"]).end_strings == ["</s>", "##"]
    assert arguments(found["sft"]).learning_rate == 1e-4
    assert arguments(found["ppo.serve_critic"]).learning_rate == 1e-3
    assert arguments(found["rlData.serve"]).max_batch_size == 7


def test_owned_options_exist():
    for program, owned in hf_options.OWNED.items():
        known = {action.dest for action in options.program_parser(program)._actions}
        strange = set(owned) - known - {"output_dir", "artifact_dir", "artifact_header"}
        assert not strange, f"{program} has no {strange}"
