"""Stopping: that a job is to end, until when its running work may go on, and why."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

from ..events import EventBus
from ..triggers.lastmoment import last_moment_of

RESERVE = 0.25
"""Share of the grace that is kept for the last checkpoint and the end of the process."""
LEAST_RESERVE = 0.75
"""Seconds that are kept of a short grace, but never more than half of it."""


def reserve_of(grace: float) -> float:
    """Seconds of the grace that are not for running work: the last checkpoint has to be written."""
    return max(grace * RESERVE, min(LEAST_RESERVE, grace / 2))


class Stopping:
    """Whether a job was told to stop, and how long what runs may still take.

    Whoever says it last can shorten that, and nobody can make it longer.

    Args:
        bus: Whose listeners have to hurry then.

    Attributes:
        failure: Why the job cannot go on, if it cannot.
    """

    def __init__(self, bus: EventBus) -> None:
        self.failure: Exception | None = None
        self._bus = bus
        self._saving = inf
        self._told = asyncio.Event()
        self._deadline: float | None = None
        self._body: asyncio.Task[Any] | None = None

    @property
    def is_told(self) -> bool:
        """Whether the job was told to stop: begin nothing new."""
        return self._told.is_set()

    async def told(self) -> None:
        """Wait until the job is told to stop."""
        await self._told.wait()

    @property
    def grace_left(self) -> float:
        """Seconds that running work still has; infinite while nobody has asked to stop."""
        if self._deadline is None:
            return inf
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    @property
    def time_to_ship(self) -> float | None:
        """Seconds that the last checkpoint has to get elsewhere; `None` where nobody waits."""
        return None if self._saving == inf else self.grace_left + self._saving / 2

    @property
    def last_patience(self) -> float:
        """Seconds that each listener has once the work has ended."""
        return min(self._bus.deadline, self._saving / 4)

    # -- telling it -------------------------------------------------------------------------------

    def within(self, seconds: float) -> None:
        """Stop: begin nothing new, and finish what runs within `seconds`."""
        deadline = asyncio.get_running_loop().time() + max(0.0, seconds)
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        self._told.set()
        self._interrupt_in_time()

    def within_grace(self, grace: float) -> None:
        """Stop, and have something of the grace left for the last checkpoint.

        A listener that hangs may take some of the grace, not all of it: one that is called while
        pages finish may take the time of the reserve, one that is called in the reserve a part.
        """
        reserve = reserve_of(grace)
        self.within(grace - reserve)
        self._bus.hurry(reserve)
        # The rest of it is not for saving: it is when a process that is still there is ended.
        self._saving = min(self._saving, reserve - last_moment_of(grace))

    def fail(self, error: Exception) -> None:
        """Stop at once, as the job cannot go on; the first error counts."""
        if self.failure is None:
            self.failure = error
            self.within(0.0)

    # -- the block of an `async with` -------------------------------------------------------------

    def will_interrupt(self, body: asyncio.Task[Any] | None) -> None:
        """Cancel `body` once its time is over, also where it was told to stop before it began."""
        self._body = body
        self._interrupt_in_time()

    def let_go(self) -> asyncio.Task[Any] | None:
        """Cancel nothing any more; what would have been."""
        body, self._body = self._body, None
        return body

    def _interrupt_in_time(self) -> None:
        if self._body is not None and self._deadline is not None:
            asyncio.get_running_loop().call_at(self._deadline, self._interrupt)

    def _interrupt(self) -> None:
        if self._body is not None:
            self._body.cancel()
