"""Keys: what a node's result depends on, and nothing else.

A key is the sha256 of the canonical JSON of: the node, the contract's version, the engine, the parameters that change
the result, the keys of the inputs, the digests of the texts used. Hosts, ports, replicas, threads, images, resources
and node selectors are in none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CONTRACT_VERSION = 2
"""Raised when programs give other results for the same parameters on purpose: everything is then made anew."""

KEY_LENGTH = 16


def key_of(
    node: str,
    engine: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    digests: Mapping[str, str],
) -> str:
    """The key of a node, 16 hex digits.

    Args:
        node: its name.
        engine: the engine whose programs run.
        parameters: what changes its result, as JSON values.
        inputs: the keys of the nodes it reads, by name.
        digests: what stands for the texts and the shipped data it reads, by name.
    """
    material = {
        "stage": node,
        "contract": CONTRACT_VERSION,
        "engine": engine,
        "parameters": parameters,
        "inputs": inputs,
        "texts": digests,
    }
    return hashlib.sha256(canonical(material).encode()).hexdigest()[:KEY_LENGTH]


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN, and 1.0 written as 1.

    Raises:
        ValueError: a number that JSON does not have.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # YAML, JSON and a round trip through an API server do not agree on whether 1 is 1.0
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
