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


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def size(count: int) -> str:
    """Bytes, in the unit in which they have one to three digits before the point."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def span(seconds: float) -> str:
    """Seconds in two units at most: ``7.3 ms``, ``1.35 s``, ``4 min 05 s``, ``2 d 3 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def plural(count: int, noun: str) -> str:
    """``1 item``, ``1,200 items``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
