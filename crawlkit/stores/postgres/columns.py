"""Columns of rows on their way to the server: arrays in PostgreSQL's binary form.

A column of thousands of values is packed in one go, a fifteenth of the time that psycopg takes for
a list of as many. Text is made to fit: PostgreSQL has no NUL character, and no half of a surrogate
pair.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, ClassVar

from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

_NULL = b"\xff\xff\xff\xff"
_NUL_SIGN = "\u2400".encode()
"""What stands for a NUL character."""


class Column(list[Any]):
    """The values of one column; ``None`` is NULL."""

    oid: ClassVar[int]  # of the values
    array_oid: ClassVar[int]
    code: ClassVar[str] = ""  # that of `struct`
    size: ClassVar[int] = 0

    def packed(self) -> bytes:
        """The array as PostgreSQL takes it."""
        code, size = self.code, self.size
        head = struct.pack(">iiiii", 1, 0, self.oid, len(self), 1)
        if None in self:
            parts = [
                _NULL if value is None else struct.pack(f">i{code}", size, value) for value in self
            ]
            return head + b"".join(parts)
        flat = [size] * (2 * len(self))
        flat[1::2] = self
        return head + struct.pack(">" + f"i{code}" * len(self), *flat)


class Bools(Column):
    """Truth values."""

    oid, array_oid, code, size = 16, 1000, "?", 1


class Ints(Column):
    """Numbers of 32 bits."""

    oid, array_oid, code, size = 23, 1007, "i", 4


class Longs(Column):
    """Numbers of 64 bits."""

    oid, array_oid, code, size = 20, 1016, "q", 8


class Floats(Column):
    """Floating-point numbers."""

    oid, array_oid, code, size = 701, 1022, "d", 8


class Texts(Column):
    """Text, as `str` or as UTF-8."""

    oid, array_oid = 25, 1009

    def packed(self) -> bytes:  # noqa: D102 - documented in Column
        parts = [struct.pack(">iiiii", 1, 0, self.oid, len(self), 1)]
        for value in self:
            if value is None:
                parts.append(_NULL)
                continue
            data = value if type(value) is bytes else utf8(value)
            parts.append(len(data).to_bytes(4, "big"))
            parts.append(data)
        return b"".join(parts)


class ColumnDumper(Dumper):
    """What hands a column to psycopg."""

    format = Format.BINARY

    def dump(self, obj: Column) -> bytes:  # noqa: D102 - documented in Dumper
        return obj.packed()


KINDS: tuple[type[Column], ...] = (Bools, Ints, Longs, Floats, Texts)


def register(context: AdaptContext) -> None:
    """Have a connection take columns."""
    for kind in KINDS:
        dumper = type(f"{kind.__name__}Dumper", (ColumnDumper,), {"oid": kind.array_oid})
        context.adapters.register_dumper(kind, dumper)


def columns(kinds: tuple[type[Column], ...], rows: Iterable[tuple[Any, ...]]) -> list[Column]:
    """Rows as columns, one for each kind."""
    turned = list(zip(*rows, strict=True))
    if not turned:
        return [kind() for kind in kinds]
    return [kind(values) for kind, values in zip(kinds, turned, strict=True)]


def utf8(text: str) -> bytes:
    """Text as PostgreSQL can hold it: what it has no room for is replaced, not refused."""
    data = text.encode("utf-8", "replace")
    return data.replace(b"\0", _NUL_SIGN) if b"\0" in data else data
