"""Signals: Ctrl-C and SIGTERM as events.

SIGTERM is what an orchestrator sends to a container that has to go, some seconds before it is
killed: it is a migration. The first Ctrl-C asks for a graceful stop, the second ends the process on
the spot; as nothing depends on an orderly end, that is safe too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable


class Signals:
    """Listens to the signals of this process while it is installed.

    Args:
        on_terminate: Called at SIGTERM.
        on_interrupt: Called at the first Ctrl-C.
    """

    def __init__(
        self, on_terminate: Callable[[], object], on_interrupt: Callable[[], object]
    ) -> None:
        self._on_terminate = on_terminate
        self._on_interrupt = on_interrupt
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

    def _terminate(self) -> None:
        self._on_terminate()

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            sys.stderr.write("stopped at once; the same command goes on from the last checkpoint\n")
            sys.stderr.flush()
            os._exit(128 + signal.SIGINT)
        self._on_interrupt()
