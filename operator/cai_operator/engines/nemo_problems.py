"""What a manifest of engine nemo gets wrong though every field is well formed; of stages that are on."""

from __future__ import annotations

from collections.abc import Iterator

from cai_operator.api import Spec
from cai_operator.engines import nemo_data, nemo_hydra, nemo_models, nemo_parallel
from cai_operator.engines.nemo_parallel import Use
from cai_operator.engines.nemo_settings import TRAINERS, parallel_keys
from cai_operator.problems import Problem

_SERVED = ("slData", "rlData", "evaluate", "serve")


def nemo_problems(spec: Spec) -> list[Problem]:
    """Options no program takes, settings that are the operator's, and work that GPUs cannot share."""
    written = [*nemo_models.problems(spec), *nemo_data.problems(spec)]
    for use in _programs(spec):
        written.extend(_overrides(use))
    # sums over settings that are wrong themselves would only repeat it
    return written or list(nemo_parallel.problems(spec))


def _programs(spec: Spec) -> Iterator[Use]:
    for name in TRAINERS:
        if spec.stages.by_name(name).enabled:
            yield nemo_parallel.trainer(spec, name)
    if spec.stages.ppo.enabled:
        yield nemo_parallel.critic(spec)
    for name in _SERVED:
        if spec.stages.by_name(name).enabled:
            yield nemo_parallel.model_server(spec, name)


def _overrides(use: Use) -> Iterator[Problem]:
    ours = {**use.program.tutorial, **dict.fromkeys(parallel_keys(use.program))}
    for problem in nemo_hydra.check(use.overrides, ours, use.program.owned):
        yield Problem(f"{use.where}.overrides.{problem.option}", problem.found, problem.allowed)
