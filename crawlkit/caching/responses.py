"""CachedResponses: the responses of a page cache, looked up and kept.

Which of them a request wants is decided by `Place`; when one may be used, by those who ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from ..clock import Clock
from ..http.hops import Hop
from ..request import Request
from ..response import CacheResult, Response
from .entry import MAX_BODY, CacheEntry, Packer, decompress, fields_of, pack, unpack
from .freshness import selecting_value, storable_headers, terms_of, vary_names
from .store import CacheStore

KIND = b"p"
"""The first byte of the keys of pages; those of derived data have another."""

_LARGE = 256 * 1024
_PAUSE_AFTER = 0.002


class Stored(NamedTuple):
    """What was found: its row, the entry, and its body, compressed."""

    row: bytes
    entry: CacheEntry
    packed: bytes

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Its header fields."""
        return self.entry.headers


class Place:
    """Where the response to a request is kept, and which of those that are there it wants.

    A part of a body (``Range``) has a place of its own beside that of the whole.

    `view` gives the fields that the site sees, where HTTP is asked; elsewhere only the request's
    own headers count, as cookies and the like would make every session's page another one.
    """

    __slots__ = ("first", "hop", "name", "request", "row", "view")

    def __init__(
        self,
        name: bytes,
        request: Request,
        hop: Hop,
        view: Callable[[], CIMultiDict[str]] | None = None,
    ) -> None:
        self.name = name
        self.row = KIND + blake2b(name, digest_size=15).digest()
        part = None if hop.headers is None else hop.headers.get("Range")
        if part is not None:
            part = f"Range: {part}"
            self.row += blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self.request = request
        self.hop = hop
        self.view = view
        self.first: CacheEntry | None = None

    def whole(self) -> Place:
        """The place of the whole body, where this is that of a part."""
        hop = self.hop
        if hop.headers is None or "Range" not in hop.headers:
            return self
        headers = CIMultiDict(hop.headers)
        headers.popall("Range")
        return Place(self.name, self.request, replace(hop, headers=headers or None), self.view)

    def selected(self, names: tuple[str, ...]) -> tuple[tuple[str, str | None, str | None], ...]:
        """What this request has in the fields that ``Vary`` names; see `CacheEntry.vary`."""
        if not names:
            return ()
        view = self.view() if self.view is not None else self.hop.headers
        own = self._own()
        return tuple(
            (name, selecting_value(view, name), selecting_value(own, name)) for name in names
        )

    def _own(self) -> CIMultiDict[str]:
        """Those of its headers that this request brings itself."""
        given = {name.lower() for name in self.request.headers}
        headers = (self.hop.headers or CIMultiDict()).items()
        return CIMultiDict([(name, value) for name, value in headers if name.lower() in given])

    def matches(self, entry: CacheEntry) -> bool:
        """Whether this request would have been given that response (RFC 9111, section 4.1)."""
        if entry.is_private and not self.hop.is_private:
            return False  # what a private site once said is not for pages of the web
        if not entry.vary:
            return True
        mine = self.selected(tuple(name for name, *_ in entry.vary))
        if self.view is not None:
            return mine == entry.vary
        return [own for *_, own in mine] == [own for *_, own in entry.vary]

    def selection(self, entry: CacheEntry) -> bytes:
        """What a row is called beside the first one."""
        own = self._own()
        values = [selecting_value(own, name) for name, *_ in entry.vary]
        return blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def row_for(self, entry: CacheEntry) -> bytes:
        """The row in which a response to this request is kept."""
        first = self.first
        if (
            first is None
            or not first.vary
            or [name for name, *_ in first.vary] != [name for name, *_ in entry.vary]
            or self.matches(first)
        ):
            return self.row
        return self.row + self.selection(entry)


class CachedResponses:
    """Responses on disk.

    Args:
        store: Where their bytes are.
        clock: What their ages are measured by.
    """

    def __init__(self, store: CacheStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._packer = Packer()
        self._paused_at = 0.0

    async def look_up(self, place: Place) -> Stored | None:
        """What is stored for a request.

        One response has the row of its key, and those that other request fields have chosen have
        rows beside it.
        """
        first = await self._read(place, place.row)
        if first is None:
            return None
        place.first = first.entry
        if place.matches(first.entry):
            return first
        if not first.entry.vary:
            return None
        second = await self._read(place, place.row + place.selection(first.entry))
        return second if second is not None and place.matches(second.entry) else None

    async def _read(self, place: Place, row: bytes) -> Stored | None:
        found = self._store.look_up(row)
        if found is None:
            return None
        name = place.name + row
        if found.value is not None:
            unpacked = unpack(name, found.value)
        else:
            data = await self._store.read_whole(row)
            unpacked = None if data is None else await asyncio.to_thread(unpack, name, data)
        return None if unpacked is None else Stored(row, *unpacked)

    async def response_of(
        self, stored: Stored, result: CacheResult, age: float | None = None
    ) -> Response | None:
        """A response as it was, or ``None`` where its body is damaged."""
        entry, packed = stored.entry, stored.packed
        if entry.size > _LARGE:
            body = await asyncio.to_thread(decompress, packed, entry.size)
        else:
            body = decompress(packed, entry.size)
        if body is None:
            return None
        headers = entry.headers
        if age is not None:
            aged = CIMultiDict(headers)
            aged["Age"] = str(int(age))
            headers = CIMultiDictProxy(aged)
        response = Response(
            url=entry.url,
            status=entry.status,
            headers=headers,
            body=body,
            redirects=entry.redirects,
            is_private=entry.is_private,
        )
        response.cache = result
        now = self._clock.now()
        if now - self._paused_at > _PAUSE_AFTER:
            # A crawl that is served whole from here would not let anything else run.
            await asyncio.sleep(0)
            self._paused_at = now
        return response

    async def keep(self, place: Place, response: Response, requested: float) -> None:
        """Put a response on disk."""
        body = response.body
        if len(body) > MAX_BODY:
            return
        received = self._clock.now()
        names = vary_names(response.headers) if "Vary" in response.headers else ()
        entry = CacheEntry(
            url=response.url,
            status=response.status,
            fields=fields_of(storable_headers(response.headers)),
            size=len(body),
            requested=requested,
            received=received,
            terms=terms_of(response.status, response.headers, requested, received),
            tries=place.request.retry_count,
            is_private=response.is_private,
            vary=place.selected(names),
            redirects=response.redirects,
        )
        row = place.row_for(entry)
        name = place.name + row
        # In the thread that writes: zstd works without the GIL, and takes longer than all this.
        response.is_stored = await self._store.write(
            row, lambda: pack(name, entry, self._packer.compress(body)), None
        )

    async def keep_again(self, place: Place, stored: Stored) -> bool:
        """Put back an entry whose head was changed, with the body that it has; whether it is."""
        row, entry, packed = stored
        return await self._store.write(row, lambda: pack(place.name + row, entry, packed), None)

    async def forget(self, place: Place) -> None:
        """Remove what is kept for a request, whatever other fields have chosen."""
        await self._store.delete_prefix(place.row)
