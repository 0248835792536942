"""Trouble: a store that does not work, and how long that is borne."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import StoreWriteError, one_line
from .stopping import Stopping

log = logging.getLogger("crawlkit.job")

T = TypeVar("T")

REST = 0.1
"""Seconds between two looks at a store that is in trouble."""


class Trouble:
    """What a job knows of the trouble that its store is in. Nothing is lost by it.

    Args:
        stopping: How the job is stopped when it cannot go on.
        patience: Seconds for which a store is tried again before that.
    """

    def __init__(self, stopping: Stopping, patience: float) -> None:
        self._stopping = stopping
        self._patience = patience
        self._since: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the store works, as far as is known."""
        return self._since is None

    def report(self, error: Exception) -> None:
        """Something could not be saved or read: stop the job, with patience where that may help."""
        now = asyncio.get_running_loop().time()
        if not isinstance(error, StoreWriteError):
            self._stopping.fail(error)
        elif self._since is None:
            self._since = now
            log.error("%s; nothing is lost, trying again", one_line(error))
        elif now - self._since >= self._patience:
            self._stopping.fail(error)

    def end(self) -> None:
        """The store was seen to work."""
        if self._since is not None:
            log.info("the store works again, and nothing was lost")
        self._since = None

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers; it is asked again while it is in trouble.

        Raises:
            StoreError: The store is beyond repair, or was in trouble for too long.
        """
        since: float | None = None
        while True:
            try:
                return await ask()
            except StoreWriteError as error:
                self.report(error)
                # What else works meanwhile, such as a checkpoint, is no answer.
                now = asyncio.get_running_loop().time()
                since = now if since is None else since
                if now - since >= self._patience:
                    self._stopping.fail(error)
                if self._stopping.failure is not None or self._stopping.is_told:
                    raise
            await asyncio.sleep(REST)
