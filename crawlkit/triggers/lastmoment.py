"""LastMoment: the end of a process whose grace is over.

Whoever told it to go would kill it a moment later, and its exit code would say nothing. Nothing
that was saved depends on an orderly end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from math import inf
from queue import Empty, SimpleQueue
from traceback import walk_stack
from typing import NoReturn, TypeAlias

EXIT_UNFINISHED = 75
"""What a process ends with that was stopped before its work was done: ``EX_TEMPFAIL`` of BSD's
sysexits.h, an invitation to start it again."""

LAST_MOMENT = 0.05
"""Share of the grace before whose end a process that has not ended in order is ended."""
LEAST_LAST_MOMENT = 0.25
"""Seconds for it of a short grace, but never more than an eighth of it. On a busy machine it takes
time until a thread has woken up, and a process is not gone while one of them writes to a disk."""
REASON = "stopped at the end of the grace, as something did not end"
PATIENCE = 0.5
"""Seconds that a process which is ended on the spot takes for its last words, at most."""

_Order: TypeAlias = tuple[float, str, int, float]
"""When to end the process, by the monotonic clock; why; the exit code; seconds for its words."""


def last_moment_of(grace: float) -> float:
    """How many seconds before the end of its grace a process is ended that has not ended."""
    return max(grace * LAST_MOMENT, min(LEAST_LAST_MOMENT, grace / 8))


class LastMoment:
    """Ends the process at the end of its grace, where it has not ended by itself.

    In a thread, as the event loop may be what is blocked. It waits from the start on, since the
    handler of a signal, which interrupts the main thread anywhere, cannot start one: `threading`
    has locks that the main thread may hold in that moment.
    """

    def __init__(self) -> None:
        # Its `put` may interrupt another one, as the handler of a signal does.
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        threading.Thread(target=self._wait, name="crawlkit-last-moment", daemon=True).start()

    def within(self, grace: float) -> None:
        """The process is to be gone in `grace` seconds, if there is one at least."""
        # With less than a second, a process that is slow to end cannot be told from one that hangs.
        if grace >= 1.0:
            last = last_moment_of(grace)
            at = time.monotonic() + grace - last
            self._orders.put((at, REASON, EXIT_UNFINISHED, last / 2))

    def now(self, reason: str, code: int) -> None:
        """The process is to be gone on the spot."""
        self._orders.put((time.monotonic(), reason, code, PATIENCE))

    def cancel(self) -> None:
        """It may live on."""
        self._orders.put(None)

    def _wait(self) -> None:
        first: _Order | None = None
        while True:
            left = inf if first is None else first[0] - time.monotonic()
            try:
                order = self._orders.get(timeout=None if left == inf else max(0.0, left))
            except Empty:
                assert first is not None
                _exit(*first[1:])
            if order is None:
                return
            # Whoever says it last can shorten the grace, and nobody can make it longer.
            first = order if first is None else min(first, order)


def _exit(reason: str, code: int, patience: float) -> NoReturn:
    # Said in a thread, as that may take for ever: who is to read it does not, and the pipe is full.
    try:
        saying = threading.Thread(target=_say, args=(reason,), daemon=True)
        saying.start()
        saying.join(patience)
    finally:
        os._exit(code)


def _say(reason: str) -> None:
    place = _place_in_crawler()
    sys.stderr.write(
        f"{reason}{place and f', in {place}'}; the same command goes on from the last checkpoint\n"
    )
    sys.stderr.flush()


def _place_in_crawler() -> str:
    """``file:line`` in the user's crawler that the event loop is at, if it is at one."""
    # Imported here, as it brings a part of the crawler along; whoever has one has it.
    from ..counting.errorgroups import place_below_runner

    main = sys._current_frames()[threading.main_thread().ident or 0]
    return place_below_runner(reversed(list(walk_stack(main))))
