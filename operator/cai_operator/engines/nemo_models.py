"""Where engine nemo's models come from: the hub, a directory or a ready .nemo file, and who converts them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cai_operator.api import Spec
from cai_operator.api_base import ModelSource
from cai_operator.engines import EngineError, shared
from cai_operator.engines.nemo_programs import IMAGE_PYTHON, MODELS, wrapped
from cai_operator.engines.run import Run
from cai_operator.problems import Problem, shown
from cai_operator.workloads import SecretReference

MODEL_FILE = "model.nemo"
TOKENIZER = "tokenizer"
"""Beside each model: the files of its tokenizer."""

_CONVERTERS = "/opt/NeMo/scripts/checkpoint_converters"
CONVERTERS: Mapping[str, str] = {
    "mistral": f"{_CONVERTERS}/convert_mistral_7b_hf_to_nemo.py",
    "llama": f"{_CONVERTERS}/convert_llama_hf_to_nemo.py",
}
_BACK: Mapping[str, str] = {
    "mistral": f"{_CONVERTERS}/convert_mistral_7b_nemo_to_hf.py",
    "llama": f"{_CONVERTERS}/convert_llama_nemo_to_hf.py",
}
_EXPORT = "export"
"""Below an unfinished artifact: where a model gets Hugging Face format. Whole, the wrapper publishes it."""

_SCALED_LLAMAS = re.compile(r"llama-?3[._][1-9]")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "converter": tuple(CONVERTERS),
    "precision": ("bf16", "16", "32"),
    "llama31": ("true", "false"),
}
"""What `spec.stages.models.overrides` may say for engine nemo."""


def sources(spec: Spec) -> dict[str, ModelSource]:
    """The models to bring, by their directory in the artifact; the assistant only where it is another than the base."""
    found = {"base": spec.models.base}
    return found if spec.assistant == spec.models.base else {**found, "assistant": spec.assistant}


def is_ready(source: ModelSource) -> bool:
    """Whether it is a .nemo file, which needs no converter."""
    return source.path is not None and source.path.endswith(".nemo")


def family(source: ModelSource, overrides: Mapping[str, Any]) -> str | None:
    """Whose converter a model needs, "mistral" or "llama", by the manifest or by the model's name; None: unknown."""
    if "converter" in overrides:
        return str(overrides["converter"])
    return next((family for family in CONVERTERS if family in _name(source).lower()), None)


def problems(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the options of the conversion."""
    for option, value in spec.stages.models.overrides.items():
        if option not in OPTIONS:
            yield Problem(f"spec.stages.models.overrides.{option}", "no such option", f"one of {', '.join(OPTIONS)}")
        elif str(value).lower() not in OPTIONS[option]:
            allowed = f"one of {', '.join(OPTIONS[option])}"
            yield Problem(f"spec.stages.models.overrides.{option}", shown(value), allowed)
    for name in spec.stages.exporting if is_ready(spec.models.base) else ():
        yield Problem(
            f"spec.stages.{name}.exportHuggingFace",
            "true, with a base model that is a ready .nemo file",
            "false; or a base model from the hub, or a directory in Hugging Face format: its config.json is needed",
        )


def require(spec: Spec) -> None:
    """Refuse models that nothing here brings into NeMo's format.

    Raises:
        EngineError: one of the models, with its field.
    """
    for name, source in sources(spec).items():
        where = f"spec.models.{name}"
        if source.pocket is not None:
            raise EngineError(f"{where}.pocket: the pocket model is for engine hf; give huggingFace, or path")
        if not is_ready(source) and family(source, spec.stages.models.overrides) is None:
            raise EngineError(
                f"{where}: the name {_name(source)} tells no converter; set spec.stages.models.overrides.converter to "
                f"{' or '.join(CONVERTERS)}, or give the path of a .nemo file"
            )


def tokenizer_secrets(spec: Spec) -> dict[str, SecretReference]:
    """The hub's token for programs that load a model: the converter of Llama 3 leaves the tokenizer on the hub.

    In the file it writes stands only the hub's name of the tokenizer, whatever directory the model came from.
    """
    token = spec.hub_token_secret
    families = {family(source, spec.stages.models.overrides) for source in sources(spec).values()}
    return {shared.HUB_TOKEN_VARIABLE: shared.reference(token)} if token is not None and "llama" in families else {}


def parameters(spec: Spec) -> dict[str, Any]:
    """What shapes the models."""
    found: dict[str, Any] = {name: source.given() for name, source in sources(spec).items()}
    return {**found, "options": dict(spec.stages.models.overrides)}


def needs_conversion(spec: Spec) -> bool:
    """Whether one of the models is no .nemo file yet."""
    return not all(is_ready(source) for source in sources(spec).values())


def command(run: Run, flags: Mapping[str, Any]) -> tuple[str, ...]:
    """Fetch what is to be fetched, convert what is to be converted; a converter's command for each, in order."""
    spec = run.pipeline.spec
    work = f"{run.artifact()}.partial/nemo"
    found = sources(spec)
    commands = [_conversion(run, name, source, work) for name, source in found.items() if not is_ready(source)]
    given = {name: shared.model_source(run, source) for name, source in found.items()}
    return wrapped(MODELS, {**given, **flags}, *commands)


def export(run: Run) -> tuple[str, ...]:
    """The command that brings a trained model back into the format the base model came in."""
    spec = run.pipeline.spec
    overrides = spec.stages.models.overrides
    partial = f"{run.artifact()}.partial"
    kind = str(family(spec.models.base, overrides))
    line = [IMAGE_PYTHON, _BACK[kind], "--input_name_or_path", f"{partial}/{MODEL_FILE}", "--output_path"]
    if kind == "mistral":
        # configuration and tokenizer are laid there by the wrapper; by default it takes the hub's Mistral 7B's
        line += [f"{partial}/{_EXPORT}", "--hf_model_name", f"{partial}/{_EXPORT}"]
    else:
        # it writes the weights alone. Told nothing it takes one GPU, too small for what is trained on several;
        # Mistral's works on the CPU anyway
        line += [f"{partial}/{_EXPORT}/pytorch_model.bin", "--cpu-only"]
    if "precision" in overrides:
        line += ["--precision", str(overrides["precision"])]
    return tuple(line)


def _conversion(run: Run, name: str, source: ModelSource, work: str) -> tuple[str, ...]:
    overrides = run.pipeline.spec.stages.models.overrides
    fetched = f"{work}/{name}" if source.path is None else run.places.path_of(source.path)
    kind = str(family(source, overrides))
    # NeMo 2.0 to 2.4 call these flags so; the tutorial's --in-file and --out-file are of an older one. The directory of
    # the output is made beforehand: the tutorial makes others than it writes to
    line = [IMAGE_PYTHON, CONVERTERS[kind], "--input_name_or_path", fetched]
    line += ["--output_path", f"{work}/{name}.nemo"]
    if "precision" in overrides:
        line += ["--precision", str(overrides["precision"])]
    if kind == "llama" and not _is_scaled(source, overrides):
        # its default is Llama 3.1's scaling of positions, which spoils other Llamas; only empty text is false to it
        line.append("--llama31=")
    return tuple(line)


def _is_scaled(source: ModelSource, overrides: Mapping[str, Any]) -> bool:
    if "llama31" in overrides:
        return str(overrides["llama31"]).lower() == "true"
    return _SCALED_LLAMAS.search(_name(source).lower()) is not None


def _name(source: ModelSource) -> str:
    return source.hugging_face.repo if source.hugging_face is not None else source.path or "pocket"
