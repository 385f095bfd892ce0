"""Kubernetes quantities: their value, and the text the API server keeps of them ("0.5" becomes "500m", "1024Mi" "1Gi").

Written after the reference of the API's `Quantity` type.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_QUANTITY = re.compile(r"([0-9]*\.?[0-9]*)(?:([eE][+-]?[0-9]+)|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?")
_DECIMAL = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_FACTORS = {
    **{suffix: Decimal(1000) ** (place - 3) for place, suffix in enumerate(_DECIMAL)},
    **{suffix: Decimal(1024) ** (place + 1) for place, suffix in enumerate(_BINARY)},
}


def value(text: str | int | float) -> Decimal:
    """The number a quantity stands for.

    Raises:
        ValueError: it is none.
    """
    number, exponent, suffix = _parts(str(text))
    return Decimal(number + exponent) * _FACTORS[suffix]


def canonical(text: str) -> str:
    """The same quantity with a whole number and the largest suffix that allows it; rounded up where it is too fine.

    Raises:
        ValueError: it is no quantity.
    """
    amount = value(text)
    if amount >= 1024 and _parts(text)[2] in _BINARY:
        return _with_suffix(int(amount.to_integral_value(ROUND_CEILING)), 1024, ("", *_BINARY))
    nano = int((amount / _FACTORS["n"]).to_integral_value(ROUND_CEILING))
    return _with_suffix(nano, 1000, _DECIMAL) if nano else "0"


def _parts(text: str) -> tuple[str, str, str]:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[1] in ("", "."):
        raise ValueError(f"{text!r} is no quantity")
    return found[1], found[2] or "", found[3] or ""


def _with_suffix(number: int, base: int, suffixes: tuple[str, ...]) -> str:
    place = 0
    while number % base == 0 and place + 1 < len(suffixes):
        number, place = number // base, place + 1
    return f"{number}{suffixes[place]}"
