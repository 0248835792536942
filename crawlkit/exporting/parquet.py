"""Parquet: items in typed columns, for the tools of data people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import json

from .forms import Spool, Writing
from .shapes import Column, Table

if TYPE_CHECKING:
    from ..stores.base import StoredItem

GROUP_ROWS = 100_000
"""Rows of a row group, at most."""
GROUP_BYTES = 8 * 2**20
"""Bytes of JSON of which a row group is made: what is held in memory, and as much again."""
BATCH_BYTES = 2**20
"""Bytes of JSON that are read into columns at once."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Parquet:
    """Parquet, compressed with zstd. The types of columns fit all items, see `shapes`."""

    def __init__(self, file: IO[bytes], writing: Writing) -> None:
        self._file = file
        self._spool = Spool(writing)
        self._table = Table()

    def add(self, item: StoredItem) -> None:
        """Take note of one item."""
        self._table.see(self._spool.add(item))

    def finish(self) -> None:
        """Write all of it."""
        columns = self._table.columns()
        schema = pa.schema([(name, type_of(column)) for name, column in columns.items()])
        with pq.ParquetWriter(self._file, schema, compression="zstd") as writer:
            group = _Group(schema, writer)
            for line in self._lines(columns):
                group.add(line)
            group.write()

    def close(self) -> None:
        """Give back what was kept of the items."""
        self._spool.close()

    def _lines(self, columns: Mapping[str, Column]) -> Iterator[bytes]:
        """The items as JSON lines in which every value is of the type of its column."""
        if not columns:
            return
        fit = Column("object", fields=columns).converter()
        if fit is None:
            yield from self._spool.lines()
        else:
            for line in self._spool.lines():
                yield _encode(fit(_decode(line))) + b"\n"


class _Group:
    """Lines on their way into a row group.

    Arrow's own reader makes columns of them: no value becomes an object of Python, and pandas is
    not imported, as it is by `pyarrow.array` wherever it is installed.
    """

    def __init__(self, schema: Any, writer: Any) -> None:
        self._writer = writer
        self._pool = pa.system_memory_pool()  # gives back what is no longer used
        self._parse = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        self._lines: list[bytes] = []
        self._bytes = self._group_bytes = 0
        self._tables: list[Any] = []
        self._rows = 0

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= BATCH_BYTES:
            self._gather()
            if self._group_bytes >= GROUP_BYTES or self._rows >= GROUP_ROWS:
                self.write()

    def write(self) -> None:
        self._gather()
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables))
        self._tables = []
        self._rows = self._group_bytes = 0

    def _gather(self) -> None:
        if not self._lines:
            return
        data = b"".join(self._lines)
        options = json.ReadOptions(use_threads=False, block_size=len(data) + 1)
        table = json.read_json(pa.BufferReader(data), options, self._parse, memory_pool=self._pool)
        self._tables.append(table)
        self._rows += table.num_rows
        self._group_bytes += self._bytes
        self._lines = []
        self._bytes = 0


def type_of(column: Column) -> Any:
    """A column's type, as Arrow calls it."""
    if column.kind == "list" and column.element is not None:
        return pa.list_(type_of(column.element))
    if column.kind == "object":
        return pa.struct([(name, type_of(inner)) for name, inner in column.fields.items()])
    return _TYPES[column.kind]


_TYPES = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "json": pa.string(),
}
