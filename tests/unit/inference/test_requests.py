"""Request bodies and texts, without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cai_jobs.inference.megatron_api import GenerateBody
from cai_jobs.inference.openai_api import ChatBody, CompletionBody
from cai_jobs.inference.request import RequestError, cut_at_stop
from cai_jobs.inference.streaming import settled
from cai_jobs.inference.validation import parse


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_defaults_are_the_references() -> None:
    given = parse(GenerateBody, body(sentences=["a"])).model_dump(exclude={"sentences"})
    assert given == {
        "tokens_to_generate": 64,
        "temperature": 1.0,
        "add_BOS": False,
        "greedy": False,
        "top_k": 0,
        "top_p": 0.9,
        "repetition_penalty": 1.0,
        "min_tokens_to_generate": 0,
        "end_strings": ["<|endoftext|>"],
        "all_probs": False,
        "compute_logprob": False,
        "random_seed": None,
        "random_seeds": None,
    }


def test_a_complaint_names_field_value_and_what_is_allowed() -> None:
    with pytest.raises(RequestError) as caught:
        parse(GenerateBody, body(sentences=["a"], temperature=0), {"temperature": "the reference's words"})
    assert caught.value.message == "temperature is 0; allowed: a number above 0 and at most 100"
    assert caught.value.where == "temperature"
    assert caught.value.reference == "the reference's words"


def test_a_long_value_is_shortened_in_a_complaint() -> None:
    with pytest.raises(RequestError) as caught:
        parse(GenerateBody, body(sentences="x" * 10_000))
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"text"', b"\xff", b'{"sentences": ["a"], "temperature": NaN}'])
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        parse(GenerateBody, raw)


def test_null_means_the_default_in_openai_requests() -> None:
    asked = parse(CompletionBody, body(prompt="a", max_tokens=None, temperature=None, n=None, stop=None, suffix=None))
    assert (asked.max_tokens, asked.temperature, asked.n) == (16, 1.0, 1)


@pytest.mark.parametrize("field", ["presence_penalty", "logit_bias", "best_of", "tools", "suffix", "response_format"])
def test_what_cannot_be_given_is_refused_by_name(field: str) -> None:
    value = {"logit_bias": {"5": 1}, "tools": [{}], "suffix": "x", "response_format": {"type": "json_object"}}.get(
        field, 2
    )
    with pytest.raises(RequestError, match=f"^{field} is not supported"):
        parse(ChatBody, body(messages=[{"role": "user", "content": "a"}], **{field: value}))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("a b", ("b",), ("a ", "b")),
        ("a b", ("c",), ("a b", None)),
        ("a b c", ("c", "b"), ("a ", "b")),
        ("abc", ("b", "bc"), ("a", "bc")),
        ("abab", ("ab",), ("", "ab")),
        ("abc", ("",), ("abc", None)),
        ("", ("a",), ("", None)),
    ],
)
def test_cut_at_stop(text: str, stop: tuple[str, ...], expected: tuple[str, str | None]) -> None:
    assert cut_at_stop(text, stop) == expected


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello", (), "hello"),
        ("hello", ("lo there",), "hel"),
        ("hello", ("o, you", "llo you"), "he"),
        ("hello", ("ell",), "h"),
        ("caf\ufffd", (), "caf"),
        ("a\ufffdb", (), "a\ufffdb"),
    ],
)
def test_settled(text: str, stop: tuple[str, ...], expected: str) -> None:
    assert settled(text, stop) == expected


def test_what_is_settled_never_changes() -> None:
    whole, stop = "one two three twofold", ("two t", "threefold")
    final = cut_at_stop(whole, stop)[0]
    for end in range(len(whole) + 1):
        assert final.startswith(settled(whole[:end], stop))


def test_programs_and_request_shapes_import_no_torch() -> None:
    modules = "cai_jobs.serve, cai_jobs.get_answer, cai_jobs.inference.app, cai_jobs.inference.engine"
    code = f"import sys, {modules}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    root = Path(__file__).parents[3] / "jobs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
