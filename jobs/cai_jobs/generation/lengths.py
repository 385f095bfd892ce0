"""How many tokens a text has, by the tokenizer the trainer will use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cai_jobs.contract.program import InputError

LIBRARIES = ("sentencepiece", "huggingface")
SENTENCEPIECE_FILE = "tokenizer.model"


def token_counter(model: str | None, library: str | None) -> Callable[[str], int]:
    """A function from text to its number of tokens, special tokens of the tokenizer's own accord not counted.

    Args:
        model: a sentencepiece .model file, a directory with one, or a Hugging Face model directory or hub name.
        library: "sentencepiece" or "huggingface"; None takes what the model's name, or its directory, suggests.

    Raises:
        InputError: no model is given, the library is unknown, or the tokenizer cannot be loaded.
    """
    if not model:
        raise InputError("--max-seq-length needs --tokenizer-model, by which the length is counted")
    if library is None and (Path(model) / SENTENCEPIECE_FILE).is_file():
        model = str(Path(model) / SENTENCEPIECE_FILE)
    library = library or ("sentencepiece" if model.endswith(".model") else "huggingface")
    if library not in LIBRARIES:
        raise InputError(f"--tokenizer-library {library!r}: there are {' and '.join(LIBRARIES)}")
    return _sentencepiece(Path(model)) if library == "sentencepiece" else _huggingface(model)


def _sentencepiece(path: Path) -> Callable[[str], int]:
    from sentencepiece import SentencePieceProcessor

    if not path.is_file():
        raise InputError(f"--tokenizer-model {path}: no such file; a sentencepiece .model file is wanted")
    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as problem:
        raise InputError(f"--tokenizer-model {path} is no sentencepiece model: {problem}") from problem
    return lambda text: len(processor.encode(text))


def _huggingface(model: str) -> Callable[[str], int]:
    from transformers import AutoTokenizer

    # the tokenizer's directory is what most people have at hand, one of its files will do as well
    path = Path(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent if path.is_file() else model)
    except (OSError, ValueError, KeyError) as problem:
        raise InputError(f"--tokenizer-model {model}: no tokenizer could be loaded ({problem})") from problem
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
