"""How verbs print: JSON, lines, tables, and numbers for people.

What a server wrote may be in all of it. JSON says the same with escapes for what a terminal would
obey, so it has them, wherever it goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from ..figures import number as number
from ..figures import plural as plural
from ..figures import size as size
from ..figures import span as span


def say(text: str) -> bool:
    """Print a line; whether there is still somebody who reads.

    Where nobody does, as after ``| head``, what is done must go on, and end with its own exit code.
    Unlike `click.echo` it writes above the lines that show the progress.
    """
    try:
        print(text, flush=True)
    except OSError:
        # What is still buffered must not be flushed to the broken pipe at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def print_json(value: Any) -> None:
    """One JSON value, indented."""
    click.echo(msgspec.json.format(harmless(msgspec.json.encode(value)), indent=2))


def print_json_list(values: Iterable[Any]) -> int:
    """A JSON array, streamed, one element a line; bytes are JSON already. How many they were."""
    out = sys.stdout.buffer
    before, count = b"[\n", 0
    for value in values:
        count += 1
        encoded = value if isinstance(value, bytes) else msgspec.json.encode(value)
        out.write(before + harmless(encoded))
        before = b",\n"
    out.write(b"\n]\n" if count else b"[]\n")
    out.flush()
    return count


def print_lines(lines: Iterable[bytes]) -> int:
    """Many lines of JSON, without a flush after each. How many they were."""
    out = sys.stdout.buffer
    count = 0
    for line in lines:
        count += 1
        out.write(harmless(line) + b"\n")
    out.flush()
    return count


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


def styled(text: str, style: str) -> str:
    """Text in a colour or in bold, where standard output is a terminal that is to have colours.

    ``NO_COLOR`` turns them off (no-color.org).
    """
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if not wanted or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return text
    return click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)


def columns() -> int | None:
    """How many columns standard output has, or ``None`` where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
