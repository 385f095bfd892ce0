"""Open Inference Protocol v2 over HTTP: requests and answers as JSON, or JSON followed by raw tensors.

Format: the KServe "Open Inference Protocol" (required API, REST) and its binary tensor data extension: with the header
`Inference-Header-Content-Length: N` the first N bytes are JSON, and each tensor with `parameters.binary_data_size` lies
after it, in order, little-endian, row-major. Supported datatypes are those of fixed width that numpy has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH_HEADER = "Inference-Header-Content-Length"
DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "int8",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in DATATYPES.items()}

Tensors = dict[str, NDArray[Any]]


class ProtocolError(ValueError):
    """A message that is not what the protocol says; the text is fit for the `error` field of a 400."""


@dataclass(frozen=True)
class Message:
    """A request's inputs or an answer's outputs, with its parameters.

    Attributes:
        tensors: name -> array, in the order of the message.
        parameters: the message's own `parameters` object.
        id: the request's `id`, echoed in its answer.
        binary: for a request, whether outputs are wanted as raw bytes (`binary_data_output`, or any output's
        `binary_data`).
    """

    tensors: Tensors
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    binary: bool = False


def encode_request(
    tensors: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any] | None = None, *, binary: bool = True
) -> tuple[bytes, dict[str, str]]:
    """(body, HTTP headers) of an inference request; `binary` is asked of the answer too."""
    head: dict[str, Any] = {"parameters": {**(parameters or {}), "binary_data_output": binary}}
    return _encode(head, "inputs", tensors, binary)


def encode_answer(
    model: str, tensors: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any], request: Message
) -> tuple[bytes, dict[str, str]]:
    """(body, HTTP headers) of the answer to `request`, raw bytes if it asked for them."""
    head: dict[str, Any] = {"model_name": model, "model_version": "1", "parameters": dict(parameters)}
    if request.id is not None:
        head["id"] = request.id
    return _encode(head, "outputs", tensors, request.binary)


def decode_request(body: bytes, header_length: str | None) -> Message:
    """The request in an HTTP body; `header_length` is the value of LENGTH_HEADER, None where there is none.

    Raises:
        ProtocolError: not JSON, a tensor without name, shape or data, wrong size or datatype, bytes missing or left
        over.
    """
    head, rest = _split(body, header_length)
    wanted = head.get("outputs") or []
    parameters = _object(head.get("parameters", {}), "parameters")
    binary = bool(parameters.pop("binary_data_output", False)) or any(
        isinstance(output, dict) and _object(output.get("parameters", {}), "parameters").get("binary_data")
        for output in wanted
    )
    request_id = head.get("id")
    return Message(
        _tensors(head.get("inputs", []), rest), parameters, None if request_id is None else str(request_id), binary
    )


def decode_answer(body: bytes, header_length: str | None) -> Message:
    """The answer in an HTTP body; as `decode_request`."""
    head, rest = _split(body, header_length)
    return Message(_tensors(head.get("outputs", []), rest), _object(head.get("parameters", {}), "parameters"))


def _encode(
    head: dict[str, Any], kind: str, tensors: Mapping[str, NDArray[Any]], binary: bool
) -> tuple[bytes, dict[str, str]]:
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": _datatype(array)}
        if binary:
            blob = array.astype(DATATYPES[entry["datatype"]], copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    text = json.dumps({**head, kind: entries}).encode()
    if not binary:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(text))}
    return b"".join([text, *blobs]), headers


def _datatype(array: NDArray[Any]) -> str:
    try:
        return _NAMES[array.dtype.newbyteorder("<")]
    except KeyError as problem:
        raise ProtocolError(f"no datatype of the protocol for {array.dtype}") from problem


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    length = len(body)
    if header_length is not None:
        try:
            length = int(header_length)
        except ValueError as problem:
            raise ProtocolError(f"{LENGTH_HEADER} is {header_length!r}, a number is wanted") from problem
        if not 0 <= length <= len(body):
            raise ProtocolError(f"{LENGTH_HEADER} is {length}, the body has {len(body)} bytes")
    try:
        head = json.loads(body[:length])
    except ValueError as problem:
        raise ProtocolError(f"the body is not JSON ({problem})") from problem
    return _object(head, "the body"), memoryview(body)[length:]


def _tensors(entries: Any, rest: memoryview) -> Tensors:
    if not isinstance(entries, list):
        raise ProtocolError("the tensors must be an array of objects")
    tensors: Tensors = {}
    for position, entry in enumerate(entries):
        entry = _object(entry, f"tensor {position}")
        name, shape, datatype = entry.get("name"), entry.get("shape"), entry.get("datatype")
        if not isinstance(name, str):
            raise ProtocolError(f"tensor {position} has no name")
        if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ProtocolError(f"tensor {name}: shape {shape!r} is no list of sizes")
        if datatype not in DATATYPES:
            raise ProtocolError(f"tensor {name}: datatype {datatype!r}, supported are {', '.join(DATATYPES)}")
        size = _object(entry.get("parameters", {}), f"tensor {name}: parameters").get("binary_data_size")
        if size is None:
            tensors[name] = _from_json(name, shape, datatype, entry.get("data"))
        else:
            tensors[name], rest = _from_bytes(name, shape, datatype, size, rest)
    if len(rest):
        raise ProtocolError(f"{len(rest)} bytes are left over after the last tensor")
    return tensors


def _from_json(name: str, shape: list[int], datatype: str, data: Any) -> NDArray[Any]:
    try:
        return np.asarray(data, dtype=DATATYPES[datatype]).reshape(shape)
    except (ValueError, TypeError, OverflowError) as problem:
        raise ProtocolError(f"tensor {name}: data does not fit {datatype} {shape} ({problem})") from problem


def _from_bytes(
    name: str, shape: list[int], datatype: str, size: Any, rest: memoryview
) -> tuple[NDArray[Any], memoryview]:
    kind = np.dtype(DATATYPES[datatype])
    wanted = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if size != wanted:
        raise ProtocolError(f"tensor {name}: binary_data_size is {size!r}, {datatype} {shape} takes {wanted} bytes")
    if len(rest) < wanted:
        raise ProtocolError(f"tensor {name}: {wanted} bytes announced, {len(rest)} there")
    # a copy: the body's bytes are read-only and unaligned
    return np.frombuffer(rest[:wanted], dtype=kind).reshape(shape).copy(), rest[wanted:]


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} must be a JSON object")
    return dict(value)
