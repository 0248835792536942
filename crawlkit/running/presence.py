"""Presence: that a store hears of its worker, and others do not take what that one has."""

from __future__ import annotations

import asyncio
import time

from ..errors import StoreError
from ..stores.base import Store
from .stopping import Stopping
from .trouble import REST, Trouble


class Presence:
    """A worker's signs of life, beside those that its commits and claims are.

    Args:
        store: Who is to hear of the worker.
        stopping: Whether its job was told to stop.
        trouble: What is known of the store's trouble.
    """

    def __init__(self, store: Store, stopping: Stopping, trouble: Trouble) -> None:
        self._store = store
        self._stopping = stopping
        self._trouble = trouble

    @property
    def is_overdue(self) -> bool:
        """Whether what this worker has may be another one's by now, as far as this one knows."""
        return time.monotonic() - self._store.heard >= self._store.lease

    async def confirm(self) -> None:
        """Have the store confirm that this worker still has what it had, or be told to stop."""
        while self.is_overdue and not self._stopping.is_told:
            if not await self._extend():
                await asyncio.sleep(REST)

    async def keep(self) -> None:
        """Be heard of, however long it takes until there is something to save."""
        if not self._store.is_shared:
            return
        while True:
            await asyncio.sleep(self._store.lease / 3)
            await self._extend()

    async def _extend(self) -> bool:
        try:
            await self._store.extend()
        except StoreError as error:
            self._trouble.report(error)
            return False
        return True
