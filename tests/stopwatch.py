"""A stopwatch for a machine that is busy with other things.

What a program promises in seconds it can keep only while it is let run. So a test of such a promise
does not count the time for which threads were ready to run, and another process had the processor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

EARLY = 0.02
"""Seconds by which a server may see a request sooner: what the network and two event loops take."""


class Stopwatch:
    """Runs from when it is made.

    Args:
        pids: The processes that have to run meanwhile beside this one.

    Attributes:
        began: When that was, on the monotonic clock.
    """

    def __init__(self, pids: Callable[[], Iterable[int]] = tuple) -> None:
        self._pids = pids
        self._before = self._waits()
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since then, but for those in `starved`."""
        return self.elapsed - self.starved

    @property
    def elapsed(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.began

    @property
    def starved(self) -> float:
        """For how many of them threads were kept waiting for a processor, one after the other."""
        now = self._waits().items()
        return sum(wait - self._before.get(thread, 0.0) for thread, wait in now)

    def _waits(self) -> dict[str, float]:
        waits: dict[str, float] = {}
        for pid in (os.getpid(), *self._pids()):
            waits |= waits_of(pid)
        return waits


def assert_apart(times: Sequence[float], delay: float, took: Stopwatch) -> None:
    """Requests came one after the other with a delay in between, or more.

    A server that was kept waiting sees the first of two late, and the second too soon after it. But
    it never sees one before its time.

    Args:
        times: When a server saw them, on the monotonic clock.
        delay: Seconds.
        took: A stopwatch of this process, made before the first of them was sent.
    """
    for number, at in enumerate(times):
        assert at - took.began >= number * delay - EARLY, f"request {number} came before its time"
    assert min(later - earlier for earlier, later in pairwise(times)) >= (
        delay - EARLY - took.starved
    )


def waits_of(pid: int) -> dict[str, float]:
    """Seconds for which each thread of a process was ready to run and did not.

    From ``schedstat`` of Linux (Documentation/scheduler/sched-stats.rst); elsewhere there is none.
    """
    waits = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, IndexError):
            waits[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return waits
