"""Exporting: items into a file, or into several, at any address.

Whatever their number, they are streamed. A file appears whole or not at all, and several that are
written together appear when all of them are complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from hashlib import sha256
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from msgspec.structs import replace

from ..errors import OptionError
from ..items import decode_item
from .forms import STEP, Array, Csv, Form, Lines, OnProgress, Writing
from .places import Places, is_remote, no_fsspec, unwritable
from .shapes import as_text

if TYPE_CHECKING:
    from ..stores.base import StoredItem

FILES = 100
"""Files into which items are split, at most."""
NO_PYARROW = "Parquet needs pyarrow; install it with pip install 'crawlkit[parquet]'"
MAX_NAME = 80
"""Characters of a value that are part of a file's name."""


def _parquet(file: IO[bytes], writing: Writing) -> Form:
    try:
        from .parquet import Parquet  # here, as it brings pyarrow along, which is an extra
    except ImportError:
        raise OptionError(NO_PYARROW) from None
    return Parquet(file, writing)


FORMS: Mapping[str, Callable[[IO[bytes], Writing], Form]] = {
    ".jsonl": Lines,
    ".ndjson": Lines,
    ".json": Array,
    ".csv": Csv,
    ".parquet": _parquet,
}
"""The forms by the ending of a file."""

IN_TWO_PASSES = (".csv", ".parquet")
"""Endings of forms that go through all items a second time."""


def export_items(
    items: Iterable[StoredItem],
    address: str | os.PathLike[str],
    *,
    meta: bool = False,
    escape_formulas: bool = True,
    on_progress: OnProgress | None = None,
) -> int:
    """Write items to a file in the form that its ending names; returns how many they were.

    The file appears whole or not at all: it is written beside its place and then moved there, or
    by the transaction of the file system that `address` is in.

    Args:
        items: What `Reader.items` gives; gone through once, never held in memory.
        address: A path, or a URL that fsspec understands (extra ``[remote]``). It ends with
            ``.jsonl`` or ``.ndjson``: a JSON object a line. ``.json``: one array. ``.csv``: UTF-8
            with a header of all fields in the order in which they were first seen; lists and dicts
            are JSON in their cell, ``None`` is an empty one. ``.parquet`` (extra ``[parquet]``):
            columns of the types that fit all items; lists and dicts stay what they are.
        meta: Add ``_url``, ``_handler`` and ``_time`` (ISO 8601 in UTC) to each item.
        escape_formulas: In CSV, put ``'`` before text that a spreadsheet would take for a formula
            (https://owasp.org/www-community/attacks/CSV_Injection): what begins with ``=``, ``+``,
            ``-``, ``@``, their full-width forms, a tab, a carriage return or a line feed, and is
            not simply a number. Numbers stay as they are.
        on_progress: Told how many items were gone through since it was told last; all of them
            `passes_of` times.

    Raises:
        OptionError: The ending is none of these, or an extra is not installed.
        CrawlkitError: The file cannot be written.
    """
    writing = _writing(meta, escape_formulas, on_progress)
    return sum(_export(items, os.fspath(address), None, writing).values())


def split_items(
    items: Iterable[StoredItem],
    address: str | os.PathLike[str],
    by: str,
    *,
    meta: bool = False,
    escape_formulas: bool = True,
    on_progress: OnProgress | None = None,
) -> dict[str, int]:
    """Write items to several files, which appear together; how many are in each, by address.

    Args:
        items: As for `export_items`.
        address: As for `export_items`; ``items.csv`` becomes ``items-NAME.csv``.
        by: ``handler``, for the name of the handler that saved an item; else the name of a field,
            such as ``type``, whose value is the name. Items without it are in ``items-none.csv``.
        meta: As for `export_items`.
        escape_formulas: As for `export_items`.
        on_progress: As for `export_items`.

    Raises:
        OptionError: There would be more than 100 files; or as for `export_items`.
        CrawlkitError: A file cannot be written.
    """
    writing = _writing(meta, escape_formulas, on_progress)
    return _export(items, os.fspath(address), by, writing)


def check_address(address: str) -> None:
    """Refuse an address that items could not be exported to, before there are any.

    Raises:
        OptionError: Its ending is not known, or an extra is not installed.
    """
    _maker_of(address)
    if _ending(address) == ".parquet" and find_spec("pyarrow") is None:
        raise OptionError(NO_PYARROW)
    if is_remote(address) and find_spec("fsspec") is None:
        raise OptionError(no_fsspec(address))


def passes_of(address: str | os.PathLike[str]) -> int:
    """How often a form goes through all items, for those who show its progress."""
    return 2 if _ending(os.fspath(address)) in IN_TWO_PASSES else 1


def _writing(meta: bool, escape_formulas: bool, on_progress: OnProgress | None) -> Writing:
    writing = Writing(meta, escape_formulas)
    return writing if on_progress is None else replace(writing, on_progress=on_progress)


def _export(
    items: Iterable[StoredItem], address: str, by: str | None, writing: Writing
) -> dict[str, int]:
    make = _maker_of(address)
    forms: dict[str, Form] = {}
    counts: dict[str, int] = {}
    seen = 0
    try:
        with Places() as places, ExitStack() as closing:

            def form(where: str) -> Form:
                if len(forms) >= FILES:
                    raise OptionError(
                        f"{by} has more than {FILES} values; split by one that has fewer"
                    )
                made = forms[where] = make(places.open(where), writing)
                closing.callback(made.close)
                counts[where] = 0
                return made

            if by is None:
                form(address)
            for seen, item in enumerate(items, 1):
                where = address if by is None else _named(address, _name_of(item, by))
                (forms.get(where) or form(where)).add(item)
                counts[where] += 1
                if not seen % STEP:
                    writing.on_progress(STEP)
            writing.on_progress(seen % STEP)
            for each in forms.values():
                each.finish()
    except OSError as error:
        raise unwritable(address, error) from None
    return counts


def _maker_of(address: str) -> Callable[[IO[bytes], Writing], Form]:
    make = FORMS.get(_ending(address))
    if make is None:
        raise OptionError(
            f"{address} has no ending that items can be written to; use one of {', '.join(FORMS)}"
        )
    return make


def _ending(address: str) -> str:
    return os.path.splitext(address)[1].lower()


def _name_of(item: StoredItem, by: str) -> str:
    if by == "handler":
        return item.handler
    return as_text(decode_item(item).get(by)) or "none"


def _named(address: str, name: str) -> str:
    """The address of the file for items with `name`, which may have come from a page.

    It stays in its directory, whatever the name.
    """
    start, ending = os.path.splitext(address)
    safe = quote(name, safe=" ")
    if len(safe) > MAX_NAME:
        safe = f"{safe[:MAX_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"
    return f"{start}-{safe}{ending}"
