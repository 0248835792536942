"""Signals: Ctrl-C and SIGTERM as events.

SIGTERM is what an orchestrator sends to a container that has to go, some seconds before it is
killed: it is a migration. The first Ctrl-C asks for a graceful stop, the second ends the process on
the spot; as nothing depends on an orderly end, that is safe too.

The grace begins when the signal arrives, also where something blocks the event loop then; and so
the second Ctrl-C is obeyed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

from .base import Watched
from .lastmoment import LastMoment

log = logging.getLogger("crawlkit.triggers")


class Signals:
    """Listens to the signals of this process; only in its main thread, where they arrive.

    Args:
        last_moment: Ends the process where it does not end by itself.
        grace: Seconds that it has after a signal.
    """

    def __init__(self, last_moment: LastMoment, grace: float) -> None:
        self._last_moment = last_moment
        self._grace = grace
        self._installed: list[signal.Signals] = []
        self._interrupts = 0

    async def watch(self, job: Watched) -> None:
        """Tell `job` of each signal."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as told:

                def terminate() -> None:
                    log.info("told to go (SIGTERM): finishing what runs, then saving")
                    told.create_task(job.migrate())

                def interrupt() -> None:
                    log.info(
                        "stopping: finishing what runs, then saving (Ctrl-C again stops at once)"
                    )
                    told.create_task(job.abort())

                self._listen(loop, signal.SIGTERM, terminate, self._begin_grace)
                self._listen(loop, signal.SIGINT, interrupt, self._count_interrupt)
                await loop.create_future()  # until it is cancelled
        finally:
            while self._installed:
                loop.remove_signal_handler(self._installed.pop())

    def _listen(
        self,
        loop: asyncio.AbstractEventLoop,
        number: signal.Signals,
        react: Callable[[], None],
        at_once: Callable[[], None],
    ) -> None:
        try:
            loop.add_signal_handler(number, react)
        except (NotImplementedError, RuntimeError, ValueError):
            return
        self._installed.append(number)
        of_loop = signal.getsignal(number)

        # The loop hears of a signal by a byte in a pipe, when it comes to reading that. This is
        # called as soon as the main thread executes Python, or sleeps in it.
        def heard(number: int, frame: FrameType | None) -> None:
            at_once()
            if callable(of_loop):
                of_loop(number, frame)

        signal.signal(number, heard)
        signal.siginterrupt(number, False)  # as the loop had it: system calls begin again

    def _begin_grace(self) -> None:
        self._last_moment.within(self._grace)

    def _count_interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self._last_moment.now("stopped at once", 128 + signal.SIGINT)
        else:
            self._begin_grace()
