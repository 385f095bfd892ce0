"""Whether two programs mean the same by a token id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cai_jobs.contract.program import InputError


def describe_vocabulary(model: Path, size: int) -> dict[str, Any]:
    """{"vocab_size", "vocab_digest"}: what two programs compare to know that they mean the same tokens.

    The digest (sha256 over sorted token -> id) is None where the directory has no tokenizer; `size` then stands.
    """
    from transformers import AutoTokenizer

    if not any((model / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return {"vocab_size": size, "vocab_digest": None}
    vocabulary = AutoTokenizer.from_pretrained(model).get_vocab()
    text = json.dumps(sorted(vocabulary.items()), ensure_ascii=False)
    return {"vocab_size": len(vocabulary), "vocab_digest": hashlib.sha256(text.encode()).hexdigest()}


def check_same_vocabulary(ours: Mapping[str, Any], critic: Mapping[str, Any]) -> None:
    """Compare two results of `describe_vocabulary`.

    Raises:
        InputError: the tokenizers differ, or, where the critic has none, its model knows fewer tokens.
    """
    advice = "both must come from one SFT model: give serve_critic the reward model trained from this policy"
    theirs = critic.get("vocab_size")
    if critic.get("vocab_digest") is None or ours["vocab_digest"] is None:
        if isinstance(theirs, int) and theirs < ours["vocab_size"]:
            raise InputError(f"the policy has {ours['vocab_size']} tokens, the critic's model {theirs}; {advice}")
    elif theirs != ours["vocab_size"]:
        raise InputError(f"the policy's tokenizer has {ours['vocab_size']} tokens, the critic's {theirs}; {advice}")
    elif critic["vocab_digest"] != ours["vocab_digest"]:
        raise InputError(
            f"the policy's and the critic's tokenizers have {theirs} tokens each, but not the same ones; {advice}"
        )
