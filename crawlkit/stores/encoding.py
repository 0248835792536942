"""JSON for the database, whatever stands in the text."""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """`value` as JSON; half of a surrogate pair becomes a question mark.

    As in an error's message about bytes that are no text: it must not keep a checkpoint from being
    written, now and at every later try.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(without_surrogates(msgspec.to_builtins(value)))


def without_surrogates(value: Any) -> Any:
    """JSON-like values with a replacement for each half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [without_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {without_surrogates(k): without_surrogates(v) for k, v in value.items()}
    return value
