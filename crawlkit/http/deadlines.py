"""Deadlines: the end of everything that takes too long, with one timer for all of it."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadlines:
    """Ends everything that takes longer than a limit, with one timer for all of it.

    All have the same limit, so they are over in the order in which they began. A timer for each,
    as `asyncio.timeout` makes it, takes longer than all else that crawlkit adds to a fetch.

    Args:
        seconds: The limit.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: Deadline, loop: asyncio.AbstractEventLoop) -> None:
        """It begins."""
        end = loop.time() + self._seconds
        self._running[deadline] = end
        if self._timer is None:
            self._timer = loop.call_at(end, self._look, loop)

    def remove(self, deadline: Deadline) -> None:
        """It was met."""
        self._running.pop(deadline, None)

    def close(self) -> None:
        """Let the timer go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for deadline, end in tuple(self._running.items()):
            if end > now:
                self._timer = loop.call_at(end, self._look, loop)
                break
            del self._running[deadline]
            deadline.miss()


class Deadline:
    """A context manager that raises `TimeoutError`; see `asyncio.Timeout`, whose ways it has.

    Attributes:
        is_missed: Whether the time is over. A `TimeoutError` may have come from elsewhere.
    """

    __slots__ = ("_cancelling", "_deadlines", "_task", "is_missed")

    _task: asyncio.Task[object]

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self.is_missed = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a fetch must run in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._deadlines.add(self, task.get_loop())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines.remove(self)
        # A task that was cancelled from outside, too, goes on being cancelled.
        if (
            self.is_missed
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error

    def miss(self) -> None:
        """The time is over."""
        self.is_missed = True
        self._task.cancel()
