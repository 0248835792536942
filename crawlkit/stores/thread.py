"""StoreThread: the one thread in which a store works, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class StoreThread:
    """A thread for what takes time, where one thing is done after the other."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    @property
    def is_running(self) -> bool:
        """Whether something can be done in it."""
        return self._executor is not None

    async def begin(self, work: Callable[..., object], *args: Any) -> None:
        """Start the thread with this; it ends again where that fails."""
        self._executor = self._executor or ThreadPoolExecutor(1, "crawlkit-store")
        try:
            await self.run(work, *args)
        except BaseException:
            self.end()
            raise

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Have something done in the thread, which runs."""
        assert self._executor is not None
        # Shielded: the thread cannot be stopped half-way, and what it did must not go unnoticed.
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *args)
        # And asyncio is not to print what went wrong where nobody waits for it any more.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(future)

    def end(self) -> None:
        """Wait for what is being done, and end the thread."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
