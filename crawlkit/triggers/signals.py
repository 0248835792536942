"""Signals: Ctrl-C and SIGTERM as events.

SIGTERM is what an orchestrator sends to a container that has to go, some seconds before it is
killed: it is a migration. The first Ctrl-C asks for a graceful stop, the second ends the process on
the spot; as nothing depends on an orderly end, that is safe too.

The end of the grace ends it as well, where something blocks the event loop or does not let go:
whoever sent the signal would kill it a moment later, and its exit code would say nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

EXIT_UNFINISHED = 75
"""What a process ends with that was stopped before its work was done: ``EX_TEMPFAIL`` of BSD's
sysexits.h, an invitation to start it again."""

LAST_MOMENT = 0.95
"""Share of the grace after which a process that has not ended in order is ended."""


class Signals:
    """Listens to the signals of this process while it is installed.

    Args:
        on_terminate: Called at SIGTERM.
        on_interrupt: Called at the first Ctrl-C.
        grace: Seconds after a signal within which the process is gone, if there is one at least.
    """

    def __init__(
        self,
        on_terminate: Callable[[], object],
        on_interrupt: Callable[[], object],
        *,
        grace: float,
    ) -> None:
        self._on_terminate = on_terminate
        self._on_interrupt = on_interrupt
        self._grace = grace
        self._last_moment: threading.Timer | None = None
        self._installed: list[signal.Signals] = []
        self._interrupts = 0

    def install(self) -> None:
        """Start listening. Does nothing outside the main thread, where signals do not arrive."""
        loop = asyncio.get_running_loop()
        for number, react in ((signal.SIGTERM, self._terminate), (signal.SIGINT, self._interrupt)):
            try:
                loop.add_signal_handler(number, react)
            except (NotImplementedError, RuntimeError, ValueError):
                continue
            self._installed.append(number)

    def remove(self) -> None:
        """Stop listening."""
        loop = asyncio.get_running_loop()
        while self._installed:
            loop.remove_signal_handler(self._installed.pop())
        if self._last_moment is not None:
            self._last_moment.cancel()

    def _terminate(self) -> None:
        self._end_in_time()
        self._on_terminate()

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            _exit("stopped at once", 128 + signal.SIGINT)
        self._end_in_time()
        self._on_interrupt()

    def _end_in_time(self) -> None:
        # With less than a second, a process that is slow to end cannot be told from one that hangs.
        if self._last_moment is None and self._grace >= 1.0:
            # A thread, as the event loop may be what is blocked.
            timer = threading.Timer(
                self._grace * LAST_MOMENT,
                _exit,
                ("stopped at the end of the grace, as something did not end", EXIT_UNFINISHED),
            )
            timer.daemon = True
            timer.start()
            self._last_moment = timer


def _exit(reason: str, code: int) -> NoReturn:
    sys.stderr.write(f"{reason}; the same command goes on from the last checkpoint\n")
    sys.stderr.flush()
    os._exit(code)
