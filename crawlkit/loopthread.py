"""An event loop in a thread of its own, for those who cannot wait in one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own; it runs from the start until `close`.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T], *, timeout: float | None = None) -> T:
        """Do some work over there, and wait for it here.

        Args:
            work: What to await.
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: It took longer.
            Exception: What the work raises.
        """

        async def wrapped() -> T:
            return await work

        future = asyncio.run_coroutine_threadsafe(wrapped(), self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits for it any more
            raise

    def close(self) -> None:
        """End the loop, and what still runs in it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        with contextlib.closing(self._loop) as loop:
            if unanswered := asyncio.all_tasks(loop):
                for task in unanswered:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(unanswered))
            loop.run_until_complete(loop.shutdown_asyncgens())
