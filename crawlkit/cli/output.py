"""How verbs print: JSON, lines, tables, and numbers for people.

What a server wrote may be in all of it. JSON says the same with escapes for what a terminal would
obey, so it has them, wherever it goes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from ..units import number as number
from ..units import plural as plural
from ..units import size as size
from ..units import span as span


def print_json(value: Any) -> None:
    """One JSON value, indented."""
    click.echo(msgspec.json.format(harmless(msgspec.json.encode(value)), indent=2))


def print_json_list(values: Iterable[Any]) -> None:
    """A JSON array, streamed, one element a line; bytes are JSON already."""
    out = sys.stdout.buffer
    before = b"[\n"
    for value in values:
        encoded = value if isinstance(value, bytes) else msgspec.json.encode(value)
        out.write(before + harmless(encoded))
        before = b",\n"
    out.write(b"[]\n" if before == b"[\n" else b"\n]\n")
    out.flush()


def print_lines(lines: Iterable[bytes]) -> None:
    """Many lines of JSON, without a flush after each."""
    out = sys.stdout.buffer
    for line in lines:
        out.write(harmless(line) + b"\n")
    out.flush()


def harmless(encoded: bytes) -> bytes:
    r"""JSON on one line, with ``\u`` escapes for what is not printable: C1, bidi marks and DEL."""
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded  # JSON itself wants escapes for all below a blank
    text = encoded.decode()
    if text.isprintable():
        return encoded
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text).encode()


def table(rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Rows in columns: the first to the left, the others to the right; the last may be text."""
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
