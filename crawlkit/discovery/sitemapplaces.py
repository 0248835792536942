"""SitemapPlaces: how far each sitemap that is being read was taken."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

import msgspec

from ..checkpoint import Checkpoint, Document, Saved, decode
from ..errors import LimitError, PageTypeError
from ..response import Response
from .sitemaps import Entry, SitemapParser

ENTRIES_AT_ONCE = 500
"""Entries after which a checkpoint is taken: a million requests are not to be held in memory."""


class _Place(msgspec.Struct):
    """How far a sitemap was taken: so many entries, and a checksum of them."""

    count: int = 0
    crc: int = 0


class SitemapPlaces:
    """A persisted part: how far each sitemap that is being read was taken.

    A place is in the same checkpoint as the requests that lie before it. A sitemap that was being
    read when the process died is fetched again, and read from its place on if what lies before
    that is unchanged; else from its beginning, and the dedup set drops what is known.

    Args:
        read: Reads a document from the store by its name, where other workers may have moved it.
    """

    def __init__(self, read: Callable[[str], Awaitable[Document | None]] | None = None) -> None:
        self._read = read
        self._places: dict[str, _Place] = {}
        self._changed: set[str] = set()

    async def entries(
        self, url: str, response: Response, *, at_once: int = ENTRIES_AT_ONCE
    ) -> AsyncIterator[list[Entry]]:
        """The entries that were not taken yet, in lists that are not empty.

        The event loop runs between two pieces of the body. What was given counts as taken only when
        `advance` says so.

        Args:
            url: The URL of the request for the sitemap, before redirects.
            response: What it was answered with.
            at_once: Entries of a list, at most.

        Raises:
            PageTypeError: As `SitemapParser.parse`; what could be read has been given. So it is not
                tried again, and the place is dropped.
            LimitError: Likewise.
        """
        await self._refresh(url)
        try:
            skip = await self._known(url, response)
            waiting: list[Entry] = []
            failure: PageTypeError | LimitError | None = None
            pieces = _parse(response)
            while failure is None:
                try:
                    found = next(pieces, None)
                except (PageTypeError, LimitError) as error:
                    failure, found = error, []
                if found is None:
                    break
                if skip and found:
                    found, skip = found[skip:], max(0, skip - len(found))
                waiting += found
                while len(waiting) >= at_once:
                    yield waiting[:at_once]
                    del waiting[:at_once]
                await asyncio.sleep(0)
            if waiting:
                yield waiting
            if failure is not None:
                raise failure
        except (PageTypeError, LimitError):
            self.done(url)
            raise

    async def count_sitemaps(self, url: str, response: Response) -> tuple[int, int]:
        """How many other sitemaps it lists, and how many of these were taken.

        Args:
            url: The URL of the request for the sitemap, before redirects.
            response: What it was answered with.
        """
        place = self._places.get(url, _Place())
        entries = listed = taken = 0
        try:
            for found in _parse(response):
                for entry in found:
                    entries += 1
                    if entry.kind == "sitemap":
                        listed += 1
                        taken += entries <= place.count
                await asyncio.sleep(0)
        except (PageTypeError, LimitError):
            pass  # met again, and told, when the entries are given
        return listed, taken

    def advance(self, url: str, entries: Iterable[Entry]) -> None:
        """Count `entries` as taken. Call it together with enqueuing them, without an ``await``."""
        place = self._places.setdefault(url, _Place())
        for entry in entries:
            place.count += 1
            place.crc = _checksum(entry, place.crc)
        self._changed.add(url)

    def done(self, url: str) -> None:
        """Drop the place: the sitemap was read to its end, or is given up."""
        if self._places.pop(url, None) is not None:
            self._changed.add(url)

    async def _refresh(self, url: str) -> None:
        """Another worker may have read the sitemap up to some place, before it was claimed here."""
        if self._read is None or url in self._changed:
            return
        document = await self._read(f"sitemaps/{url}")
        if document is None:
            self._places.pop(url, None)
        else:
            self._places[url] = decode(document.data, f"sitemaps/{url}", _Place)

    async def _known(self, url: str, response: Response) -> int:
        """How many entries at the beginning were taken, if they are what they were."""
        place = self._places.get(url)
        if place is None:
            return 0
        count = crc = 0
        try:
            for found in _parse(response):
                for entry in found[: place.count - count]:
                    count += 1
                    crc = _checksum(entry, crc)
                if count == place.count:
                    break
                await asyncio.sleep(0)
        except (PageTypeError, LimitError):
            pass  # met again, and told, when the entries are given
        if (count, crc) == (place.count, place.crc):
            return count
        self.done(url)
        return 0

    def restore(self, saved: Saved) -> None:
        """Take back the places."""
        self._places = {url: saved.load(key=url, type=_Place) for url in tuple(saved.keys())}

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over the places that have changed."""
        for url in self._changed:
            place = self._places.get(url)
            if place is None:
                checkpoint.drop(url)
            else:
                checkpoint.save(place, key=url)
        self._changed.clear()


def _parse(response: Response) -> Iterator[list[Entry]]:
    return SitemapParser(response.url, response.headers.get("Content-Type", "")).parse(
        response.body
    )


def _checksum(entry: Entry, before: int) -> int:
    return zlib.crc32(f"{entry.kind} {entry.url}\n".encode(), before)
