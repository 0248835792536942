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
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, deadline: Deadline) -> asyncio.Task[object]:
        """It begins; the task that it is for."""
        # To ask for the loop that is running is a system call.
        loop = self._loop
        task = None if loop is None else asyncio.current_task(loop)
        if loop is None or task is None:
            loop = self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a fetch must run in a task")
        end = loop.time() + self._seconds
        self._running[deadline] = end
        if self._timer is None:
            self._timer = loop.call_at(end, self._look, loop)
        return task

    def remove(self, deadline: Deadline) -> None:
        """It was met."""
        self._running.pop(deadline, None)

    def close(self) -> None:
        """Let the timer and the loop go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None

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
        self._task = task = self._deadlines.add(self)
        self._cancelling = task.cancelling()

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
