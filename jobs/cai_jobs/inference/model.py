"""A Hugging Face causal model and its tokenizer: encode, generate a batch of rows, score, decode."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from cai_jobs.contract.program import InputError
from cai_jobs.inference.logits import RowSampler, RowStops
from cai_jobs.inference.request import Answer, RequestError, Row, Scores, cut_at_stop

# tokens of the prompt decoded together with a completion, so that a leading space of the completion is not lost
PREFIX_TOKENS = 4
# A padded batch adds up its sums in another order than a row alone. Measured on a 1 M-parameter Llama: in float32
# logits move by 2e-6 and one sampled token in 280,000 becomes another; in float64 the logits are equal bit by bit, and
# the speed is the same, since a model this small costs overhead, not arithmetic, on a CPU.
DOUBLE_BELOW = 20_000_000


class Model:
    """A loaded model. `generate` and `score` belong to one thread; the rest may be called from another.

    Attributes:
        context: tokens that prompt and completion may have together, or None where the model sets no limit.
        vocabulary: tokens the tokenizer knows; the model may have more (padded embeddings).
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.device: torch.device = model.device
        config = model.config.get_text_config()
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary: int = len(tokenizer)
        self._eos_ids = _ids(model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
        known = _ids(tokenizer.bos_token_id, tokenizer.pad_token_id)
        self._hidden = frozenset(self._eos_ids + known)
        self._pad_id: int = next(iter(_ids(tokenizer.pad_token_id, tokenizer.eos_token_id)), 0)
        # a model's own defaults (Qwen's repetition penalty, say) must not mix with what a request asks for
        model.generation_config = GenerationConfig()
        self.encode(["warm up"])

    def encode(self, texts: Sequence[str], *, special_tokens: bool = False, bos: bool = False) -> list[list[int]]:
        """Token ids of each text: with what the tokenizer adds by itself if `special_tokens`, after BOS if `bos`.

        Raises:
            RequestError: the tokenizer has no BOS token, though `bos` asks for it.
        """
        if bos and self._tokenizer.bos_token_id is None:
            raise RequestError("add_BOS is true, but this model's tokenizer has no BOS token", "add_BOS")
        ids = self._tokenizer(list(texts), add_special_tokens=special_tokens, return_attention_mask=False)["input_ids"]
        start = [self._tokenizer.bos_token_id] if bos else []
        return [start + list(row) for row in ids]

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """The dialogue as text by the chat template, open for the assistant's turn (its last turn goes on).

        Raises:
            RequestError: no chat template, or it refuses the dialogue.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            raise RequestError(
                "this model's tokenizer has no chat template; send the formatted prompt as text "
                "to /generate or /v1/completions instead"
            )
        goes_on = bool(messages) and messages[-1]["role"] == "assistant"
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
        except Exception as problem:  # whatever the template's own Jinja code raises
            raise RequestError(f"the model's chat template refuses this dialogue: {problem}") from problem
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token's own text; a sentencepiece word start keeps its U+2581."""
        names: list[str | None] = self._tokenizer.convert_ids_to_tokens(list(ids))
        return [
            name if name is not None and "\u2581" in name else self.decode([token])
            for token, name in zip(ids, names, strict=True)
        ]

    def is_hidden(self, token: int) -> bool:
        """Whether the token (BOS, EOS, padding) has no text in an answer."""
        return token in self._hidden

    def check_length(self, rows: Sequence[Row], field: str) -> None:
        """Raise RequestError if a row's prompt is empty, or longer than the context less the tokens it may generate."""
        for number, row in enumerate(rows):
            length, wanted = len(row.prompt_ids), row.sampling.max_tokens
            if not length:
                raise RequestError(f"prompt {number} has no tokens; the model needs at least one to start from")
            if self.context is not None and length + wanted > self.context:
                raise RequestError(
                    f"prompt {number} has {length} tokens and {wanted} are to be generated: "
                    f"{length + wanted} together, but the model's context is {self.context}; "
                    f"shorten the prompt or lower {field}",
                    field,
                )

    @torch.inference_mode()
    def generate(self, rows: Sequence[Row]) -> int:
        """Generate all rows in one batch; each is finished as soon as it ends. Returns the number of tokens made."""
        width = max(len(row.prompt_ids) for row in rows)
        # plain tensors left-padded: positions follow from the mask, so a row computes the same whatever its padding
        ids = torch.full((len(rows), width), self._pad_id, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, width - len(row.prompt_ids) :] = torch.tensor(row.prompt_ids)
            mask[number, width - len(row.prompt_ids) :] = 1

        def on_token(number: int, tokens: list[int]) -> None:
            row = rows[number]
            if row.on_text is not None:
                row.on_text(self._text(row, tokens))

        def on_end(number: int, tokens: list[int], ended: bool) -> None:
            row = rows[number]
            text, stopped_by = cut_at_stop(self._text(row, tokens), row.sampling.stop)
            scores = self.score(row, tokens) if row.sampling.logprobs else None
            row.finish(Answer(text, stopped_by, tokens, ended or stopped_by is not None, scores))

        sampler = RowSampler(rows, width, self._eos_ids, self.vocabulary, self.device)
        stops = RowStops(rows, self._eos_ids, self._decode_all, on_token, on_end)
        self._model.generate(
            ids.to(self.device),
            attention_mask=mask.to(self.device),
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=max(row.sampling.max_tokens for row in rows),
                pad_token_id=self._pad_id,
                eos_token_id=list(self._eos_ids) or None,
            ),
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([stops]),
        )
        return stops.generated

    @torch.inference_mode()
    def score(self, row: Row, tokens: Sequence[int]) -> Scores:
        """Log-probabilities of prompt and completion in one forward pass over this row alone (no padding)."""
        ids = torch.tensor([[*row.prompt_ids, *tokens]], device=self.device)
        logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
        top: list[list[tuple[int, float]]] = []
        if row.sampling.top_logprobs:
            values, indices = logprobs.topk(min(row.sampling.top_logprobs, logprobs.shape[1]), dim=-1)
            top = [list(zip(*pair, strict=True)) for pair in zip(indices.tolist(), values.tolist(), strict=True)]
        return Scores(chosen, top, logprobs.tolist() if row.sampling.all_logprobs else None)

    def _text(self, row: Row, tokens: Sequence[int]) -> str:
        prefix = row.prompt_ids[-PREFIX_TOKENS:]
        shown = [token for token in tokens if token not in self._hidden]
        before, whole = self._decode_all([prefix, [*prefix, *shown]])
        return whole[len(before) :] if whole.startswith(before) else self.decode(shown)

    def _decode_all(self, ids: list[list[int]]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return texts


def load(directory: Path, device: str, dtype: str) -> Model:
    """Load a model directory for inference.

    Args:
        device: auto, or what torch.device takes. auto is the first GPU if there is one.
        dtype: auto, float32, float64, bfloat16 or float16. auto is bfloat16 on a GPU; on a CPU float32, and float64 for
            models of at most `DOUBLE_BELOW` parameters.

    Raises:
        InputError: the directory cannot be loaded as a causal language model with its tokenizer, or no such device.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    transformers.utils.logging.disable_progress_bar()
    chosen = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    on_cpu = chosen.startswith("cpu")
    kind = dtype if dtype != "auto" else "float32" if on_cpu else "bfloat16"
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, kind)).to(torch.device(chosen))
    except torch.OutOfMemoryError as problem:
        raise InputError(f"{directory}: the model does not fit into the memory of {chosen} ({problem})") from problem
    except Exception as problem:  # transformers, safetensors and tokenizers raise anything for a broken directory
        raise InputError(
            f"{directory}: cannot be loaded as a causal language model ({type(problem).__name__}: {problem})"
        ) from problem
    if dtype == "auto" and on_cpu and model.num_parameters() <= DOUBLE_BELOW:
        model = model.double()
    return Model(model.eval(), tokenizer)


def _ids(*values: int | list[int] | None) -> list[int]:
    flat: dict[int, None] = {}
    for value in values:
        for token in value if isinstance(value, list) else [] if value is None else [value]:
            flat[token] = None
    return list(flat)
