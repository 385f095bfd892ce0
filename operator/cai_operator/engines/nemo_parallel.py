"""How a program's work is shared among GPUs, and what of that cannot be: found before anything starts.

A model is split over tensor x pipeline GPUs; data parallelism is how many such groups there are. A global batch is
made of micro batches, one for each group at a time. Source: Megatron-LM, Narayanan et al. 2021 (arXiv 2104.04473).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cai_operator.api import Spec
from cai_operator.api_stages import Stage
from cai_operator.engines import nemo_settings
from cai_operator.engines.nemo_hydra import Settings, merged, value_of
from cai_operator.engines.nemo_settings import CRITIC, SERVER, Program, default_parallel, parallel_keys
from cai_operator.problems import Problem, shown

_BATCHES = {
    "sft": (
        ("model.data.train_ds.global_batch_size", "model.data.train_ds.micro_batch_size"),
        ("model.data.validation_ds.global_batch_size", "model.data.validation_ds.micro_batch_size"),
    ),
    "rewardModel": (("model.global_batch_size", "model.micro_batch_size"),),
    "ppo": (
        ("model.global_batch_size", "model.micro_batch_size"),
        ("model.ppo.num_rollout_samples", "model.ppo.rollout_micro_batch_size"),
    ),
}
_CRITIC_BATCHES = (("model.global_batch_size", "model.micro_batch_size"),)
_INFERENCE = "trainer.ppo.inference_micro_batch_size"
_ROLLOUT = "model.ppo.rollout_micro_batch_size"


@dataclass(frozen=True)
class Use:
    """One program of a pipeline with what it runs on.

    Attributes:
        where: the field it is set by, such as `spec.stages.sft`.
        gpus_field: the name of the field, below `where`, that gives its GPUs.
        settings: what it is told, overrides laid over the tutorial's, without what only the operator sets.
    """

    where: str
    program: Program
    nodes: int
    gpus: int
    gpus_field: str
    overrides: Settings
    settings: Settings

    @property
    def tensor(self) -> Any:
        """Tensor parallelism, as given."""
        return value_of(self.settings, parallel_keys(self.program)[0].lstrip("+"))

    @property
    def pipeline(self) -> Any:
        """Pipeline parallelism, as given."""
        return value_of(self.settings, parallel_keys(self.program)[1].lstrip("+"))

    @property
    def groups(self) -> int:
        """Data parallelism: how many copies of the model work side by side."""
        return self.nodes * self.gpus // (int(self.tensor) * int(self.pipeline))

    def field(self, key: str) -> str:
        """The field that sets a key: its override, or where an override would stand."""
        option = next((option for option in self.overrides if option.lstrip("+") == key), key)
        return f"{self.where}.overrides.{option}"


def use(where: str, program: Program, nodes: int, gpus: int, gpus_field: str, overrides: Settings) -> Use:
    """A program with its settings."""
    tensor_key, pipeline_key = parallel_keys(program)
    tensor, pipeline = default_parallel(program, gpus)
    settings = merged({**program.tutorial, tensor_key: tensor, pipeline_key: pipeline}, overrides)
    return Use(where, program, nodes, gpus, gpus_field, overrides, settings)


def trainer(spec: Spec, stage_name: str) -> Use:
    """The program of a training stage."""
    stage = spec.stages.by_name(stage_name)
    program = nemo_settings.TRAINERS[stage_name]
    where = f"spec.stages.{stage_name}"
    return use(where, program, stage.nodes, _gpus(spec, stage), "gpusPerNode", stage.overrides)


def critic(spec: Spec) -> Use:
    """The critic's server."""
    settings = spec.stages.ppo.critic
    gpus = settings.gpus_per_node if settings.gpus_per_node is not None else _gpus(spec, spec.stages.ppo)
    return use("spec.stages.ppo.critic", CRITIC, settings.nodes, gpus, "gpusPerNode", settings.overrides)


def model_server(spec: Spec, stage_name: str) -> Use:
    """The model server of a stage: of slData, rlData or evaluate, or the kept one."""
    if stage_name == "serve":
        stage = spec.stages.serve
        return use("spec.stages.serve", SERVER, 1, _gpus(spec, stage), "gpusPerNode", stage.overrides)
    server = spec.stages.by_name(stage_name).server  # type: ignore[attr-defined]  # these three have one
    gpus = spec.default_gpus if server.gpus is None else server.gpus
    return use(f"spec.stages.{stage_name}.server", SERVER, 1, gpus, "gpus", server.overrides)


def problems(spec: Spec) -> Iterator[Problem]:
    """What of the stages that are on cannot be shared among their GPUs."""
    for name in nemo_settings.TRAINERS:
        if spec.stages.by_name(name).enabled:
            found = trainer(spec, name)
            yield from _of_trainer(found, _BATCHES[name])
    if spec.stages.ppo.enabled:
        yield from _of_trainer(critic(spec), _CRITIC_BATCHES)
        yield from _of_actor_and_critic(trainer(spec, "ppo"), critic(spec))
    for name in ("slData", "rlData", "evaluate", "serve"):
        if spec.stages.by_name(name).enabled:
            yield from _of_server(model_server(spec, name))


def _of_trainer(this: Use, batches: tuple[tuple[str, str], ...]) -> Iterator[Problem]:
    found = [*_of_gpus(this), *_whole_numbers(this, *(key for pair in batches for key in pair))]
    yield from found
    if found:
        return
    size, total = int(this.tensor) * int(this.pipeline), this.nodes * this.gpus
    if total % size:
        yield Problem(
            this.field(parallel_keys(this.program)[0].lstrip("+")),
            f"tensor {this.tensor} x pipeline {this.pipeline} = {size}, on {this.nodes} x {this.gpus} GPUs",
            f"a product that divides {total}",
        )
        return
    for whole, part in batches:
        step = int(value_of(this.settings, part)) * this.groups
        given = int(value_of(this.settings, whole))
        if given % step:
            yield Problem(
                this.field(whole),
                f"{given}, with {part} {step // this.groups} on {this.groups} data-parallel groups",
                f"a multiple of {step}",
            )


def _of_actor_and_critic(actor: Use, critic: Use) -> Iterator[Problem]:
    keys = ("model.ppo.num_rollout_samples", _ROLLOUT, "model.global_batch_size")
    yield from _whole_numbers(critic, _INFERENCE)
    numbers = [*_whole_numbers(actor, *keys), *_whole_numbers(critic, _INFERENCE)]
    if numbers or not (_is_even(actor) and _is_even(critic)):
        return  # said of each of them already
    rollouts, batch = (int(value_of(actor.settings, key)) for key in (keys[0], keys[2]))
    if rollouts % batch:
        yield Problem(actor.field(keys[0]), str(rollouts), f"a multiple of model.global_batch_size, {batch}")
    inference, sent = int(value_of(critic.settings, _INFERENCE)), int(value_of(actor.settings, _ROLLOUT))
    if inference * critic.groups > sent:
        # the critic would wait for a batch larger than any that comes
        yield Problem(
            critic.field(_INFERENCE),
            f"{inference} on {critic.groups} data-parallel groups, {inference * critic.groups} together",
            f"together at most what the actor sends, {_ROLLOUT} {sent}: less here or there more, "
            f"or a larger {nemo_settings.TENSOR}",
        )
    padded = value_of(actor.settings, "remote_critic_rm.pad_to_length")
    length = value_of(actor.settings, "model.encoder_seq_length") or nemo_settings.SEQUENCE_LENGTH
    if isinstance(padded, int) and isinstance(length, int) and padded < length:
        where = actor.field("remote_critic_rm.pad_to_length")
        yield Problem(where, str(padded), f"at least model.encoder_seq_length, {length}")


def _of_server(this: Use) -> Iterator[Problem]:
    found = list(_of_gpus(this))
    yield from found
    if not found and int(this.tensor) * int(this.pipeline) != this.gpus:
        yield Problem(
            this.field(nemo_settings.TENSOR),
            f"tensor {this.tensor} x pipeline {this.pipeline}, on {this.gpus} GPUs",
            f"a product of {this.gpus}: the server uses every GPU it has for one copy of the model",
        )


def _of_gpus(this: Use) -> Iterator[Problem]:
    if this.gpus < 1:
        yield Problem(f"{this.where}.{this.gpus_field}", str(this.gpus), "at least 1: Megatron's programs need GPUs")
    for key, value in zip(parallel_keys(this.program), (this.tensor, this.pipeline), strict=True):
        if not _is_count(value):
            yield Problem(this.field(key.lstrip("+")), shown(value), "a whole number, at least 1")


def _whole_numbers(this: Use, *keys: str) -> Iterator[Problem]:
    for key in dict.fromkeys(keys):
        if not _is_count(value_of(this.settings, key)):
            yield Problem(this.field(key), shown(value_of(this.settings, key)), "a whole number, at least 1")


def _is_even(this: Use) -> bool:
    return not list(_of_gpus(this)) and (this.nodes * this.gpus) % (int(this.tensor) * int(this.pipeline)) == 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _gpus(spec: Spec, stage: Stage) -> int:
    return spec.default_gpus if stage.gpus_per_node is None else stage.gpus_per_node
