"""Settings of the stages: what all have, and what each has of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cai_operator.api_base import ComputeResources, Duration, Model, ObjectName, PodTemplate, Port, Share

OverrideValue = str | int | float | bool | list[str | int | float]

Weight = Annotated[float, Field(ge=0, le=1000)]

MaxRejected = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Highest share of prompts that may fail for their own reasons, such as their length; the stage "
        "fails where more do. They are listed in rejected.jsonl.",
    ),
]

ExportHuggingFace = Annotated[
    bool,
    Field(
        description="Publish the model in Hugging Face format too, as huggingFace/ beside model.nemo; nemo only: the "
        "models of hf have that format anyway. Needs a base model that came in it.",
    ),
]


class Server(Model):
    """A model server that stands while a stage needs it."""

    gpus: int | None = Field(default=None, ge=0, description="GPUs of each replica. Default: the spec's gpusPerNode.")
    replicas: int = Field(default=1, ge=1, le=64, description="Copies that share the requests.")
    port: Port = Field(default=5999, description="The port it listens on.")
    resources: ComputeResources = Field(default=ComputeResources(), description="CPU and memory of each replica.")
    overrides: dict[str, OverrideValue] = Field(default_factory=dict, description="The server program's own options.")


class Stage(Model):
    """What every stage has."""

    enabled: bool = Field(default=True, description="Run this stage. A stage that needs a disabled one is refused.")
    nodes: int = Field(
        default=1, ge=1, le=1024, description="Machines its program runs on; more than one for training stages only."
    )
    gpus_per_node: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="GPUs on each machine. Default: the spec's gpusPerNode for training and serve, none for other "
        "stages; 1 where nemo converts models.",
    )
    resources: ComputeResources = Field(
        default=ComputeResources(), description="CPU and memory of each pod of its job."
    )
    image: str | None = Field(
        default=None, min_length=1, description="Image of its programs. Default: the spec's image."
    )
    retries: int = Field(
        default=3,
        ge=0,
        le=100,
        description="How often a failed program is started again. Wrong input is never retried.",
    )
    deadline: Duration | None = Field(
        default=None, description="Longest time its job may take, such as 12h. Default: no limit."
    )
    template: PodTemplate | None = Field(default=None, description="What its pods get, over the spec's template.")
    overrides: dict[str, OverrideValue] = Field(
        default_factory=dict, description="Options of the engine's own program, by their own names, over ours."
    )


class ModelsStage(Stage):
    """Fetch the models."""


class DatasetsStage(Stage):
    """Fetch and normalise the data sets."""

    held_out: int | None = Field(
        default=None, ge=1, description="Red-team prompts kept out of training for evaluation. Default: 200."
    )


class SlDataStage(Stage):
    """Answer red-team prompts, criticise and revise the answers, blend with helpful dialogues."""

    num_examples: int = Field(default=-1, ge=-1, description="Red-team prompts to use; -1: all.")
    revisions: int = Field(
        default=1, ge=1, le=8, description="Rounds of critique and revision, each by another principle."
    )
    critique: bool = Field(
        default=True, description="Criticise an answer before it is revised; false: ask for the revision at once."
    )
    principle_weights: dict[str, Weight] | None = Field(
        default=None,
        description="How often a principle is drawn, by its name, against 1 of those not named; 0: never. "
        "Default: all alike.",
    )
    batch_size: int = Field(default=128, ge=1, le=128, description="Prompts in one request to the model server.")
    remove_duplicates: Literal["none", "exact", "near"] = Field(
        default="none",
        description="Prompts and helpful dialogues to keep one of: equal ones, or also those of nearly the same words.",
    )
    max_seq_length: int | None = Field(
        default=None,
        ge=16,
        description="Drop dialogues longer than this many tokens. Default: keep all; 4096 with nemo.",
    )
    blend_ratio: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="Helpful dialogues blended in for each revised one, drawn by the seed. Default: all there are.",
    )
    validation_share: Share = Field(
        default=0.1, description="Share of the prompts whose dialogues are kept for validation."
    )
    max_rejected: MaxRejected = 0.05
    server: Server = Field(default=Server(), description="The server of the assistant model.")


class SftStage(Stage):
    """Fine-tune the base model on the revised answers: the SL-CAI model."""

    export_hugging_face: ExportHuggingFace = False


class Splits(Model):
    """Shares of the preference pairs; together 1."""

    train: Share = Field(default=0.8, description="Share for training.")
    test: Share = Field(default=0.2, description="Share for validation.")


class Judging(Model):
    """How the judge is asked to compare candidates."""

    mode: Literal["constitution", "principle"] = Field(
        default="constitution",
        description="constitution: all candidates of a prompt at once, by the whole constitution; principle: two at a "
        "time, by one principle drawn for them, as the probabilities of the two letters say, in both orders.",
    )
    chain_of_thought: bool = Field(
        default=False, description="Let the judge reason before it answers; only in mode principle."
    )
    comparisons_per_prompt: int = Field(
        default=1, ge=-1, description="Pairs of candidates compared for each prompt, in mode principle; -1: all."
    )
    concurrency: int = Field(default=8, ge=1, le=4096, description="Requests that each judge is sent at a time.")
    rate: float | None = Field(
        default=None, gt=0, description="Requests that each judge is sent a second, at most. Default: no limit."
    )


class RlDataStage(Stage):
    """Sample candidate answers from the SL-CAI model and have the judge compare them."""

    num_examples: int = Field(default=-1, ge=-1, description="Red-team prompts to use; -1: all.")
    batch_size: int = Field(default=128, ge=1, le=128, description="Prompts in one request to the model server.")
    temperatures: tuple[float, ...] = Field(
        default=(0.01, 0.51, 1.01, 1.51),
        min_length=2,
        max_length=16,
        description="One candidate answer for each, above 0 and at most 100.",
    )
    max_seq_length: int | None = Field(
        default=None,
        ge=16,
        description="Drop pairs longer than this many tokens. Default: keep all; with nemo what its trainers take.",
    )
    splits: Splits = Field(default=Splits(), description="How pairs are shared between training and validation.")
    judging: Judging = Field(default=Judging(), description="How the judge is asked.")
    max_rejected: MaxRejected = 0.05
    server: Server = Field(default=Server(), description="The server of the SL-CAI model.")


class RewardModelStage(Stage):
    """Train the reward model on the judged pairs and the human preferences."""


class Critic(Model):
    """The server of the critic and the reward model while PPO runs."""

    nodes: int = Field(default=1, ge=1, le=1024, description="Machines it runs on.")
    gpus_per_node: int | None = Field(default=None, ge=0, le=64, description="GPUs on each. Default: the stage's.")
    port: Port = Field(default=5567, description="The port it listens on.")
    resources: ComputeResources = Field(default=ComputeResources(), description="CPU and memory of each of its pods.")
    queue_name: ObjectName | None = Field(
        default=None,
        description="Kueue LocalQueue that admits it, where that is another than the stage's: critics that hold a part "
        "of one queue's quota while their actors wait for it would wait for ever.",
    )
    overrides: dict[str, OverrideValue] = Field(default_factory=dict, description="The critic program's own options.")


class PpoStage(Stage):
    """Train the SL-CAI model against the reward model: the RL-CAI model."""

    export_hugging_face: ExportHuggingFace = False
    critic: Critic = Field(
        default=Critic(),
        description="The critic's server; it learns while the actor does.",
        # no default that the API server writes: whether it is given tells whether it is set while ppo is off
        json_schema_extra={"default": None},
    )


class Gates(Model):
    """Bounds the last model must keep; where it does not, the pipeline fails and nothing is served."""

    max_harmful_rate: float | None = Field(
        default=None, ge=0, le=1, description="Highest share of harmful answers on red-team prompts."
    )
    min_helpful_rate: float | None = Field(
        default=None, ge=0, le=1, description="Lowest share of helpful answers on benign prompts."
    )


class EvaluateStage(Stage):
    """Let the base, the SL-CAI and the RL-CAI model answer held-out prompts and count."""

    num_examples: int = Field(default=-1, ge=-1, description="Held-out prompts of each kind to use; -1: all.")
    classifier: Literal["auto", "rule", "judge"] = Field(
        default="auto",
        description="Who labels answers: the rule, which knows the pocket world, or the judge. auto: rule for pocket.",
    )
    gates: Gates = Field(default=Gates(), description="Bounds the last model must keep before it is served.")
    server: Server = Field(default=Server(), description="The server of each model under evaluation.")


class ServeStage(Stage):
    """Serve the last model that was trained, for as long as the pipeline exists."""

    replicas: int = Field(default=1, ge=1, le=64, description="Copies that share the requests.")
    port: Port = Field(default=1427, description="The port it listens on.")


class ReportStage(Stage):
    """Write one HTML page about the whole run."""


class Stages(Model):
    """The stages; every one may be left out, and then has its defaults."""

    models: ModelsStage = Field(default=ModelsStage(), description="Fetch the models.")
    datasets: DatasetsStage = Field(default=DatasetsStage(), description="Fetch and normalise the data sets.")
    sl_data: SlDataStage = Field(default=SlDataStage(), description="Answer, criticise, revise.")
    sft: SftStage = Field(default=SftStage(), description="Supervised fine-tuning: the SL-CAI model.")
    rl_data: RlDataStage = Field(default=RlDataStage(), description="Candidate answers, compared by the judge.")
    reward_model: RewardModelStage = Field(default=RewardModelStage(), description="The reward model.")
    ppo: PpoStage = Field(default=PpoStage(), description="Reinforcement learning: the RL-CAI model.")
    evaluate: EvaluateStage = Field(default=EvaluateStage(), description="Evaluation of all three models.")
    serve: ServeStage = Field(default=ServeStage(), description="Serving of the last model.")
    report: ReportStage = Field(default=ReportStage(), description="The report page.")

    @property
    def exporting(self) -> tuple[str, ...]:
        """The stages whose model is published in Hugging Face format too, on or off."""
        return tuple(name for name, stage in (("sft", self.sft), ("ppo", self.ppo)) if stage.export_hugging_face)

    def by_name(self, name: str) -> Stage:
        """The settings of the stage of that name (`slData`, not `sl_data`)."""
        field = next(field for field, info in type(self).model_fields.items() if (info.alias or field) == name)
        stage: Stage = getattr(self, field)
        return stage
