"""DerivedData: what was computed from pages, kept in the page cache, computed once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

import msgspec

from ..clock import Clock
from ..errors import UsageError
from ..finite import refuse_infinite
from .entry import CacheEntry, Packer, decompress, pack, unpack
from .freshness import Terms
from .store import CacheStore

KIND = b"d"
"""The first byte of the keys of derived data; those of pages have another."""

# The keys whose values are being computed around the code that asks.
_around: ContextVar[tuple[str, ...]] = ContextVar("crawlkit_derived", default=())


class DerivedData:
    """Values under keys of text: JSON, on disk, computed once however many ask.

    Args:
        store: Where they are kept. Where it is broken, they are computed each time.
        clock: What ages are measured by.
    """

    def __init__(self, store: CacheStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._packer = Packer()
        self._running: dict[str, asyncio.Task[bytes]] = {}
        self._is_closed = False

    async def get(self, key: str, compute: Callable[[], Any], ttl: float | None = None) -> Any:
        """The value under a key; see `PageCache.cached`."""
        if not isinstance(key, str):
            raise UsageError(f"cached() has keys of text, not {key!r}; give a str")
        task = self._running.get(key)
        if task is None:
            kept = await self._read(key, ttl)
            if kept is not None:
                return _decoded(kept)
            task = self._running.get(key)  # somebody may have begun meanwhile
        if self._is_closed:
            raise UsageError(f"cached({key!r}) was asked for after the crawl had ended")
        if task is None:
            task = asyncio.create_task(self._compute(key, compute, ttl))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        elif key in _around.get():
            raise UsageError(f"cached({key!r}) asks for itself; compute it without cached()")
        # A caller that is cancelled leaves the computation to the others.
        return _decoded(await asyncio.shield(task))

    async def close(self) -> None:
        """End what is still being computed."""
        self._is_closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, key: str, task: asyncio.Task[bytes]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # it was raised where somebody waited; where nobody did, it is over

    async def _compute(self, key: str, compute: Callable[[], Any], ttl: float | None) -> bytes:
        _around.set((*_around.get(), key))
        value = compute()
        if inspect.isawaitable(value):
            value = await value
        try:
            data = msgspec.json.encode(value)
            refuse_infinite(data, value)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"what was computed for cached({key!r}) cannot be kept: {error}; return JSON-like "
                "data"
            ) from None
        await self._write(key, data, ttl)
        return data

    async def _read(self, key: str, ttl: float | None) -> bytes | None:
        if not self._store.is_open:
            await self._store.open()
        name, row = _names(key)
        found = self._store.look_up(row)
        if found is None:
            return None
        kept = unpack(name, found.value or await self._store.read_whole(row) or b"")
        if kept is None:
            return None
        entry, packed = kept
        if ttl is not None and self._clock.now() - entry.received >= ttl:
            return None
        return decompress(packed, entry.size)

    async def _write(self, key: str, data: bytes, ttl: float | None) -> None:
        name, row = _names(key)
        now = self._clock.now()
        entry = CacheEntry(
            url="",
            status=0,
            fields=b"",
            size=len(data),
            requested=now,
            received=now,
            terms=Terms(),
        )
        packed = pack(name, entry, self._packer.compress(data))
        await self._store.write(row, lambda: packed, None if ttl is None else now + ttl)


def _names(key: str) -> tuple[bytes, bytes]:
    """The key in full, and what it is stored under."""
    name = KIND + key.encode("utf-8", "surrogatepass")
    return name, KIND + blake2b(name, digest_size=15).digest()


def _decoded(data: bytes) -> Any:
    """Each caller has its own copy, and the first one has what later ones will have."""
    return msgspec.json.decode(data)
