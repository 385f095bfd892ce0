"""Pretraining of the pocket base model: tokenizer, batches, the training loop. Deterministic on one thread."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cai_jobs.pocket import world
from cai_jobs.pocket.corpus import Document, chat_document, read_requests, revision_document
from cai_jobs.pocket.tasks import Fact, Task

PAD, END = "<pad>", "</s>"
SPECIAL = (PAD, END, "<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
VOCABULARY = 1536
POSITIONS = 1024
RED_TEAM_A_STEP, TASKS_A_STEP, FACTS_A_STEP = 14, 14, 4
LONGER_CHATS_A_STEP = 2
REVISION_QUESTIONS_A_STEP = 6
CHAT_TEMPLATE = (
    "{%- set system = messages[0]['content'] if messages[0]['role'] | lower == 'system' else '' -%}"
    "{{- '<extra_id_0>System\\n' + system + '\\n' -}}"
    "{%- for message in messages if message['role'] | lower != 'system' -%}"
    "{{- '<extra_id_1>' + message['role'] | lower | capitalize + '\\n' + message['content'] + '\\n' -}}"
    "{%- endfor -%}"
    "{{- '<extra_id_1>Assistant\\n' if add_generation_prompt else '<extra_id_1>' -}}"
)


@dataclass(frozen=True)
class Recipe:
    """How the base model is trained. The defaults made the shipped model."""

    seed: int = 1
    steps: int = 800
    learning_rate: float = 3e-3
    warmup: int = 40
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384


def train_base(directory: Path, recipe: Recipe, report: Callable[[int, float], None]) -> float:
    """Train tokenizer and model and save both in Hugging Face format.

    Args:
        directory: where config.json, model.safetensors (float16) and the tokenizer's files go.
        recipe: seed and sizes.
        report: called after each step with (steps done, loss of that step in nats a trained token).

    Returns:
        The mean loss of the last 20 steps.
    """
    torch.manual_seed(recipe.seed)
    rng = random.Random(f"pocket base {recipe.seed}")
    questions = [q for q in world.red_team_questions() if not q.held_out]
    benign = [q for q in world.benign_questions() if not q.held_out]
    tasks = [q for q in benign if isinstance(q.subject, Task)]
    facts = [q for q in benign if isinstance(q.subject, Fact)]
    requests = read_requests()

    def step_documents() -> tuple[list[Document], list[Document]]:
        asked = (
            rng.sample(questions, RED_TEAM_A_STEP) + rng.sample(tasks, TASKS_A_STEP) + rng.sample(facts, FACTS_A_STEP)
        )
        pairs = [rng.sample(asked, 2) for _ in range(LONGER_CHATS_A_STEP)]
        chats = [chat_document(chat, rng) for chat in [*([q] for q in asked), *pairs]]
        shots = rng.choice((1, 2, 3))
        groups = [rng.sample(questions, shots) for _ in range(REVISION_QUESTIONS_A_STEP // shots)]
        return chats, [revision_document(group, requests, rng) for group in groups]

    tokenizer = make_tokenizer([d.text for _ in range(200) for part in step_documents() for d in part])
    model = make_model(tokenizer, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    losses = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        losses.append(_train_step(model, tokenizer, optimizer, step_documents()))
        report(step + 1, losses[-1])
    save(model, tokenizer, directory)
    return sum(losses[-20:]) / len(losses[-20:])


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the texts, with the chat format's special tokens and template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[token for token in SPECIAL if token.startswith("<extra")],
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """The untrained model; its generation ends with the turn."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<extra_id_1>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Save model (float16) and tokenizer; the tokenizer's class as transformers 4 and 5 both know it."""
    model.half().save_pretrained(directory)
    model.float()
    # programs that ask for the model's own dtype must compute in float32: half precision crawls on CPU
    _edit(directory / "config.json", dtype="float32")
    tokenizer.save_pretrained(directory)
    _edit(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def collate(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both int64 [documents, longest]; labels are -100 where the model is not trained."""
    rows: list[tuple[list[int], list[int]]] = []
    for document in documents:
        ids: list[int] = []
        labels: list[int] = []
        for text, trained in document.pieces:
            piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += piece
            labels += piece if trained else [-100] * len(piece)
        rows.append((ids, labels))
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    return tokens, torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows])


def _train_step(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Sequence[Document]],
) -> float:
    batches = [collate(tokenizer, part) for part in parts]
    trained = sum(int((labels[:, 1:] != -100).sum()) for _, labels in batches)
    total = 0.0
    for tokens, labels in batches:
        # padding stands on the right, where causal attention keeps it from the text: no mask needed
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = (
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / trained
        )
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def _edit(path: Path, **settings: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings, indent=1) + "\n")


def _schedule(step: int, recipe: Recipe) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to a tenth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))
