"""Forms: what a file of items looks like, by its ending."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from ..items import decode_item, item_line
from .shapes import as_text

if TYPE_CHECKING:
    from ..stores.base import StoredItem

OnProgress: TypeAlias = Callable[[int], None]
"""Told how many items have been gone through since it was told last."""

STEP = 500
"""Items between two reports of progress."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def _ignore(count: int) -> None:
    pass


class Writing(msgspec.Struct, frozen=True):
    """How items are written.

    Attributes:
        meta: Whether each item has where it came from.
        escape_formulas: Whether text in CSV that a spreadsheet would run is made harmless.
        on_progress: Told of the second pass of a form that has two.
    """

    meta: bool = False
    escape_formulas: bool = True
    on_progress: OnProgress = _ignore


class Form(Protocol):
    """Writes items to one file."""

    def add(self, item: StoredItem) -> None:
        """Write one item, or take note of it."""

    def finish(self) -> None:
        """Write what is left; the file is then complete."""

    def close(self) -> None:
        """Give back what it holds, at the end of all."""


class Lines:
    """JSON lines: an object a line."""

    def __init__(self, file: IO[bytes], writing: Writing) -> None:
        self._file = file
        self._meta = writing.meta

    def add(self, item: StoredItem) -> None:
        """Write one item."""
        self._file.write(item_line(item, meta=self._meta) + b"\n")

    def finish(self) -> None:
        """Nothing is left."""

    def close(self) -> None:
        """Nothing is held."""


class Array:
    """One JSON array, an object a line."""

    def __init__(self, file: IO[bytes], writing: Writing) -> None:
        self._file = file
        self._meta = writing.meta
        self._before = b"[\n"

    def add(self, item: StoredItem) -> None:
        """Write one item."""
        self._file.write(self._before + item_line(item, meta=self._meta))
        self._before = b",\n"

    def finish(self) -> None:
        """Close the array."""
        self._file.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")

    def close(self) -> None:
        """Nothing is held."""


class Spool:
    """Items that are gone through twice, as what heads a file is known only after the last one.

    They are kept in a file in between rather than read twice from the run: one that still goes on
    would have more of them the second time.
    """

    def __init__(self, writing: Writing) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._meta = writing.meta
        self._on_progress = writing.on_progress

    def add(self, item: StoredItem) -> dict[str, Any]:
        """Keep an item; its fields."""
        fields = decode_item(item, meta=self._meta)
        line = item.data
        if self._meta or b"\n" in line:
            line = _encode(fields)
        self._file.write(line + b"\n")
        return fields

    def lines(self) -> Iterator[bytes]:
        """All items as lines of JSON; once."""
        self._file.seek(0)
        count = 0
        for count, line in enumerate(self._file, 1):
            yield line
            if not count % STEP:
                self._on_progress(STEP)
        self._on_progress(count % STEP)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class Csv:
    """CSV in UTF-8, with a column for every field of any item, as they were first seen.

    Lists and objects are JSON in their cell, ``null`` is an empty one.
    """

    def __init__(self, file: IO[bytes], writing: Writing) -> None:
        self._file = file
        self._cell = _escaped if writing.escape_formulas else _plain
        self._spool = Spool(writing)
        self._header: dict[str, None] = {}

    def add(self, item: StoredItem) -> None:
        """Take note of one item."""
        self._header.update(dict.fromkeys(self._spool.add(item)))

    def finish(self) -> None:
        """Write all of it."""
        cell, header = self._cell, self._header
        writer = csv.writer(_TextOut(self._file))
        if header:
            writer.writerow([cell(name) for name in header])
        for line in self._spool.lines():
            fields = _decode(line)
            writer.writerow([cell(fields.get(name)) for name in header])

    def close(self) -> None:
        """Give back what was kept of the items."""
        self._spool.close()


class _TextOut:
    """Text to a binary file, in UTF-8, without the buffering and closing of TextIOWrapper."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_is_number = re.compile(r"[+-]?[0-9][0-9 .,]*(?:[eE][+-]?[0-9]+)?").fullmatch


def _plain(value: Any) -> str:
    return as_text(value) or ""


def _escaped(value: Any) -> str:
    text = as_text(value) or ""
    if text.startswith(_FORMULA_STARTS) and not _is_number(text):
        return f"'{text}"
    return text
