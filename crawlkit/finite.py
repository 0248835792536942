"""Finite: the numbers that JSON has a word for, which infinity and NaN are not.

The encoder writes ``null`` for them. What is read back would not be what was saved, and nobody
would know; so they are refused where they are given.
"""

from __future__ import annotations

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
    if b"null" in data and not _is_finite(value, enc_hook):
        found = _find(msgspec.to_builtins(value, enc_hook=enc_hook), "")
        raise ValueError(f"{found}, and JSON has no word for that")


def _is_finite(value: Any, enc_hook: Callable[[Any], Any] | None) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    if value is None or isinstance(value, str | int | bytes):
        return True
    if isinstance(value, dict):
        return all(_is_finite(inner, enc_hook) for inner in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_finite(inner, enc_hook) for inner in value)
    return _is_finite(msgspec.to_builtins(value, enc_hook=enc_hook), enc_hook)


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
