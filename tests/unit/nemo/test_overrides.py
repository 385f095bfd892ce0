"""Hydra overrides of the manifest: what they may say, what they may not touch, and what Hydra makes of them."""

from __future__ import annotations

import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cai_operator.engines import nemo_hydra
from cai_operator.engines.nemo_settings import ACTOR, CRITIC, REWARD_MODEL, SERVER, SFT
from cai_operator.validation import InvalidResource

PARSER = OverridesParser.create()


def problem(pipeline, **stages):
    with pytest.raises(InvalidResource) as caught:
        pipeline(stages=stages)
    [found] = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("stages", "where", "found", "allowed"),
    [
        (
            {"sft": {"overrides": {"trainer.devices": 4}}},
            "sft.overrides.trainer.devices",
            "a setting the operator makes itself",
            "the field gpusPerNode",
        ),
        (
            {"ppo": {"overrides": {"++trainer.num_nodes": 4}}},
            "ppo.overrides.++trainer.num_nodes",
            "a setting the operator makes itself",
            "the field nodes",
        ),
        (
            {"rewardModel": {"overrides": {"exp_manager.explicit_log_dir": "/x"}}},
            "rewardModel.overrides.exp_manager.explicit_log_dir",
            "a setting the operator makes itself",
            "nothing: the operator passes its own paths",
        ),
        (
            {"ppo": {"overrides": {"remote_critic_rm.critic.ip": "h"}}},
            "ppo.overrides.remote_critic_rm.critic.ip",
            "a setting the operator makes itself",
            "spec.stages.ppo.critic.port; hosts are the operator's",
        ),
        (
            {"ppo": {"critic": {"overrides": {"trainer.ppo.port": 9}}}},
            "ppo.critic.overrides.trainer.ppo.port",
            "a setting the operator makes itself",
            "the field port; hosts are the operator's",
        ),
        (
            {"slData": {"server": {"overrides": {"gpt_model_file": "x"}}}},
            "slData.server.overrides.gpt_model_file",
            "a setting the operator makes itself",
            "nothing: the operator passes its own paths",
        ),
        (
            {"serve": {"overrides": {"hydra.run.dir": "x"}}},
            "serve.overrides.hydra.run.dir",
            "a setting the operator makes itself",
            "nothing: where Hydra writes is the operator's",
        ),
        (
            {"sft": {"overrides": {"~model.optim.sched": "x"}}},
            "sft.overrides.~model.optim.sched",
            "a deletion",
            "a key with a value: ++KEY=null says that there is none",
        ),
        (
            {"sft": {"overrides": {"model optim": 1}}},
            "sft.overrides.model optim",
            "no Hydra key",
            "a dotted name such as model.optim.lr, with ++ before it where the program's config file lacks it",
        ),
        (
            {"sft": {"overrides": {"model.optim.lr": 1, "++model.optim.lr": 2}}},
            "sft.overrides.++model.optim.lr",
            "the same key as model.optim.lr",
            "each key once",
        ),
        (
            {"sft": {"overrides": {"model.data": "x"}}},
            "sft.overrides.model.data",
            "a block, of which model.data.num_workers is set",
            "the block's keys one by one",
        ),
        (
            {"sft": {"overrides": {"model.optim.lr.start": 1}}},
            "sft.overrides.model.optim.lr.start",
            "a key below model.optim.lr, which is a value",
            "model.optim.lr itself",
        ),
        (
            {"sft": {"overrides": {"model.name": "a\nb"}}},
            "sft.overrides.model.name",
            '"a\\nb"',
            "text without line breaks or other control characters",
        ),
        (
            {"sft": {"overrides": {"model.name": "???"}}},
            "sft.overrides.model.name",
            '"???"',
            "a value: ??? is how Hydra writes that one is missing",
        ),
        (
            {"sft": {"overrides": {"model.name": "${oc.env:HF_TOKEN}"}}},
            "sft.overrides.model.name",
            '"${oc.env:HF_TOKEN}"',
            "a value, or another setting's as ${model.encoder_seq_length}",
        ),
        (
            {"slData": {"overrides": {"port": 4}}},
            "slData.overrides.port",
            "an option the operator sets itself",
            "the stage's server.port; hosts are the operator's",
        ),
        (
            {"models": {"overrides": {"converter": "gemma"}}},
            "models.overrides.converter",
            '"gemma"',
            "one of mistral, llama",
        ),
        (
            {"models": {"overrides": {"in-file": "x"}}},
            "models.overrides.in-file",
            "no such option",
            "one of converter, precision, llama31",
        ),
    ],
)
def test_what_an_override_may_not_say(pipeline, stages, where, found, allowed):
    complaint = problem(pipeline, **stages)
    assert (complaint.path, complaint.found, complaint.allowed) == (f"spec.stages.{where}", found, allowed)


def test_a_stage_that_is_off_is_not_complained_of(pipeline):
    off = {"enabled": False, "overrides": {"trainer.devices": 4}}
    needs_it = {name: {"enabled": False} for name in ("ppo",)}
    assert pipeline(stages={**needs_it, "rewardModel": off, "rlData": {"enabled": False}})


def test_every_owned_key_is_told_what_to_do_instead():
    for program in (SFT, REWARD_MODEL, CRITIC, ACTOR, SERVER):
        for key, sentence in program.owned.items():
            assert nemo_hydra.bare(key) == key
            assert sentence
            [found] = nemo_hydra.check({f"++{key}": 1}, program.tutorial, program.owned)
            assert found.allowed == sentence
        assert not {nemo_hydra.bare(key) for key in program.tutorial} & set(program.owned)


def test_overrides_are_spelled_as_the_program_needs_them():
    ours = {"model.a": 1, "++model.b": 2}
    assert nemo_hydra.merged(ours, {"++model.a": 3, "model.b": 4, "++model.c": 5}) == {
        "model.a": 3,
        "++model.b": 4,
        "++model.c": 5,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-6, "1e-6"),
        (9e-9, "9e-9"),
        (0.02, "0.02"),
        (True, "True"),
        (512, "512"),
        ("full", "full"),
        ("null", "null"),
        ("<extra_id_0>", "'<extra_id_0>'"),
        ([1, "a b"], "[1,'a b']"),
        ({"train": ["/a/b.jsonl"]}, "{train:[/a/b.jsonl]}"),
    ],
)
def test_values_are_written_as_people_write_them(value, text):
    assert nemo_hydra.text_of(value) == text


def test_no_text_turns_into_grammar():
    rng = random.Random(7)
    letters = "ab '\"\\,:=[]{}()$#~!&|<>;*?%-+./\u00e9"
    for _ in range(3000):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(1, 9)))
        if not any(letter.isalpha() for letter in text):
            continue
        override = PARSER.parse_override(f"key={nemo_hydra.text_of(text)}")
        assert str(override.value()) == text, (text, override.value())
        assert override.is_add() is override.is_delete() is False
        assert not override.is_sweep_override()
