"""How the tests are shared out among processes, and small random models in hub format, one of each style."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness import release

HERE = Path(__file__).parent
REAL_PROCESSES = ("api", "cluster", "pipeline", "programs")
LONGEST_FIRST = ("cluster", "api/operator", "pipeline", "programs", "api", "unit")

STYLES = ("llama", "mistral", "qwen2")

SENTENCES = [
    "<extra_id_0>System\n\n<extra_id_1>User\nHow do I water a plant?\n<extra_id_1>Assistant\nA little, at dawn.\n",
    "User and Assistant talk about tea, bread and the weather in the museum near the bridge.",
    "\n\nHuman: Where did I leave my umbrella?\n\nAssistant: Perhaps beside the door of the library.",
    "I would rather not do that, because it would trouble your neighbour. Shall we bake a cake together instead?",
    "CritiqueRequest: Say what could be kinder. Critique: It could be kinder. RevisionRequest: Say it again, kindly.",
    "0123456789 + - * / = ( ) [ ] { } < > _ . , : ; ! ? ' \" % & # @ ABCDEFGHIJKLMNOPQRSTUVWXYZ",
]

MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT, and so would all that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # what is imported and collected stays: looking for garbage in it is a sixth of the time
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage in what the tests make, and in nothing before them."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`: the tests of a file on one worker, as they share what it sets up; the longest first.

    Those that share more than that are one group: of the one node (tests/cluster/conftest.py), of an API server
    (tests/api/conftest.py). What watches real servers and processes at work gets a second try on a busy machine, and
    the summary names it then; a pure test never does.
    """

    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.relative_to(HERE).as_posix()
        return next(n for n, name in enumerate((*LONGEST_FIRST, "")) if folder.startswith(name))

    for item in items:
        if item.path.relative_to(HERE).parts[0] in REAL_PROCESSES:
            item.add_marker(pytest.mark.flaky(reruns=1))
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(HERE).as_posix()))
    items.sort(key=rank)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A worker of `--dist loadgroup` has all tests of a group in a row: then their servers need not idle to the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        release.unused(getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_model_dir(style)`: directory of a random causal model of some 50,000 parameters, made once a session.

    | style | tokenizer | `<extra_id_N>` | BOS put before a text | pad token | chat template |
    |---|---|---|---|---|---|
    | llama | byte-level BPE | one special token each | yes | `<pad>` | no |
    | mistral | BPE with `▁` for a space and byte fallback | several ordinary tokens | yes | none | yes |
    | qwen2 | byte-level BPE | one ordinary added token each | no | `<|endoftext|>`, also the EOS | no |
    """
    made: dict[str, Path] = {}

    def directory(style: str) -> Path:
        if style not in made:
            made[style] = tmp_path_factory.mktemp(f"tiny-{style}")
            _save_model(style, made[style])
        return made[style]

    return directory


def _save_model(style: str, directory: Path) -> None:
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    tokenizer = _tokenizer(style)
    tokenizer.save_pretrained(directory)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.05,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    model: Any
    if style == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True))
    elif style == "mistral":
        model = MistralForCausalLM(MistralConfig(**shape, sliding_window=256))
    elif style == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    else:
        raise ValueError(f"style {style!r}: one of {', '.join(STYLES)} is wanted")
    model.save_pretrained(directory)


def _tokenizer(style: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    turn_tokens = ["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
    if style == "qwen2":
        special = ["<|endoftext|>"]
        named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    else:
        special = ["<unk>", "<s>", "</s>"]
        named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if style == "llama":
        special += ["<pad>", *turn_tokens]
        named["pad_token"] = "<pad>"
    if style == "mistral":
        core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = special + [f"<0x{byte:02X}>" for byte in range(256)]
        # lines without their end, as sentencepiece trains: a newline stays a byte token
        texts = [line for text in SENTENCES for line in text.splitlines()]
        core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=512, special_tokens=alphabet))
        core = _as_plain_tokens(core, keep_special=special)
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        core.train_from_iterator(SENTENCES, trainer)
    if style != "qwen2":
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **named)
    if style == "qwen2":
        tokenizer.add_tokens(turn_tokens)
    if style == "mistral":
        tokenizer.chat_template = MISTRAL_TEMPLATE
    return tokenizer


def _as_plain_tokens(core: Any, keep_special: list[str]) -> Any:
    """The same tokenizer with the byte tokens as ordinary vocabulary, as sentencepiece models have them."""
    import json

    from tokenizers import Tokenizer

    fields = json.loads(core.to_str())
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["content"] in keep_special]
    return Tokenizer.from_str(json.dumps(fields))
