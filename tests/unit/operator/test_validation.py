"""Every mistake in a manifest is told with its place, what was found and what is allowed."""

from __future__ import annotations

import pytest

from cai_operator.api_base import APP_ARMOR_ANNOTATION
from cai_operator.validation import InvalidResource, parse_pipeline, parse_served


def problems(document):
    with pytest.raises(InvalidResource) as caught:
        parse_pipeline(document)
    assert len({problem.path for problem in caught.value.problems}) == len(caught.value.problems)
    return {problem.path: (problem.found, problem.allowed) for problem in caught.value.problems}


STAGES = "spec.stages"
SMALL = "lower case letters, digits, '-' and '.', with a letter or digit first and last"


@pytest.mark.parametrize(
    ("spec", "path", "found", "allowed"),
    [
        # unknown fields
        ({"stage": {}}, "spec.stage", "an unknown field", "did you mean stages?"),
        ({"stages": {"sl_data": {}}}, f"{STAGES}.sl_data", "an unknown field", "did you mean slData?"),
        ({"stages": {"sft": {"node": 2}}}, f"{STAGES}.sft.node", "an unknown field", "did you mean nodes?"),
        (
            {"judge": {"xyzzy": 1}},
            "spec.judge.xyzzy",
            "an unknown field",
            "one of url, model, apiKeySecret, self, pocket, panel",
        ),
        (
            {"stages": {"slData": {"num_examples": 3}}},
            f"{STAGES}.slData.num_examples",
            "an unknown field",
            "did you mean numExamples?",
        ),
        # what would loosen a pod
        (
            {"template": {"annotations": {APP_ARMOR_ANNOTATION: "unconfined"}}},
            "spec.template.annotations",
            APP_ARMOR_ANNOTATION,
            "others: pods keep the runtime's profile",
        ),
        # wrong types and values
        ({"engine": "jax"}, "spec.engine", '"jax"', "one of nemo, hf"),
        ({"stages": {"sft": {"nodes": "two"}}}, f"{STAGES}.sft.nodes", '"two"', "a whole number"),
        ({"stages": {"sft": {"nodes": 0}}}, f"{STAGES}.sft.nodes", "0", "at least 1"),
        ({"stages": {"sft": {"nodes": True}}}, f"{STAGES}.sft.nodes", "true", "a whole number"),
        ({"stages": {"sft": {"enabled": "yes"}}}, f"{STAGES}.sft.enabled", '"yes"', "true or false"),
        ({"stages": {"sft": []}}, f"{STAGES}.sft", "[]", "a mapping of fields"),
        (
            {"stages": {"sft": {"deadline": "soon"}}},
            f"{STAGES}.sft.deadline",
            '"soon"',
            "a duration such as 90m, 12h or 1d6h",
        ),
        (
            {"stages": {"sft": {"resources": {"memory": "9 GB"}}}},
            f"{STAGES}.sft.resources.memory",
            '"9 GB"',
            "a quantity such as 2, 500m, 16Gi or 2Ti",
        ),
        ({"stages": {"slData": {"batchSize": 129}}}, f"{STAGES}.slData.batchSize", "129", "at most 128"),
        ({"stages": {"serve": {"port": 70000}}}, f"{STAGES}.serve.port", "70000", "at most 65535"),
        (
            {"stages": {"evaluate": {"gates": {"maxHarmfulRate": 20}}}},
            f"{STAGES}.evaluate.gates.maxHarmfulRate",
            "20",
            "at most 1",
        ),
        ({"stages": {"rlData": {"temperatures": [1.0]}}}, f"{STAGES}.rlData.temperatures", "[1.0]", "at least 2 items"),
        (
            {"stages": {"rlData": {"temperatures": [0.5, "1e-1"]}}},
            f"{STAGES}.rlData.temperatures[1]",
            '"1e-1"',
            "a number (a YAML number with an exponent needs a point: 1.0e-6)",
        ),
        (
            {"judge": {"url": "host/v1", "model": "m"}},
            "spec.judge.url",
            '"host/v1"',
            "an address that begins with http:// or https://",
        ),
        ({"hubTokenSecret": {"name": "Upper", "key": "k"}}, "spec.hubTokenSecret.name", '"Upper"', SMALL),
        (
            {"hubTokenSecret": {"name": "a"}},
            "spec.hubTokenSecret.key",
            "nothing",
            "it must be given: The key whose value is taken.",
        ),
        (
            {"stages": {"sft": {"overrides": {"epochs": {"a": 1}}}}},
            f"{STAGES}.sft.overrides.epochs",
            '{"a": 1}',
            "text, a number, true or false, or a list of them",
        ),
        # contradictions
        (
            {"models": {"base": {"pocket": None}}},
            "spec.models.base",
            "an empty mapping",
            "exactly one of huggingFace, path, pocket",
        ),
        (
            {"models": {"base": {"path": "x"}}},
            "spec.models.base",
            "path and pocket",
            "exactly one of huggingFace, path, pocket",
        ),
        (
            {"datasets": {"redTeam": {}}},
            "spec.datasets.redTeam",
            "an empty mapping",
            "exactly one of huggingFace, path, configMap, pocket",
        ),
        (
            {"constitution": {"path": "x", "configMap": {"name": "y"}}},
            "spec.constitution",
            "configMap and path",
            "exactly one of configMap, path",
        ),
        (
            {"storage": {"claimName": "c", "size": "1Gi"}},
            "spec.storage.size",
            '"1Gi" beside claimName',
            "either claimName or a claim to be made",
        ),
        (
            {"judge": {"self": True, "apiKeySecret": {"name": "a", "key": "b"}}},
            "spec.judge.apiKeySecret",
            "set beside self",
            "nothing: the self judge needs none",
        ),
        (
            {"judge": {"self": True, "pocket": {}}},
            "spec.judge",
            "self and pocket",
            "one of them, or url, model and apiKeySecret",
        ),
        (
            {"judge": {}},
            "spec.judge",
            "an empty mapping",
            "url, model and apiKeySecret; or several of them in panel; or self: true; or pocket: {}",
        ),
        (
            {"judge": {"panel": [{"url": "https://a", "model": "m"}]}},
            "spec.judge.panel",
            '[{"url": "https://a", "model": "m"}]',
            "at least 2 items",
        ),
        (
            {"judge": {"panel": [{"url": "https://a", "model": "m"}, {"url": "b", "model": "m"}]}},
            "spec.judge.panel[1].url",
            '"b"',
            "an address that begins with http:// or https://",
        ),
        (
            {"stages": {"sft": {"template": {"annotations": {"argocd.argoproj.io/tracking-id": "lab:x"}}}}},
            "spec.stages.sft.template.annotations",
            "argocd.argoproj.io/tracking-id",
            "on the pipeline's own metadata: pods are the operator's, not Argo CD's",
        ),
        (
            {"template": {"interconnect": {"devices": [{"resource": "rdma/hca"}] * 2}}},
            "spec.template.interconnect.devices",
            "one resource twice",
            "each resource once, with its whole count",
        ),
        (
            {"stages": {"sft": {"template": {"interconnect": {"devices": [{"resource": "nvidia.com/gpu"}]}}}}},
            "spec.stages.sft.template.interconnect.devices[0].resource",
            "nvidia.com/gpu",
            "other devices: GPUs are asked for by gpusPerNode",
        ),
        (
            {"template": {"interconnect": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}] * 2}}},
            "spec.template.interconnect.env",
            "one variable twice",
            "each variable once",
        ),
        (
            {"template": {"interconnect": {"interface": "a", "env": [{"name": "GLOO_SOCKET_IFNAME", "value": "b"}]}}},
            "spec.template.interconnect.env",
            "GLOO_SOCKET_IFNAME beside interface",
            "either of them",
        ),
        (
            {"template": {"interconnect": {"interface": "^lo"}}},
            "spec.template.interconnect.interface",
            '"^lo"',
            "the name of one network interface, such as eth0",
        ),
        (
            {"judge": {"panel": [{"url": "https://a", "model": "m"}] * 2}},
            "spec.judge.panel",
            "one judge twice",
            "judges that differ in url or model",
        ),
        (
            {
                "judge": {
                    "self": True,
                    "panel": [{"url": "https://a", "model": "m"}, {"url": "https://b", "model": "m"}],
                }
            },
            "spec.judge.panel",
            "set beside self",
            "all judges in panel, or one without it",
        ),
        (
            {"stages": {"rlData": {"judging": {"comparisonsPerPrompt": 3}}}},
            f"{STAGES}.rlData.judging.comparisonsPerPrompt",
            "3 in mode constitution",
            "1, or mode: principle, which compares pairs",
        ),
        (
            {"stages": {"rlData": {"judging": {"mode": "principle", "comparisonsPerPrompt": 0}}}},
            f"{STAGES}.rlData.judging.comparisonsPerPrompt",
            "0",
            "-1 (all) or at least 1",
        ),
        (
            {"stages": {"rlData": {"judging": {"chainOfThought": True}}}},
            f"{STAGES}.rlData.judging.chainOfThought",
            "true in mode constitution",
            "false, or mode: principle",
        ),
        ({"stages": {"rlData": {"judging": {"rate": 0}}}}, f"{STAGES}.rlData.judging.rate", "0", "above 0"),
        ({"stages": {"rlData": {"maxRejected": 5}}}, f"{STAGES}.rlData.maxRejected", "5", "at most 1"),
        (
            {"stages": {"slData": {"removeDuplicates": "all"}}},
            f"{STAGES}.slData.removeDuplicates",
            '"all"',
            "one of none, exact, near",
        ),
        (
            {"stages": {"slData": {"principleWeights": {"stealth": -1}}}},
            f"{STAGES}.slData.principleWeights.stealth",
            "-1",
            "at least 0",
        ),
        ({"stages": {"slData": {"validationShare": 1}}}, f"{STAGES}.slData.validationShare", "1", "below 1"),
        ({"stages": {"slData": {"blendRatio": 0}}}, f"{STAGES}.slData.blendRatio", "0", "above 0"),
        ({"judge": {"url": "https://h"}}, "spec.judge.model", "nothing beside url", "the model's name at that url"),
        (
            {"stages": {"slData": {"nodes": 2}}},
            f"{STAGES}.slData.nodes",
            "2",
            "1: only sft, rewardModel and ppo use several",
        ),
        (
            {"stages": {"ppo": {"enabled": False, "critic": {"port": 9}}}},
            f"{STAGES}.ppo.critic",
            "set while ppo is off",
            "nothing, or enabled: true",
        ),
        (
            {"stages": {"evaluate": {"enabled": False, "gates": {"minHelpfulRate": 0.5}}}},
            f"{STAGES}.evaluate.gates",
            "set while evaluate is off",
            "nothing, or enabled: true",
        ),
        (
            {"stages": {"rewardModel": {"enabled": False}}},
            f"{STAGES}.ppo.enabled",
            "true, while rewardModel is off",
            "false, or rewardModel enabled",
        ),
        (
            {"stages": {"rlData": {"temperatures": [0, 0.5]}}},
            f"{STAGES}.rlData.temperatures[0]",
            "0.0",
            "above 0 and at most 100",
        ),
        (
            {"stages": {"rlData": {"temperatures": [0.5, 200]}}},
            f"{STAGES}.rlData.temperatures[1]",
            "200.0",
            "above 0 and at most 100",
        ),
        (
            {"stages": {"rlData": {"temperatures": [0.5, 0.5]}}},
            f"{STAGES}.rlData.temperatures",
            "[0.5, 0.5]",
            "temperatures that all differ",
        ),
        (
            {"stages": {"rlData": {"splits": {"train": 0.9}}}},
            f"{STAGES}.rlData.splits",
            "train 0.9 and test 0.2, together 1.1",
            "shares that are 1 together",
        ),
        ({"stages": {"slData": {"numExamples": 0}}}, f"{STAGES}.slData.numExamples", "0", "-1 (all) or at least 1"),
        # the engine's own options
        (
            {"stages": {"sft": {"overrides": {"learning-rat": 1}}}},
            f"{STAGES}.sft.overrides.learning-rat",
            "no option of sft",
            "did you mean learning-rate?",
        ),
        (
            {"stages": {"sft": {"overrides": {"learning-rate": "fast"}}}},
            f"{STAGES}.sft.overrides.learning-rate",
            '"fast"',
            "a number",
        ),
        (
            {"stages": {"sft": {"overrides": {"max-steps": 1.5}}}},
            f"{STAGES}.sft.overrides.max-steps",
            "1.5",
            "a whole number",
        ),
        (
            {"stages": {"sft": {"overrides": {"max-steps": True}}}},
            f"{STAGES}.sft.overrides.max-steps",
            "true",
            "a whole number",
        ),
        (
            {"stages": {"sft": {"overrides": {"lr-schedule": "steps"}}}},
            f"{STAGES}.sft.overrides.lr-schedule",
            '"steps"',
            "one of cosine, constant",
        ),
        (
            {"stages": {"sft": {"overrides": {"model": "/x"}}}},
            f"{STAGES}.sft.overrides.model",
            "an option the operator sets itself",
            "nothing: the operator passes its own paths",
        ),
        (
            {"stages": {"sft": {"overrides": {"seed": 1}}}},
            f"{STAGES}.sft.overrides.seed",
            "an option the operator sets itself",
            "the field spec.seed",
        ),
        (
            {"stages": {"sft": {"overrides": {"artifact-dir": "/x"}}}},
            f"{STAGES}.sft.overrides.artifact-dir",
            "an option the operator sets itself",
            "nothing: artifacts, messages and progress are the operator's",
        ),
        (
            {"stages": {"slData": {"overrides": {"num_examples": 3}}}},
            f"{STAGES}.slData.overrides.num_examples",
            "an option the operator sets itself",
            "the field spec.stages.slData.numExamples",
        ),
        (
            {"stages": {"slData": {"overrides": {"validation-split": 0.2}}}},
            f"{STAGES}.slData.overrides.validation-split",
            "an option the operator sets itself",
            "the field spec.stages.slData.validationShare",
        ),
        (
            {"stages": {"rlData": {"overrides": {"judge-concurrency": 3}}}},
            f"{STAGES}.rlData.overrides.judge-concurrency",
            "an option the operator sets itself",
            "the field spec.stages.rlData.judging.concurrency",
        ),
        (
            {"stages": {"slData": {"overrides": {"port": 3}}}},
            f"{STAGES}.slData.overrides.port",
            "an option the operator sets itself",
            "the stage's server.port; hosts are the operator's",
        ),
        (
            {"stages": {"slData": {"overrides": {"greedy": "maybe"}}}},
            f"{STAGES}.slData.overrides.greedy",
            '"maybe"',
            "True or False is wanted, not 'maybe'",
        ),
        (
            {"stages": {"slData": {"overrides": {"end_strings": ["-x"]}}}},
            f"{STAGES}.slData.overrides.end_strings",
            '"-x"',
            "items that do not begin with '-', as options do",
        ),
        (
            {"stages": {"sft": {"overrides": {"epochs": 1, "--epochs": 2}}}},
            f"{STAGES}.sft.overrides.--epochs",
            "the same option as epochs",
            "each option once",
        ),
        (
            {"stages": {"ppo": {"critic": {"overrides": {"lr": 1}}}}},
            f"{STAGES}.ppo.critic.overrides.lr",
            "no option of serve_critic",
            None,
        ),
        (
            {"stages": {"slData": {"server": {"overrides": {"model": "x"}}}}},
            f"{STAGES}.slData.server.overrides.model",
            "an option the operator sets itself",
            "nothing: the operator passes its own paths",
        ),
        (
            {"stages": {"ppo": {"critic": {"nodes": 2}}}},
            f"{STAGES}.ppo.critic.nodes",
            "2",
            "1: the hf critic is one process",
        ),
        (
            {"models": {"base": {"pocket": None, "path": "m.nemo"}}},
            "spec.models.base.path",
            '"m.nemo"',
            "a directory in Hugging Face format: engine hf reads no .nemo file",
        ),
    ],
)
def test_one_mistake(document, spec, path, found, allowed):
    told = problems(document(spec))
    assert list(told) == [path]
    assert told[path][0] == found
    assert allowed is None or told[path][1] == allowed


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"apiVersion": None}, "apiVersion"),
        ({"kind": None}, "kind"),
        ({"kind": "Pipeline"}, "kind"),
        ({"apiVersion": "cai.dev/v2"}, "apiVersion"),
        ({"metadata": None}, "metadata"),
        ({"metadata": {"name": "Bad_Name"}}, "metadata.name"),
        ({"metadata": {"name": "a" * 70}}, "metadata.name"),
        ({"metadata": {"name": None}}, "metadata.name"),
    ],
)
def test_mistakes_outside_the_spec(document, fields, path):
    assert list(problems(document(**fields))) == [path]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"image": "a\0b"}, "spec.image"),
        ({"judge": {"url": "http://j", "model": "--"}}, "spec.judge.model"),
        ({"template": {"labels": {"a\0b": "c"}}}, "spec.template.labels"),
        (
            {"stages": {"slData": {"overrides": {"end_strings": ["a", "\0"]}}}},
            f"{STAGES}.slData.overrides.end_strings[1]",
        ),
    ],
)
def test_text_that_no_command_line_can_hold(document, spec, path):
    """The API server takes it: its schema would have to say so of every text."""
    [(where, (_, allowed))] = problems(document(spec)).items()
    assert (where, allowed) == (
        path,
        "text without null characters that is not -- alone: programs are handed it",
    )


def test_all_problems_are_told_at_once_as_lines(document):
    with pytest.raises(InvalidResource) as caught:
        parse_pipeline(document({"engine": "jax", "seed": "x", "stages": {"sft": {"nodes": 0}}}))
    assert str(caught.value).splitlines() == [
        'spec.engine: found "jax"; allowed: one of nemo, hf',
        'spec.seed: found "x"; allowed: a whole number',
        "spec.stages.sft.nodes: found 0; allowed: at least 1",
    ]


def test_what_the_api_server_adds_is_accepted(document):
    given = document(metadata={"name": "a", "uid": "u", "generation": 4, "creationTimestamp": "t", "managedFields": []})
    pipeline = parse_pipeline({**given, "status": {"phase": "Running", "anything": 1}})
    assert (pipeline.name, pipeline.metadata.generation) == ("a", 4)


def test_a_fraction_of_a_core_is_text_as_for_the_api_server(document):
    found = problems(document({"stages": {"sft": {"resources": {"cpu": 1.5}}}}))
    assert found == {f"{STAGES}.sft.resources.cpu": ("1.5", 'a fraction as text, as the API server takes it: "1.5"')}


def test_a_document_survives_the_round_trip(pipeline):
    spec = {
        "judge": {"self": True},
        "stages": {"rlData": {"temperatures": [1, 2]}, "sft": {"resources": {"cpu": 2}, "overrides": {"epochs": 2}}},
    }
    made = pipeline(spec)
    assert parse_pipeline(made.document()) == made
    assert made.spec.stages.sft.resources.cpu == "2"


def test_the_smallest_pipeline_has_a_tutorial_readers_defaults(pipeline):
    pocket = pipeline().spec
    assert pocket.judge_or_default.pocket is not None
    assert pocket.dataset("redTeam").pocket is not None
    hub = pipeline({"models": {"base": {"pocket": None, "huggingFace": {"repo": "a/b"}}}}).spec
    assert hub.judge_or_default.self_ is True
    assert hub.dataset("preference").hugging_face.data_dirs == (
        "helpful-base",
        "helpful-online",
        "helpful-rejection-sampled",
    )
    assert hub.assistant == hub.models.base


def test_every_field_says_what_it_is_for():
    from pydantic import BaseModel

    from cai_operator.api import CAIPipeline
    from cai_operator.status import PipelineStatus

    def lacking(model, seen):
        if model in seen:
            return
        seen.add(model)
        assert model.__doc__
        for name, info in model.model_fields.items():
            if not info.description:
                yield f"{model.__name__}.{name}"
            for part in (info.annotation, *getattr(info.annotation, "__args__", ())):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    yield from lacking(part, seen)

    assert list(lacking(CAIPipeline, set())) == []
    assert list(lacking(PipelineStatus, set())) == []


def test_the_schema_can_be_made():
    from cai_operator.api import CAIPipeline

    schema = CAIPipeline.model_json_schema(by_alias=True)
    assert "slData" in schema["$defs"]["Stages"]["properties"]


def test_what_a_newer_definition_serves_is_passed_over_and_named(document):
    known = document({"stages": {"sft": {"nodes": 2}}})
    newer = document(
        {"stages": {"sft": {"nodes": 2, "warmth": 3}}, "storage": {"tier": {"cold": True}}, "flavour": "x"}
    )
    pipeline, unknown = parse_served(newer)
    assert pipeline == parse_pipeline(known)
    assert set(unknown) == {"spec.stages.sft.warmth", "spec.storage.tier", "spec.flavour"}
    assert parse_served(known) == (pipeline, ())


def test_what_is_wrong_besides_is_refused_as_ever(document):
    with pytest.raises(InvalidResource) as caught:
        parse_served(document({"engine": "vllm", "flavour": "x"}))
    assert [problem.path for problem in caught.value.problems] == ["spec.engine"]
