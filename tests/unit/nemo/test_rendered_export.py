"""The trained model in Hugging Face format too: what is rendered where it is asked for, and what is refused."""

from __future__ import annotations

import pytest
from tests.unit.nemo.conftest import LLAMA

from cai_operator.engines import options
from cai_operator.plan import node_keys
from cai_operator.stages import active
from cai_operator.validation import InvalidResource

EXPORT = {"exportHuggingFace": True}
READY = {"base": {"path": "m/base.nemo"}}


def parts(workload):
    """The wrapper's namespace, and each command it runs."""
    head, *commands = " ".join(workload.command).split(" -- ")
    return options.parses("nemo_run", head.split()[3:]), [command.split() for command in commands]


def test_nothing_is_converted_unless_asked_for(render):
    found = render()
    for node in ("sft", "rewardModel", "ppo"):
        told, commands = parts(found[node])
        assert (told.export_from, len(commands)) == (None, 1)


@pytest.mark.parametrize("node", ["sft", "ppo"])
def test_mistrals_converter_writes_a_whole_directory(render, node):
    found = render(stages={node: EXPORT})
    told, commands = parts(found[node])
    partial = f"/artifacts/tiny/{node}/{found[node].key}.partial"
    assert str(told.export_from) == f"/artifacts/tiny/models/{found['models'].key}/base"
    assert told.export_from.parent in told.input  # checked against its manifest like all that is read
    assert commands[1] == [
        *("python", "/opt/NeMo/scripts/checkpoint_converters/convert_mistral_7b_nemo_to_hf.py"),
        *("--input_name_or_path", f"{partial}/model.nemo", "--output_path", f"{partial}/export"),
        *("--hf_model_name", f"{partial}/export"),
    ]
    assert all(len(parts(found[other])[1]) == 1 for other in {"sft", "rewardModel", "ppo"} - {node})


def test_llamas_converter_writes_the_weights_alone(render):
    models = {**LLAMA, "assistant": LLAMA["base"]}
    found = render(models=models, stages={"ppo": EXPORT, "models": {"overrides": {"precision": "bf16"}}})
    partial = f"/artifacts/tiny/ppo/{found['ppo'].key}.partial"
    assert parts(found["ppo"])[1][1] == [
        *("python", "/opt/NeMo/scripts/checkpoint_converters/convert_llama_nemo_to_hf.py"),
        *("--input_name_or_path", f"{partial}/model.nemo", "--output_path", f"{partial}/export/pytorch_model.bin"),
        *("--cpu-only", "--precision", "bf16"),
    ]


@pytest.mark.parametrize(
    ("stages", "changed"),
    [
        ({"sft": {"exportHuggingFace": False}}, set()),
        ({"ppo": EXPORT}, {"ppo", "evaluateRlCai", "serve"}),
        (
            {"sft": EXPORT},
            {"sft", "rlData", "rewardModel", "ppo", "evaluateSlCai", "evaluateRlCai", "serve"},
        ),
    ],
)
def test_it_is_part_of_the_artifact_and_so_of_the_key(pipeline, stages, changed):
    before, _ = node_keys(pipeline().spec, {})
    after, _ = node_keys(pipeline(stages=stages).spec, {})
    assert {name for name in before if before[name] != after[name]} - {"report"} == changed


def test_the_actor_reads_the_base_models_configuration_only_then(pipeline):
    assert "models" not in active(pipeline().spec)["ppo"].inputs
    assert "models" in active(pipeline(stages={"ppo": EXPORT}).spec)["ppo"].inputs


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"models": READY, "stages": {"ppo": EXPORT}},
            "ppo.exportHuggingFace: found true, with a base model that is a ready",
        ),
        (
            {"models": READY, "stages": {"sft": EXPORT}},
            "sft.exportHuggingFace: found true, with a base model that is a ready",
        ),
        ({"engine": "hf", "stages": {"sft": EXPORT}}, "sft.exportHuggingFace: found true, with engine hf"),
        ({"stages": {"ppo": {"enabled": False, **EXPORT}}}, "ppo.exportHuggingFace: found true, while ppo is off"),
    ],
)
def test_refused_with_the_field(pipeline, spec, sentence):
    with pytest.raises(InvalidResource) as caught:
        pipeline(**spec)
    assert f"spec.stages.{sentence}" in str(caught.value)
