"""Seat: a worker's place at a hub, in the hub's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Checkpoint, Document, Snapshot
from ..errors import StoreError
from ..stores.base import Allotment, Claim, Reader, Receipt, Store
from .hub import Hub, Member

LOOK_AGAIN = 1.0
"""Seconds after which `news` comes back without a reason."""


class Seat(Store):
    """The run of a hub, for one worker in the hub's process: in tests, and beside other work.

    Args:
        hub: The run, opened.
        worker: The worker's name.
    """

    is_shared = True

    def __init__(self, hub: Hub, worker: str) -> None:
        self.address = hub.store.address
        self.worker = worker
        self.lease = hub.lease
        self._hub = hub
        self._member: Member | None = None
        self._news = asyncio.Event()

    async def open(self, *, fresh: bool = False) -> None:  # noqa: D102 - documented in Store
        loop = asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(self._news.set)

        self._member = await self._hub.store.do(self._hub.join, self.worker, notify)

    async def load(self) -> Snapshot:  # noqa: D102
        return await self._hub.store.load()

    async def document(self, name: str) -> Document | None:  # noqa: D102
        return await self._hub.store.document(name)

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:  # noqa: D102
        return await self._hub.store.do(self._hub.claim, self._me, limit, dict(window), now)

    async def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        return await self._hub.store.do(self._commit, checkpoint)

    def _commit(self, checkpoint: Checkpoint) -> Receipt:
        bases = {name: merge.base for name, merge in checkpoint.merges.items()}
        merged = {}
        for name, stored in self._hub.conflicts(self._me, bases).items():
            mine, (base, combine) = checkpoint.documents[name], checkpoint.merges[name]
            assert mine is not None  # what is removed is not merged
            merged[name] = Document(mine.version, combine(base, mine.data, stored.data))
        # A copy, as this one is for the worker to see what it has handed over.
        receipt = self._hub.commit(
            self._me, replace(checkpoint, documents={**checkpoint.documents, **merged})
        )
        return replace(receipt, merged=merged)

    async def extend(self) -> None:  # noqa: D102
        await self._hub.store.do(self._hub.extend, self._me)

    async def try_lock(self, name: str) -> bool:  # noqa: D102
        return await self._hub.store.do(self._hub.try_lock, self._me, name)

    async def unlock(self, name: str) -> None:  # noqa: D102
        await self._hub.store.do(self._hub.unlock, self._me, name)

    async def news(self) -> None:  # noqa: D102
        try:
            async with asyncio.timeout(LOOK_AGAIN):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def allot(self, counters: tuple[str, ...], most: int, wanted: int) -> Allotment:  # noqa: D102
        return await self._hub.store.do(self._hub.allot, self._me, counters, most, wanted)

    async def finish(self) -> bool:  # noqa: D102
        return await self._hub.store.do(self._hub.finish, self._me)

    def reader(self) -> Reader:  # noqa: D102
        return self._hub.store.reader()

    async def release(self) -> None:  # noqa: D102
        await self._hub.store.do(self._hub.release, self._me)

    async def close(self) -> None:  # noqa: D102
        if self._member is not None:
            await self._hub.store.do(lambda: self._hub.leave(self._me, died=False))
            self._member = None

    @property
    def _me(self) -> Member:
        if self._member is None:
            raise StoreError(f"the run in {self.address} is not open")
        return self._member
