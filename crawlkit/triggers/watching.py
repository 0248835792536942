"""Watching: the triggers of a job, for as long as it is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from ..errors import one_line
from .base import Trigger, Watched
from .lastmoment import LastMoment
from .signals import Signals

log = logging.getLogger("crawlkit.triggers")


class Watching:
    """Runs triggers beside the work of a job.

    Args:
        triggers: The triggers.
    """

    def __init__(self, triggers: Iterable[Trigger]) -> None:
        self._triggers = tuple(triggers)
        self._tasks: list[asyncio.Task[None]] = []
        self._last_moment: LastMoment | None = None

    async def begin(self, job: Watched, *, grace: float | None) -> None:
        """Have them listen.

        Args:
            job: Whom they tell.
            grace: Seconds that the process has after a signal, where it is the job's; where it is
                None, signals are not listened to.
        """
        triggers = list(self._triggers)
        if grace is not None:
            self._last_moment = LastMoment()
            triggers.append(Signals(self._last_moment, grace))
        for trigger in triggers:
            self._tasks.append(asyncio.create_task(_watch(trigger, job)))
        await asyncio.sleep(0)  # they have begun

    def end_within(self, grace: float) -> None:
        """Have the process ended at the end of the grace, where it is the job's."""
        if self._last_moment is not None:
            self._last_moment.within(grace)

    async def end(self, patience: float) -> None:
        """Have the triggers end; one that does not let itself be cancelled is left behind."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        self._tasks.clear()

    def let_go(self) -> None:
        """The job has ended in order: the process may live on."""
        if self._last_moment is not None:
            self._last_moment.cancel()
            self._last_moment = None


async def _watch(trigger: Trigger, job: Watched) -> None:
    try:
        await trigger.watch(job)
    except Exception as error:
        log.error(
            "the trigger %s failed: %s; the crawl goes on without it",
            type(trigger).__name__,
            one_line(error),
        )
