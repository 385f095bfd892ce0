"""A trained model in Hugging Face format too, by one of NeMo's converters.

Mistral's writes a whole model directory, and reads configuration and tokenizer of the original by name or directory;
Llama's writes the weights alone. Both find configuration and tokenizer laid where they write, so that what is there
afterwards is a model whichever of them it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cai_jobs.contract.program import InputError, RetryableError
from cai_jobs.fetch_models import CONFIGURATION, WEIGHTS
from cai_jobs.nemo import commands, conversion

FOLDER = "huggingFace"
"""The model's directory in the artifact."""

WORK = "export"
"""Where it is made, below the unfinished artifact; whole, it gets its name."""

TOKENIZER = "tokenizer"


def check(original: Path, converter: Sequence[str], directory: Path) -> None:
    """See before the training that there will be what the conversion after it needs.

    Args:
        original: the base model of the artifact `models`.
        directory: the unfinished artifact.

    Raises:
        InputError: a file of the original is missing, or the converter is to write elsewhere.
    """
    if not (original / CONFIGURATION).is_file():
        raise InputError(
            f"{original} has no {CONFIGURATION}, so its model cannot be brought into Hugging Face format; a model from "
            "the hub or a directory in that format has one, a ready .nemo file has not"
        )
    if not any(path.is_file() for path in (original / TOKENIZER).glob("*")):
        raise InputError(f"{original / TOKENIZER} has no files; the tokenizer of the base model is wanted there")
    output = conversion.output_of(converter)
    if output is None or directory / WORK not in (output, output.parent):
        raise InputError(
            f"{commands.name_of(converter)} must write {conversion.OUTPUT_FLAG} {directory / WORK} or a file there"
        )


def export(original: Path, converter: Sequence[str], directory: Path, cwd: Path, grace_s: float) -> None:
    """Make the directory; one that is there already, from before a restart, is whole.

    Raises:
        InputError, RetryableError: the converter failed, or wrote no weights.
    """
    if (directory / FOLDER).is_dir():
        return
    work = directory / WORK
    shutil.rmtree(work, ignore_errors=True)  # what a converter that was killed left behind
    work.mkdir()
    for path in (original / CONFIGURATION, *(original / TOKENIZER).iterdir()):
        shutil.copyfile(path, work / path.name)
    script = commands.name_of(converter)
    print(f"the model is trained; {script} brings it into Hugging Face format", flush=True)
    conversion.convert(converter, cwd, grace_s, " on the trained model, which is kept for the next try")
    weights = [path for pattern in WEIGHTS for path in work.glob(pattern)]
    if not weights or not all(path.stat().st_size for path in weights):
        raise RetryableError(
            f"{script} ended with 0, but {work} has no weights, neither {' nor '.join(WEIGHTS)}; is there room on the "
            "volume?"
        )
    work.rename(directory / FOLDER)
