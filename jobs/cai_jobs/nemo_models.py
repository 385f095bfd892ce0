"""Bring the base model and the assistant into NeMo's format, each one .nemo file with its tokenizer beside it.

    python -m cai_jobs.nemo_models --base '{"huggingFace": {"repo": "mistralai/Mistral-7B-v0.1"}}' \\
        --artifact-dir DIR --artifact-header JSON \\
        -- python .../convert_mistral_7b_hf_to_nemo.py --input_name_or_path WORK/base --output_path WORK/base.nemo

A model of the hub is fetched to WORK/NAME, WORK being `nemo` below the unfinished artifact; a directory is read where
it is. Each is converted by a command after `--`, the base's first. A path that ends in .nemo is copied as it is.
Publishes `base/model.nemo`, `base/tokenizer/` and, of a model that was converted, its `base/config.json`; and the same
below `assistant/` where that is another model.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts, program
from cai_jobs.contract.program import InputError, Parser, RetryableError
from cai_jobs.fetch_models import CONFIGURATION, check, fetch
from cai_jobs.fetching import sources
from cai_jobs.fetching.sources import Source
from cai_jobs.nemo import checkpoints, commands
from cai_jobs.nemo.conversion import OUTPUT_FLAG, convert, output_of

PROGRAM = "nemo_models"
MODEL, TOKENIZER, WORK = "model.nemo", "tokenizer", "nemo"
SCALING_FLAG = "--llama31"
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")


def build_parser() -> Parser:
    """The program's flags; the converters' commands follow them, each after `--`."""
    parser = Parser(PROGRAM, "Bring models into NeMo's format: FLAGS [-- CONVERTER ARGUMENTS ...].")
    parser.add_argument("--base", required=True, help="where the base model comes from, JSON as in the manifest")
    parser.add_argument("--assistant", help="where the assistant comes from; without it it is the base")
    parser.add_argument("--output-dir", type=Path, default=Path("nemo_models"), help="where to, without --artifact-dir")
    parser.add_argument(
        "--grace-s", type=float, default=50.0, help="seconds between asking a converter to stop and killing it"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the program; returns the last word.

    Raises:
        InputError: a source, a command or a model is not as it should be.
        RetryableError: the hub cannot be reached, or a converter failed.
    """
    flags, converters = commands.split(argv)
    args = build_parser().parse_args(flags)
    given = {"base": args.base, **({} if args.assistant is None else {"assistant": args.assistant})}
    models = {name: sources.parse(f"--{name}", text) for name, text in given.items()}
    to_convert = [name for name, source in models.items() if _ready_file(source) is None]
    if len(to_convert) != len(converters):
        raise InputError(
            f"{len(converters)} converters for {len(to_convert)} models in Hugging Face format "
            f"({', '.join(to_convert) or 'none'}); one command after a -- is wanted for each"
        )
    by_name = dict(zip(to_convert, converters, strict=True))
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, args.output_dir, (WORK,)) as artifact:
        if artifact is None:
            return artifacts.last_word(artifacts.read(args.artifact_dir) or {})
        for name, source in models.items():
            artifact.metrics[name] = _bring(name, source, by_name.get(name), artifact.path, args.grace_s)
        return artifact.publish()


def _bring(name: str, source: Source, converter: list[str] | None, directory: Path, grace_s: float) -> dict[str, Any]:
    target = directory / name / MODEL
    target.parent.mkdir(parents=True, exist_ok=True)
    ready = _ready_file(source)
    origin = str(ready) if ready is not None else f"{source.repo}@{source.revision or 'main'}" if source.repo else ""
    if not target.is_file():
        if ready is not None:
            _copy(ready, target)
        else:
            assert converter is not None
            _convert(name, source, converter, directory / WORK, target, grace_s)
    if ready is None:
        # what a model that was trained from this one needs, to be brought back into this format
        shutil.copyfile(_hub_format(name, source, directory / WORK) / CONFIGURATION, directory / name / CONFIGURATION)
    if not (directory / name / TOKENIZER).is_dir():
        _tokenizer(_hub_format(name, source, directory / WORK), target, directory / name / TOKENIZER)
    return {"source": origin or str(source.paths[0]), "bytes": target.stat().st_size}


def _ready_file(source: Source) -> Path | None:
    if source.kind == "path" and len(source.paths) == 1 and source.paths[0].suffix == ".nemo":
        return source.paths[0]
    return None


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InputError(f"{source}: no such file; a .nemo file is wanted")
    if not checkpoints.is_whole(source):
        raise InputError(f"{source} is no whole .nemo file: a tar archive with {checkpoints.CONFIGURATION} in it")
    aside = target.with_name(target.name + ".new")
    shutil.copyfile(source, aside)
    aside.rename(target)


def _convert(name: str, source: Source, converter: list[str], work: Path, target: Path, grace_s: float) -> None:
    hub_format = _hub_format(name, source, work)
    work.mkdir(parents=True, exist_ok=True)
    if source.kind == "path":
        check(hub_format, f"--{name}")
    else:
        fetch(source, hub_format, f"--{name}")
    _check_family(name, hub_format, converter)
    output = work / f"{name}.nemo"
    if output_of(converter) != output:
        raise InputError(f"the converter of {name} must write {OUTPUT_FLAG} {output}, where its file is looked for")
    output.unlink(missing_ok=True)  # what a converter that was killed left behind
    convert(converter, work, grace_s, f" on {name}")
    if not checkpoints.is_whole(output):
        raise RetryableError(
            f"{commands.name_of(converter)} ended with 0, but {output} is no whole .nemo file; is there room on the "
            "volume?"
        )
    output.rename(target)


def _hub_format(name: str, source: Source, work: Path) -> Path:
    """Where a model in Hugging Face format is, once it is here."""
    return source.paths[0] if source.kind == "path" else work / name


def _check_family(name: str, directory: Path, converter: Sequence[str]) -> None:
    """Hold a model's own configuration against the converter it is given to."""
    try:
        configuration: Mapping[str, Any] = json.loads((directory / CONFIGURATION).read_text())
    except ValueError as problem:
        raise InputError(f"{directory / CONFIGURATION} is not JSON: {problem}") from problem
    kind, script = str(configuration.get("model_type")), commands.name_of(converter)
    if kind not in script:
        raise InputError(
            f"--{name}: the model's {CONFIGURATION} says model_type {kind}, and {script} converts another; set "
            "spec.stages.models.overrides.converter to mistral or llama, whichever it is"
        )
    scaling = configuration.get("rope_scaling") or {}
    is_scaled = "llama3" in (scaling.get("rope_type"), scaling.get("type"))
    is_told_not_to = f"{SCALING_FLAG}=" in converter
    if kind == "llama" and is_scaled == is_told_not_to:
        raise InputError(
            f"--{name}: the model's {CONFIGURATION} has {'' if is_scaled else 'no '}Llama 3.1 scaling of positions, "
            f"and the converter is told otherwise; set spec.stages.models.overrides.llama31: {str(is_scaled).lower()}"
        )


def _tokenizer(hub_format: Path, model: Path, target: Path) -> None:
    """The tokenizer's files: those the model came with, else what its .nemo file holds of them."""
    aside = target.with_name(target.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for path in sorted({path for pattern in TOKENIZER_FILES for path in hub_format.glob(pattern)}):
        shutil.copyfile(path, aside / path.name)
    if not any(aside.iterdir()):
        with tarfile.open(model) as archive:
            # two files that end in .model and are the same; a hash stands before their names
            member = next((member for member in archive if member.isfile() and member.name.endswith(".model")), None)
            content = archive.extractfile(member) if member is not None else None
            if content is not None:
                (aside / "tokenizer.model").write_bytes(content.read())
    aside.rename(target)


if __name__ == "__main__":
    program.run(main)
