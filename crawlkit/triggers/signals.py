"""Signals: Ctrl-C and SIGTERM as events.

SIGTERM is what an orchestrator sends to a container that has to go, some seconds before it is
killed: it is a migration. The first Ctrl-C asks for a graceful stop, the second ends the process on
the spot; as nothing depends on an orderly end, that is safe too.

The end of the grace ends it as well, where something blocks the event loop or does not let go:
whoever sent the signal would kill it a moment later, and its exit code would say nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from .base import Watched

log = logging.getLogger("crawlkit.triggers")

EXIT_UNFINISHED = 75
"""What a process ends with that was stopped before its work was done: ``EX_TEMPFAIL`` of BSD's
sysexits.h, an invitation to start it again."""

LAST_MOMENT = 0.05
"""Share of the grace before whose end a process that has not ended in order is ended."""
LEAST_LAST_MOMENT = 0.25
"""Seconds for it of a short grace, but never more than an eighth of it. On a busy machine it takes
time until a thread has woken up, and a process is not gone while one of them writes to a disk."""
PATIENCE = 0.5
"""Seconds that a process which is ended on the spot takes for its last words, at most."""


def last_moment_of(grace: float) -> float:
    """How many seconds before the end of its grace a process is ended that has not ended."""
    return max(grace * LAST_MOMENT, min(LEAST_LAST_MOMENT, grace / 8))


class Signals:
    """Listens to the signals of this process; only in its main thread, where they arrive."""

    def __init__(self) -> None:
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
                    self._interrupts += 1
                    if self._interrupts > 1:
                        _exit("stopped at once", 128 + signal.SIGINT, PATIENCE)
                    log.info(
                        "stopping: finishing what runs, then saving (Ctrl-C again stops at once)"
                    )
                    told.create_task(job.abort())

                self._listen(loop, signal.SIGTERM, terminate)
                self._listen(loop, signal.SIGINT, interrupt)
                await loop.create_future()  # until it is cancelled
        finally:
            while self._installed:
                loop.remove_signal_handler(self._installed.pop())

    def _listen(
        self, loop: asyncio.AbstractEventLoop, number: signal.Signals, react: Callable[[], None]
    ) -> None:
        try:
            loop.add_signal_handler(number, react)
        except (NotImplementedError, RuntimeError, ValueError):
            return
        self._installed.append(number)


class LastMoment:
    """Ends the process at the end of its grace, where it has not ended by itself.

    In a thread, as the event loop may be what is blocked.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._at = 0.0

    def within(self, grace: float) -> None:
        """The process is to be gone in `grace` seconds, if there is one at least."""
        last = last_moment_of(grace)
        seconds = grace - last
        at = time.monotonic() + seconds
        # With less than a second, a process that is slow to end cannot be told from one that hangs.
        if grace < 1.0 or (self._timer is not None and at >= self._at):
            return
        self.cancel()
        self._at = at
        self._timer = threading.Timer(
            seconds,
            _exit,
            (
                "stopped at the end of the grace, as something did not end",
                EXIT_UNFINISHED,
                last / 2,
            ),
        )
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """It has ended in order."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _exit(reason: str, code: int, patience: float) -> NoReturn:
    # Said in a thread, as that may take for ever: who is to read it does not, and the pipe is full.
    try:
        saying = threading.Thread(target=_say, args=(reason,), daemon=True)
        saying.start()
        saying.join(patience)
    finally:
        os._exit(code)


def _say(reason: str) -> None:
    sys.stderr.write(f"{reason}; the same command goes on from the last checkpoint\n")
    sys.stderr.flush()
