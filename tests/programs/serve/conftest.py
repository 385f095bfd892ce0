"""Tiny random models in hub format, and the server running on one of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness.forked_program import ForkedProgram

Running = subprocess.Popen[str] | ForkedProgram
SENTENCES = [
    "<extra_id_0>System\n\n<extra_id_1>User\nHow do I bake bread?\n<extra_id_1>Assistant\n",
    "Mix flour, water and salt, let the dough rest and bake it for forty minutes.\n<extra_id_1>",
    "Which bird sings at night? The nightingale sings at night, and the robin before dawn.",
    "The café in the old town serves tea, and its naïve owner smiles at every guest.",
]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_model(style, chat=True): directory of a random 2-layer model of width 32 with a byte-level BPE."""
    made: dict[tuple[str, bool], Path] = {}

    def make(style: str, chat: bool = True) -> Path:
        if (style, chat) not in made:
            made[style, chat] = _make(style, chat, tmp_path_factory.mktemp("models") / f"tiny-{style}")
        return made[style, chat]

    return make


def _make(style: str, chat: bool, directory: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<s>", "</s>", "<pad>", "<extra_id_0>", "<extra_id_1>"]
    bpe.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=340, special_tokens=specials, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    kinds = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }
    config, model = kinds[style]
    torch.manual_seed(5)
    settings: dict[str, Any] = {
        # 12 more than the tokenizer has: padded embeddings must never be generated
        "vocab_size": len(tokenizer) + 12,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    model(config(**settings)).save_pretrained(directory)
    return directory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., tuple[Running, str, Path]]]:
    """start_server(model, *flags, forked=True): (process, url, log), not yet ready; all are killed at the end."""
    started: list[Running] = []

    def start(model: Path, *flags: str, port: int | None = None, forked: bool = True) -> tuple[Running, str, Path]:
        port = port or free_port()
        log = tmp_path_factory.mktemp("server") / "log"
        arguments = ["--model", str(model), "--port", str(port), *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        if forked:
            started.append(ForkedProgram("cai_jobs.serve", arguments, log, environment=environment))
        else:
            command = [sys.executable, "-m", "cai_jobs.serve", *arguments]
            with log.open("w") as out:
                started.append(subprocess.Popen(command, stdout=out, stderr=out, text=True, env=environment))
        return started[-1], f"http://127.0.0.1:{port}", log

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_ready(process: Running, url: str, log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"never ready: {log.read_text()}")


@pytest.fixture(scope="session")
def until_ready() -> Callable[[Running, str, Path], None]:
    return wait_ready


@pytest.fixture(scope="session")
def server(make_model: Callable[..., Path], start_server: Any) -> tuple[str, Path]:
    """A ready server with a chat template: (url, log)."""
    process, url, log = start_server(make_model("llama"), "--batch-window-ms", "50")
    wait_ready(process, url, log)
    return url, log
