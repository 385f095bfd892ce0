"""Request bodies checked by pydantic, complaints in sentences: field, what was found, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cai_jobs.inference.request import RequestError

SHOWN = 80


class Body(BaseModel):
    """A request body. Types are strict (no "5" for 5); each field's description says what is allowed."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


B = TypeVar("B", bound=Body)


def parse(kind: type[B], raw: bytes, references: Mapping[str, str] | None = None) -> B:
    """Parse a request body.

    Args:
        references: field -> the string megatron_gpt_eval.py answers where that field is wrong.

    Raises:
        RequestError: not a JSON object, or a field is wrong.
    """
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as problem:
        raise RequestError("the request's body holds half of a surrogate pair, which is no character") from problem
    except (ValueError, RecursionError) as problem:
        raise RequestError(f"the request's body is not JSON ({problem})") from problem
    if not isinstance(body, dict):
        raise RequestError("the request's body is not a JSON object")
    try:
        return kind.model_validate(body)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        raise RequestError(
            _sentence(kind, field, body, first["msg"]), field, reference=(references or {}).get(field or "")
        ) from None


def _sentence(kind: type[Body], field: str | None, body: Mapping[str, Any], complaint: str) -> str:
    if field is None:
        return complaint.removeprefix("Value error, ")
    allowed = next((i.description for name, i in kind.model_fields.items() if field in (name, i.alias)), None)
    if field not in body:
        return f"{field} is missing; allowed: {allowed}"
    found = json.dumps(body[field], ensure_ascii=False)
    found = found if len(found) <= SHOWN else found[: SHOWN - 1] + "…"
    return f"{field} is {found}; allowed: {allowed or complaint}"
