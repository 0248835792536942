"""Frames: items as a table of pandas or polars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal, TypeAlias

from ..errors import OptionError, UsageError
from .shapes import Column, Table

Library: TypeAlias = Literal["pandas", "polars"]

BATCH = 5000
"""Items that are objects of Python at once."""


def frame_of(read: Callable[[], Iterable[dict[str, Any]]], library: Library | None = None) -> Any:
    """Items as a frame.

    Args:
        read: Gives the items, each time from the first one on. It is called twice, and gives the
            same ones.
        library: ``polars`` or ``pandas``; ``None`` for polars where it is installed, else pandas.

    Raises:
        OptionError: The library is not installed, or there is none.
        UsageError: There is no such library.
    """
    make = _maker(library)
    table = Table()
    for item in read():
        table.see(item)
    columns = table.columns()
    return make(_batches(read(), columns), columns)


Batch: TypeAlias = dict[str, list[Any]]


def _maker(library: Library | None) -> Callable[[Iterator[Batch], dict[str, Column]], Any]:
    if library not in (None, *_MAKERS):
        raise UsageError(f"there is no library {library!r} for frames; use polars or pandas")
    for name in _MAKERS if library is None else (library,):
        if find_spec(name) is not None:
            return _MAKERS[name]
    wanted = library or "polars"
    raise OptionError(f"a frame needs {wanted}; install it with pip install 'crawlkit[{wanted}]'")


def _batches(items: Iterable[dict[str, Any]], columns: dict[str, Column]) -> Iterator[Batch]:
    converters = {name: column.converter() for name, column in columns.items()}
    rows = iter(items)
    while batch := list(islice(rows, BATCH)):
        lists = {}
        for name, convert in converters.items():
            values = [row.get(name) for row in batch]
            lists[name] = values if convert is None else list(map(convert, values))
        yield lists


def _polars(batches: Iterator[Batch], columns: dict[str, Column]) -> Any:
    import polars as pl

    def type_of(column: Column) -> Any:
        if column.kind == "list" and column.element is not None:
            return pl.List(type_of(column.element))
        if column.kind == "object":
            return pl.Struct({name: type_of(inner) for name, inner in column.fields.items()})
        simple = {"bool": pl.Boolean, "int": pl.Int64, "float": pl.Float64}
        return simple.get(column.kind, pl.String)

    schema = {name: type_of(column) for name, column in columns.items()}
    frames = [pl.DataFrame(batch, schema=schema) for batch in batches]
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def _pandas(batches: Iterator[Batch], columns: dict[str, Column]) -> Any:
    import pandas as pd

    # Whole numbers and truth values with gaps need the types that know of gaps.
    simple = {
        "bool": "boolean",
        "int": "Int64",
        "float": "float64",
        "text": "string",
        "json": "string",
    }
    types = {name: simple.get(column.kind, "object") for name, column in columns.items()}
    frames = [
        pd.DataFrame({name: pd.Series(values, dtype=types[name]) for name, values in batch.items()})
        for batch in batches
    ]
    if not frames:
        return pd.DataFrame({name: pd.Series([], dtype=type) for name, type in types.items()})
    return pd.concat(frames, ignore_index=True)


_MAKERS: dict[str, Callable[[Iterator[Batch], dict[str, Column]], Any]] = {
    "polars": _polars,
    "pandas": _pandas,
}
