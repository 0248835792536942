"""Late: the file of items that is made when the crawl has ended.

A file whose head or columns depend on all items cannot grow with the crawl. It is made of what the
store holds, in a thread of its own, after everything was saved: whoever ends the process meanwhile
loses that file and nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CrawlkitError
from .export import export_items
from .places import is_remote, unwritable

if TYPE_CHECKING:
    from ..stores.base import Reader


class _Cancelled(Exception):
    """Nobody waits for the file any more."""


def make_room(address: str) -> None:
    """Make the directory of a file that is to be written, as is done for one that grows.

    It is asked for when the crawl begins, so that a file that cannot be written is not found out
    at its end.

    Raises:
        CrawlkitError: It cannot be made, or nothing can be written into it.
    """
    if is_remote(address):
        return
    directory = Path(address).resolve().parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise unwritable(address, error) from None


async def export_stored(open_reader: Callable[[], Reader], address: str) -> int:
    """Write all items of a run to a file; how many they were.

    Args:
        open_reader: Opens the run for reading.
        address: As for `export_items`.

    Raises:
        CrawlkitError: The file cannot be written. The items are kept all the same.
    """
    is_cancelled = False

    def check(count: int) -> None:
        if is_cancelled:
            raise _Cancelled

    def export() -> int:
        reader = open_reader()
        try:
            return export_items(reader.items(), address, on_progress=check)
        except CrawlkitError as error:
            raise CrawlkitError(
                f"{error} (the items are kept, see 'crawlkit items {reader.address} -o FILE')"
            ) from None
        finally:
            reader.close()

    try:
        return await asyncio.to_thread(export)
    except asyncio.CancelledError:
        is_cancelled = True  # the process would wait for the thread before it ends
        raise
