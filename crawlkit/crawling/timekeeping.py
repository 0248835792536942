"""Timekeeper: which of a run's workers counts its time and samples where it stands."""

from __future__ import annotations

from ..statistics import Statistics
from ..stores.base import Store

LOCK = "clock"
"""The lock of the worker that does."""


class Timekeeper:
    """Sees to it that one worker of a run counts its time: the first, or one after it has gone.

    Args:
        store: The run.
        statistics: What counts.
    """

    def __init__(self, store: Store, statistics: Statistics) -> None:
        self._store = store
        self._statistics = statistics

    async def look(self) -> None:
        """Count the time from now on, if nobody else does.

        Raises:
            StoreError: The store is in trouble.
        """
        if not self._statistics.keeps_time and await self._store.try_lock(LOCK):
            self._statistics.keep_time(await self._store.document("statistics/samples"))
