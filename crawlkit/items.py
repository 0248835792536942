"""Items: what pages save, on its way into the store and out of it.

An item is stored as one JSON object. On the way in, dicts and objects with fields (dataclasses,
msgspec, attrs and pydantic) become JSON, checked against the crawler's ``item_type`` where it has
one. How they get into files is the business of `exporting`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from .clock import isoformat
from .errors import ItemError, UsageError
from .finite import refuse_infinite

if TYPE_CHECKING:
    from .stores.base import StoredItem

_UNSUPPORTED = "save text, numbers, lists or dicts (of a selector: its .get() or .getall())"


# -- in -----------------------------------------------------------------------------------------


def encode_item(item: object) -> bytes:
    """`item` as a JSON object.

    Args:
        item: A dict, or an object of a dataclass or a msgspec, attrs or pydantic class. Its values
            are JSON-like, or such as JSON has a custom for: dates and times (ISO 8601), ``Decimal``
            and ``UUID`` (text), sets (lists), bytes (base64), enums, and objects like itself.

    Raises:
        ItemError: It is nothing of the kind.
    """
    try:
        data = _encode(item)
        refuse_infinite(data, item, _hook)
    except _FAILURES as error:
        raise ItemError(_why_not(item, error)) from None
    if data[:1] != b"{":
        raise ItemError(
            f"an item is a dict or an object with fields, not {_a(item)}; save {{'value': ...}}"
        )
    return data


class ItemType:
    """The type that every item of a crawler must have.

    Args:
        type: A dataclass, a ``TypedDict``, or a msgspec, attrs or pydantic class.

    Raises:
        UsageError: It is none of these.
    """

    def __init__(self, type: Any) -> None:
        self.name = str(getattr(type, "__name__", type))
        self._type = type
        self._is_pydantic = hasattr(type, "model_validate")
        self._is_dataclass = dataclasses.is_dataclass(type)
        self._fields: frozenset[str] = frozenset()
        if not self._is_pydantic:
            try:
                info: Any = msgspec.inspect.type_info(type)
                self._fields = frozenset(field.encode_name for field in info.fields)
                self._decoder = msgspec.json.Decoder(type)
            except (AttributeError, TypeError, NameError):
                raise UsageError(
                    f"item_type cannot be {self.name}; use a dataclass, a TypedDict, or a msgspec, "
                    "attrs or pydantic class"
                ) from None

    def encode(self, item: object) -> bytes:
        """`item` as a JSON object of this type, with the defaults of what it leaves out.

        An item of another type, such as a dict, is converted as if it were JSON: text is no number,
        but an ISO 8601 time is a ``datetime``. Pydantic classes convert by their own rules.

        Raises:
            ItemError: It does not fit; the message names the field.
        """
        return self._encode_pydantic(item) if self._is_pydantic else self._encode_typed(item)

    def _encode_typed(self, item: object) -> bytes:
        data = encode_item(item)
        try:
            value = self._decoder.decode(data)
        except msgspec.ValidationError as error:
            reason, _, path = str(error).partition(" - at `$.")
            where = f"field {path[:-1]!r}: " if path else ""
            raise ItemError(f"an item is no {self.name}: {where}{reason}") from None
        keys = item.keys() if isinstance(item, dict) else ()
        if unknown := [key for key in keys if str(key) not in self._fields]:
            # To drop it without a word would lose what somebody took the trouble to extract.
            raise ItemError(f"an item is no {self.name}: it has no field {unknown[0]!r}")
        # msgspec leaves defaults to the class of a dataclass, where it then overlooks them.
        return encode_item(dataclasses.asdict(value) if self._is_dataclass else value)

    def _encode_pydantic(self, item: object) -> bytes:
        try:
            value = self._type.model_validate(
                item if isinstance(item, self._type) else _as_builtins(item)
            )
        except ValueError as error:
            errors: Callable[[], list[dict[str, Any]]] | None = getattr(error, "errors", None)
            if errors is None:
                raise
            first = errors()[0]
            path = ".".join(map(str, first["loc"]))
            where = f"field {path!r}: " if path else ""
            raise ItemError(f"an item is no {self.name}: {where}{first['msg']}") from None
        return encode_item(value)


def _hook(value: Any) -> Any:
    if hasattr(type(value), "model_dump"):  # pydantic, which need not be installed
        return value.model_dump(mode="json")
    raise TypeError(f"{_a(value)} is nothing that JSON can hold")


_encode = msgspec.json.Encoder(enc_hook=_hook).encode
_FAILURES = (TypeError, ValueError, OverflowError, RecursionError)


def _as_builtins(item: object) -> Any:
    try:
        return item if isinstance(item, dict) else msgspec.to_builtins(item, enc_hook=_hook)
    except _FAILURES as error:
        raise ItemError(_why_not(item, error)) from None


def _why_not(item: object, error: BaseException) -> str:
    """What is wrong with an item that could not be encoded, and in which field."""
    reason = " ".join(str(error).split())
    if isinstance(item, dict):
        for key, value in item.items():
            try:
                _encode({key: value})
            except _FAILURES:
                return f"an item cannot be saved: field {key!r}: {reason}; {_UNSUPPORTED}"
    return f"an item cannot be saved: {reason}; {_UNSUPPORTED}"


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


# -- out ----------------------------------------------------------------------------------------


def decode_item(item: StoredItem, *, meta: bool = False) -> dict[str, Any]:
    """The saved fields of an item; with `meta` also ``_url``, ``_handler`` and ``_time``."""
    fields: dict[str, Any] = msgspec.json.decode(item.data)
    return fields | _meta(item) if meta else fields


def item_line(item: StoredItem, *, meta: bool = False) -> bytes:
    """An item as one line of JSON, without the line's end; `meta` as for `decode_item`."""
    # The stored bytes are JSON already: a million of them need not be read to be written.
    return _encode(decode_item(item, meta=True)) if meta else item.data


def _meta(item: StoredItem) -> dict[str, Any]:
    return {"_url": item.url, "_handler": item.handler, "_time": isoformat(item.at)}
