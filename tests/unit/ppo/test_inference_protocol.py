"""The Open Inference Protocol: both encodings, and what is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from cai_jobs.ppo import inference_protocol as protocol

TENSORS: protocol.Tensors = {
    "tokens": np.arange(6, dtype=np.int64).reshape(2, 3),
    "mask": np.array([[True], [False]]),
    "returns": np.array([0.5, -1.25], np.float32),
    "empty": np.zeros((0, 3), np.float16),
}


@pytest.mark.parametrize("binary", [True, False])
def test_a_request_comes_back(binary: bool) -> None:
    body, headers = protocol.encode_request(TENSORS, {"step": 3}, binary=binary)
    assert (protocol.LENGTH_HEADER in headers) is binary
    request = protocol.decode_request(body, headers.get(protocol.LENGTH_HEADER))
    assert request.parameters == {"step": 3}
    assert request.binary is binary
    assert list(request.tensors) == list(TENSORS)
    for name, array in TENSORS.items():
        assert request.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(request.tensors[name], array)


@pytest.mark.parametrize("binary", [True, False])
def test_an_answer_comes_back_the_way_it_was_asked_for(binary: bool) -> None:
    request = protocol.Message({}, id="a7", binary=binary)
    body, headers = protocol.encode_answer("critic_infer", TENSORS, {"step": 4}, request)
    head = json.loads(body[: int(headers.get(protocol.LENGTH_HEADER, len(body)))])
    assert (head["model_name"], head["id"], head["parameters"]) == ("critic_infer", "a7", {"step": 4})
    answer = protocol.decode_answer(body, headers.get(protocol.LENGTH_HEADER))
    np.testing.assert_array_equal(answer.tensors["returns"], TENSORS["returns"])


def test_bytes_are_little_endian_in_the_order_of_the_json() -> None:
    """Spelled out by hand, as another implementation would write it."""
    head = {
        "id": "1",
        "inputs": [
            {"name": "tokens", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}},
            {"name": "step", "shape": [1, 1], "datatype": "INT32", "data": [[7]]},
            {"name": "returns", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        ],
        "outputs": [{"name": "values", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    request = protocol.decode_request(text + struct.pack("<qqff", 5, -6, 1.5, 2.5), str(len(text)))
    assert request.tensors["tokens"].tolist() == [[5, -6]]
    assert request.tensors["step"].tolist() == [[7]]
    assert request.tensors["returns"].tolist() == [1.5, 2.5]
    assert (request.id, request.binary) == ("1", True)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2], **changes}


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "array of objects"),
        ([3], "tensor 0 must be a JSON object"),
        ([tensor(name=None)], "no name"),
        ([tensor(shape=[-1])], "shape"),
        ([tensor(datatype="STRING")], "INT64"),
        ([tensor(data=[1, 2, 3])], "does not fit INT64"),
        ([tensor(data=["a", "b"])], "does not fit"),
        ([tensor(data=None)], "does not fit"),
        ([tensor(parameters={"binary_data_size": 8})], "takes 16 bytes"),
        ([tensor(parameters={"binary_data_size": 16})], "16 bytes announced, 0 there"),
    ],
)
def test_wrong_tensors_are_refused_with_a_sentence(inputs: Any, sentence: str) -> None:
    with pytest.raises(protocol.ProtocolError, match=sentence):
        protocol.decode_request(json.dumps({"inputs": inputs}).encode(), None)


@pytest.mark.parametrize(
    ("body", "length", "sentence"),
    [
        (b"{nope", None, "not JSON"),
        (b"[]", None, "JSON object"),
        (b"{}", "x", "a number is wanted"),
        (b"{}", "9", "the body has 2 bytes"),
        (b'{"inputs": []}abc', "14", "3 bytes are left over"),
        (b'{"parameters": 4}', None, "parameters must be"),
    ],
)
def test_wrong_bodies_are_refused_with_a_sentence(body: bytes, length: str | None, sentence: str) -> None:
    with pytest.raises(protocol.ProtocolError, match=sentence):
        protocol.decode_request(body, length)
