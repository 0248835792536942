"""Shapes: which type fits all values of a field, found by looking at each of them once.

Items are JSON, and nobody has said what is in them. A format with columns of one type, such as
Parquet, needs to know. Types widen as values come: whole numbers become numbers, and what has no
type in common becomes text, in which all but text itself is written as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

MAX_FIELDS = 200
"""Fields of a nested object up to which it is one with fields; with more it is text."""
MAX_DEPTH = 16
"""How deep objects and lists are told apart; what is deeper is text."""

_NULL, _BOOL, _INT, _LONG, _HUGE, _FLOAT, _TEXT, _LIST, _DICT, _VAST = (1 << n for n in range(10))

# Whole numbers of which a float has every one; beyond, a number would not be the same afterwards.
_EXACT = 2**53
_LONGEST = 2**63

_KINDS: dict[type, int] = {type(None): _NULL, bool: _BOOL, float: _FLOAT, str: _TEXT}

_encode = msgspec.json.Encoder().encode

Convert: TypeAlias = Callable[[Any], Any]


class Column(msgspec.Struct, frozen=True):
    """The type of a field.

    Attributes:
        kind: ``bool``, ``int`` (64 bits), ``float`` (64 bits), ``text``, ``list``, ``object``; or
            ``json``: text, in which what is not text itself is written as JSON.
        element: What a list holds.
        fields: What an object holds, by name.
    """

    kind: str
    element: Column | None = None
    fields: Mapping[str, Column] = {}

    def converter(self) -> Convert | None:
        """What makes a value fit; ``None`` where every value does as it is."""
        if self.kind == "json":
            return as_text
        if self.kind == "list" and self.element is not None:
            inner = self.element.converter()
            return None if inner is None else _each(inner)
        if self.kind == "object":
            found = {name: column.converter() for name, column in self.fields.items()}
            inners = {name: convert for name, convert in found.items() if convert is not None}
            return _within(inners) if inners else None
        return None


class Shape:
    """What was seen of the values of one field."""

    __slots__ = ("_depth", "_element", "_fields", "_kinds")

    def __init__(self, depth: int = 0) -> None:
        self._kinds = 0
        self._depth = depth
        self._element: Shape | None = None
        self._fields: dict[str, Shape] = {}

    def see(self, value: Any) -> None:
        """Look at one value."""
        kind = _KINDS.get(type(value))
        if kind is not None:
            self._kinds |= kind
        elif isinstance(value, int):
            self._kinds |= _kind_of(value)
        elif self._depth >= MAX_DEPTH:
            self._kinds |= _VAST
        elif isinstance(value, list):
            self._kinds |= _LIST
            if value:
                if self._element is None:
                    self._element = Shape(self._depth + 1)
                for element in value:
                    self._element.see(element)
        else:
            self._kinds |= _DICT
            self._see_fields(value)

    def _see_fields(self, value: Mapping[str, Any]) -> None:
        fields = self._fields
        for name, inner in value.items():
            shape = fields.get(name)
            if shape is None:
                if len(fields) >= MAX_FIELDS:
                    # Its names are data: prices by date, say. They would be columns without end.
                    self._kinds |= _VAST
                    return
                shape = fields[name] = Shape(self._depth + 1)
            shape.see(inner)

    def column(self) -> Column:
        """The type that fits all of them."""
        kinds = self._kinds & ~_NULL
        if not kinds or kinds == _TEXT:
            return Column("text")  # also where there was nothing but null
        if kinds == _BOOL:
            return Column("bool")
        if not kinds & ~(_INT | _LONG):
            return Column("int")
        if not kinds & ~(_INT | _FLOAT):
            return Column("float")
        if kinds == _LIST:
            return Column("list", (self._element or Shape()).column())
        if kinds == _DICT and self._fields:
            named = {name: shape.column() for name, shape in self._fields.items()}
            return Column("object", fields=named)
        return Column("json")


class Table:
    """The shapes of items: what columns there are, in the order in which they were first seen."""

    def __init__(self) -> None:
        self._shapes: dict[str, Shape] = {}

    def see(self, item: Mapping[str, Any]) -> None:
        """Look at one item."""
        shapes = self._shapes
        for name, value in item.items():
            shape = shapes.get(name)
            if shape is None:
                shape = shapes[name] = Shape()
            shape.see(value)

    def columns(self) -> dict[str, Column]:
        """The columns by name."""
        return {name: shape.column() for name, shape in self._shapes.items()}


def as_text(value: Any) -> str | None:
    """A value of a column in which there are several kinds: text as it is, the rest as JSON."""
    if value is None or isinstance(value, str):
        return value
    return _encode(value).decode()


def _kind_of(number: int) -> int:
    if -_EXACT <= number <= _EXACT:
        return _INT
    return _LONG if -_LONGEST <= number < _LONGEST else _HUGE


def _each(convert: Convert) -> Convert:
    def converted(value: Any) -> Any:
        return None if value is None else [convert(element) for element in value]

    return converted


def _within(converts: Mapping[str, Convert]) -> Convert:
    def converted(value: Any) -> Any:
        if value is None:
            return None
        return {
            name: converts[name](inner) if name in converts else inner
            for name, inner in value.items()
        }

    return converted
