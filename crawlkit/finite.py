"""Finite: the numbers that JSON has a word for, which infinity and NaN are not.

The encoder writes ``null`` for them. What is read back would not be what was saved, and nobody
would know; so they are refused where they are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec


def refuse_infinite(data: bytes, value: Any, enc_hook: Callable[[Any], Any] | None = None) -> None:
    """Raise where a value holds a number that is not in its JSON.

    Args:
        data: The value as JSON. Where no ``null`` is in there, nothing is looked at.
        value: The value.
        enc_hook: The encoder's, if it has one.

    Raises:
        ValueError: It does; the message says where.
    """
    if b"null" not in data:
        return
    plain = msgspec.to_builtins(value, enc_hook=enc_hook)
    try:
        json.dumps(plain, allow_nan=False)  # quick, but it does not say where
    except ValueError:
        if (found := _find(plain, "")) is not None:
            raise ValueError(f"{found}, and JSON has no word for that") from None


def _find(value: Any, place: str) -> str | None:
    """Which number it is, and where; ``None`` where all are finite."""
    if isinstance(value, float) and not isfinite(value):
        return f"{place.removeprefix('.') or 'it'} is {value}"
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inner = [(f"{place}.{key}", one) for key, one in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{place}[{number}]", one) for number, one in enumerate(value)]
    return next((found for name, one in inner if (found := _find(one, name)) is not None), None)
