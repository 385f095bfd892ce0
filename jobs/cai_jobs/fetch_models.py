"""Bring the base model and the assistant into an artifact, as Hugging Face model directories.

    python -m cai_jobs.fetch_models --base '{"huggingFace": {"repo": "owner/name"}}' --assistant '{"path": "/models/x"}'

A hub repository's safetensors are preferred; only where it has none are its .bin files taken. A path's files are
copied, so that the artifact is whole by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_jobs.contract import artifacts, program
from cai_jobs.contract.program import InputError, Parser
from cai_jobs.fetching import sources
from cai_jobs.fetching.sources import Source

CONFIGURATION = "config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
WEIGHTS = ("*.safetensors", "*.bin")
SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
NOT_NEEDED = ["*/*", "consolidated*"]  # other formats of the same weights
POCKET_MODEL = Path(__file__).resolve().parent / "data" / "pocket" / "model"


def build_parser() -> Parser:
    parser = Parser("fetch_models", "Fetch the base model and the assistant as Hugging Face model directories.")
    parser.add_argument("--base", required=True, help="where the base model comes from, JSON as in the manifest")
    parser.add_argument(
        "--assistant", help="where the assistant comes from; without it, or if the same, it is the base"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("models"), help="where to, without --artifact-dir")
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    args = build_parser().parse_args(argv)
    base = sources.parse("--base", args.base)
    assistant = base if args.assistant is None else sources.parse("--assistant", args.assistant)
    with artifacts.open_artifact(args.artifact_dir, args.artifact_header, args.output_dir) as artifact:
        if artifact is None:
            return artifacts.last_word(artifacts.read(args.artifact_dir) or {})
        artifact.metrics["base"] = fetch(base, artifact.path / "base", "--base")
        if assistant != base:
            artifact.metrics["assistant"] = fetch(assistant, artifact.path / "assistant", "--assistant")
        return artifact.publish()


def fetch(source: Source, target: Path, flag: str) -> dict[str, Any]:
    """Bring one model into `target` and check that it is one.

    Returns:
        {"source", "bytes"}; what is in `target` already, from a run that was cut short, is used where it can be.

    Raises:
        InputError: there is no such model, or it lacks configuration, tokenizer or weights.
        RetryableError: the hub cannot be reached.
    """
    if source.kind == "huggingFace":
        origin = f"{source.repo}@{source.revision or 'main'}"
        sources.from_hub(source, "model", [*SMALL_FILES, WEIGHTS[0]], target, ignore=NOT_NEEDED)
        if not any(target.glob(WEIGHTS[0])):
            sources.from_hub(source, "model", [WEIGHTS[1]], target, ignore=NOT_NEEDED)
        shutil.rmtree(target / ".cache", ignore_errors=True)
    else:
        if len(source.paths) > 1:
            raise InputError(f"{flag}: a model is one directory, {len(source.paths)} paths are given")
        directory = POCKET_MODEL if source.kind == "pocket" else source.paths[0]
        origin = source.kind if source.kind == "pocket" else str(directory)
        check(directory, flag)
        _copy(directory, target)
    check(target, flag, origin)
    return {"source": origin, "bytes": sum(path.stat().st_size for path in target.rglob("*") if path.is_file())}


def check(directory: Path, flag: str, name: str | None = None) -> None:
    """See that a directory holds a Hugging Face model: configuration, tokenizer and weights.

    Args:
        name: what to call the model, if not by its directory.

    Raises:
        InputError: it does not.
    """
    where = f"{flag}: {name or directory}"
    if not directory.is_dir():
        raise InputError(f"{where}: no such directory; a Hugging Face model directory is wanted")
    if not (directory / CONFIGURATION).is_file():
        raise InputError(f"{where} has no {CONFIGURATION}: it is no Hugging Face model")
    if not any((directory / file).is_file() for file in TOKENIZERS):
        raise InputError(f"{where} has no tokenizer: none of {', '.join(TOKENIZERS)}")
    if not any(path for pattern in WEIGHTS for path in directory.glob(pattern)):
        raise InputError(f"{where} has no weights: neither {' nor '.join(WEIGHTS)}")


def _copy(directory: Path, target: Path) -> None:
    """The model's own files, links resolved; weights of another format than the one used stay behind."""
    weights = next(pattern for pattern in WEIGHTS if any(directory.glob(pattern)))
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted({path for pattern in [*SMALL_FILES, weights] for path in directory.glob(pattern)}):
        copy = target / path.name
        if copy.is_file() and copy.stat().st_size == path.stat().st_size:
            continue
        aside = copy.with_name(copy.name + ".new")
        shutil.copyfile(path, aside)
        aside.rename(copy)


if __name__ == "__main__":
    program.run(main)
